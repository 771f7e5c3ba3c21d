"""One environment of any flavour behind one interface: gymnasium, gym 0.26, the older 4-tuple gym, plain classes."""

from __future__ import annotations

import copy
import difflib
import importlib
import importlib.util
import inspect
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any

from really.envs.vector_api import SingleOfVector
from really.errors import EnvironmentFailedError, InvalidTypeError, InvalidValueError

log = logging.getLogger("really")

# `elapsed >= NO_LIMIT` is never true: an episode without a time limit needs no test of its own.
NO_LIMIT = sys.maxsize

StepResult = tuple[Any, Any, Any, Any, Any]


class Environment:
    """One environment: `reset(seed) -> observation`, `step(action) -> (obs, reward, terminated, truncated, info)`.

    `step` starts as a function that finds out on its first call whether the environment gives four or five
    values; take it from the attribute anew once `is_known` to call the environment itself.

    Args:
        env: the environment itself
        limit: steps after which an episode is truncated by whoever steps it; NO_LIMIT where `env` does that itself
        is_ours: whether `close` closes it
    """

    def __init__(self, env: Any, limit: int = NO_LIMIT, is_ours: bool = True) -> None:
        self.env = env
        self.limit = limit
        self._is_ours = is_ours
        self.step: Callable[[Any], StepResult] = self._first_step
        self.is_known = False
        self._resets_with_seed = _takes_seed(env)

    def reset(self, seed: int | None = None) -> Any:
        """Begins an episode and returns its first observation; a seed restarts the environment's generator."""
        if seed is not None:
            self._seed_spaces(seed)
        if seed is not None and self._resets_with_seed:
            result = self.env.reset(seed=seed)
        else:
            if seed is not None and callable(getattr(self.env, "seed", None)):
                self.env.seed(seed)
            result = self.env.reset()
        return result[0] if self._has_info(result) else result

    def render(self, mode: str | None) -> Any:
        """A frame, in the old API's way (`render(mode=...)`) where the environment has that one."""
        if hasattr(self.env, "render_mode") or "mode" not in _parameters(self.env.render):
            return self.env.render()
        return self.env.render(mode=mode)

    def close(self) -> None:
        """Closes the environment; plain classes need no `close`."""
        if self._is_ours and callable(getattr(self.env, "close", None)):
            self.env.close()

    def _first_step(self, action: Any) -> StepResult:
        result = self.env.step(action)
        if not isinstance(result, tuple) or len(result) not in (4, 5):
            got = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"{type(result)}"
            raise TypeError(
                "step: expected (observation, reward, terminated, truncated, info) "
                f"or the older (observation, reward, done, info), got {got}"
            )
        self.is_known = True
        if len(result) == 5:
            self.step = self.env.step
            return result
        self.step = self._old_step
        return _from_old(*result)

    def _old_step(self, action: Any) -> StepResult:
        return _from_old(*self.env.step(action))

    def _has_info(self, result: Any) -> bool:
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            return False
        # An old environment's observation may be a pair with a dict in it; its space knows.
        space: Any = getattr(self.env, "observation_space", None)
        parts = [type(part).__name__ for part in space.spaces] if type(space).__name__ == "Tuple" else []
        return parts[1:] != ["Dict"] or not space.contains(result)

    def _seed_spaces(self, seed: int) -> None:
        """Environments that sample their own spaces repeat too."""
        for name in ("action_space", "observation_space"):
            space = getattr(self.env, name, None)
            if space is not None and callable(getattr(space, "seed", None)):
                space.seed(seed)


def _from_old(observation: Any, reward: Any, done: Any, info: Any) -> StepResult:
    """Five values from the old four: a done by the time limit is a truncation and no termination."""
    truncated = bool(done and isinstance(info, Mapping) and info.get("TimeLimit.truncated", False))
    return observation, reward, bool(done) and not truncated, truncated, info


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def accepts(function: Any, name: str) -> bool:
    """Whether `function` can be called with the keyword argument `name`."""
    parameters = _parameters(function)
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _takes_seed(env: Any) -> bool:
    """Wrappers pass `**kwargs` on, so the innermost `reset` must know `seed` as well."""
    innermost = getattr(env, "unwrapped", env)
    return accepts(env.reset, "seed") and accepts(innermost.reset, "seed")


class InstanceSource:
    """Copies of an instance: each environment gets one, so that the user's own stays as it is."""

    def __init__(self, instance: Any) -> None:
        self._instance = instance
        self._given_away = False

    def lend(self) -> Environment:
        """A copy to look at; where that fails the instance itself, which is then not to be closed."""
        try:
            return Environment(copy.deepcopy(self._instance))
        except Exception:
            return Environment(self._instance, is_ours=False)

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A copy; where that fails the instance itself, once. `config` has been used before: it must be empty."""
        if config:
            raise InvalidValueError(f"env_config: expected nothing with an instance as environment, got {dict(config)}")
        try:
            return Environment(copy.deepcopy(self._instance))
        except Exception as error:
            if self._given_away:
                raise InvalidTypeError(
                    f"environment: expected an instance that copy.deepcopy can copy, since more than one is "
                    f"needed, got {self._instance!r}, which raised {type(error).__name__}: {error}. "
                    f"Give its class or a factory instead."
                ) from error
            self._given_away = True
            return Environment(self._instance)


class FactorySource:
    """A class or any other callable that makes an environment from `env_config`."""

    def __init__(self, factory: Callable[..., Any]) -> None:
        self._factory = factory

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A new environment; `render_mode` is passed on where the factory takes it and `config` has none."""
        extra = {}
        if render_mode is not None and "render_mode" not in config and accepts(self._factory, "render_mode"):
            extra["render_mode"] = render_mode
        env = self._factory(**config, **extra)
        if not (hasattr(env, "reset") and hasattr(env, "step")):
            raise InvalidTypeError(
                f"environment: expected {self._factory!r} to return an object with reset and step, got {type(env)}"
            )
        return Environment(env)


class IdSource:
    """An id of gymnasium's registry; makes environments without the wrappers that only check."""

    def __init__(self, name: str) -> None:
        self._name = name

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A new environment; the time limit is left to the caller where no other wrapper stands around it."""
        import gymnasium

        options = dict(config)
        limit = options.pop("max_episode_steps", None)
        if render_mode is not None:
            options.setdefault("render_mode", render_mode)
        with logged_warnings():
            spec = copy.deepcopy(gymnasium_spec(self._name))
            spec.order_enforce = False
            if spec.additional_wrappers:
                env = gymnasium.make(spec, max_episode_steps=limit, disable_env_checker=True, **options)
                return Environment(env)
            env = gymnasium.make(spec, max_episode_steps=-1, disable_env_checker=True, **options)
        limit = spec.max_episode_steps if limit is None else limit
        return Environment(env, NO_LIMIT if limit is None or limit < 0 else limit)

    def make_vector(self, num_envs: int, config: Mapping[str, Any], render_mode: str | None) -> Any:
        """The id's own vector environment; None where it has none."""
        import gymnasium

        options = {**({} if render_mode is None else {"render_mode": render_mode}), **config}
        with logged_warnings():
            spec = gymnasium_spec(self._name)
            if spec.vector_entry_point is None or spec.additional_wrappers:
                return None
            return gymnasium.make_vec(spec, num_envs=num_envs, vectorization_mode="vector_entry_point", **options)


class GymIdSource:
    """An id that only real gym knows."""

    def __init__(self, name: str) -> None:
        self._name = name

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A new environment within gym's own wrappers, its time limit among them."""
        gym = import_gym()
        options = dict(config)
        if render_mode is not None:
            options.setdefault("render_mode", render_mode)
        with logged_warnings():
            # gym's checker uses names that NumPy 2 no longer has.
            return Environment(gym.make(self._name, disable_env_checker=True, **options))


class VectorSource:
    """Whatever makes gymnasium vector environments of any size: what `really.atari` returns, a class, a factory."""

    def __init__(self, factory: Callable[..., Any]) -> None:
        self.factory = factory

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A vector environment of size one as a single environment."""
        return Environment(SingleOfVector(self.make_vector(1, config, render_mode)))

    def make_vector(self, num_envs: int, config: Mapping[str, Any], render_mode: str | None) -> Any:
        """A new vector environment with `num_envs` environments."""
        extra: dict[str, Any] = {"num_envs": num_envs}
        if render_mode is not None and accepts(self.factory, "render_mode"):
            extra["render_mode"] = render_mode
        vector = self.factory(**{**extra, **config})
        if getattr(vector, "num_envs", None) != num_envs or not hasattr(vector, "single_observation_space"):
            raise InvalidTypeError(
                f"environment: expected {self.factory!r} to return a gymnasium VectorEnv with num_envs={num_envs}, "
                f"got {vector!r}"
            )
        return vector


Source = InstanceSource | FactorySource | IdSource | GymIdSource | VectorSource


def source_of(environment: Any) -> Source:
    """What makes environments out of what the user gave.

    Raises InvalidValueError for an unknown id, InvalidTypeError for what is no environment at all.
    """
    if isinstance(environment, str):
        return _source_of_id(environment)
    if hasattr(environment, "make_vector"):
        return VectorSource(environment.make_vector)
    if hasattr(environment, "single_observation_space"):
        raise InvalidTypeError(
            f"environment: expected a class or factory that takes num_envs, since a vector environment of the right "
            f"size is made for each runner, got the vector environment {environment!r}"
        )
    if callable(environment) and _makes_vectors(environment):
        return VectorSource(environment)
    if not isinstance(environment, type) and hasattr(environment, "reset") and hasattr(environment, "step"):
        return InstanceSource(environment)
    if callable(environment):
        return FactorySource(environment)
    raise InvalidTypeError(
        "environment: expected an id, a class, a factory or an instance with reset and step, "
        f"got {type(environment)}: {environment!r}"
    )


def _makes_vectors(factory: Callable[..., Any]) -> bool:
    """A subclass of gymnasium's VectorEnv, or a function with an argument `num_envs`."""
    if isinstance(factory, type):
        from gymnasium.vector import VectorEnv

        return issubclass(factory, VectorEnv)
    return "num_envs" in _parameters(factory)


def _source_of_id(name: str) -> IdSource | GymIdSource:
    with logged_warnings():
        try:
            gymnasium_spec(name)
        except _unregistered() as error:
            if _gym_knows(name):
                log.info("environment %r: not known to gymnasium, taken from gym", name)
                return GymIdSource(name)
            raise InvalidValueError(_unknown_id(name, error)) from error
    return IdSource(name)


def gymnasium_spec(name: str) -> Any:
    """The registered spec of an id; ale_py's ids are registered when one is asked for."""
    import gymnasium
    from gymnasium.envs.registration import _find_spec

    try:
        return _find_spec(name)
    except _unregistered():
        if "ale_py" in sys.modules or importlib.util.find_spec("ale_py") is None:
            raise
        gymnasium.register_envs(importlib.import_module("ale_py"))
        return _find_spec(name)


def _unregistered() -> tuple[type[Exception], ...]:
    """Unknown, outdated and malformed ids, and ids of a package that is not there."""
    from gymnasium import error

    return error.Error, ModuleNotFoundError


def _gym_knows(name: str) -> bool:
    if importlib.util.find_spec("gym") is None:
        return False
    gym = import_gym()
    with logged_warnings():
        try:
            gym.spec(name)
        except (gym.error.Error, ModuleNotFoundError):
            return False
    return True


def import_gym() -> Any:
    """Real gym, without the note on its age that it prints and warns with."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return importlib.import_module("gym")


def _unknown_id(name: str, error: Exception) -> str:
    import gymnasium

    known = list(gymnasium.registry)
    if "gym" in sys.modules:
        known += list(sys.modules["gym"].envs.registry)
    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
    return f"environment: expected an id of gymnasium or gym, got {name!r}.{hint} (gymnasium: {error})"


@contextmanager
def logged_warnings() -> Iterator[None]:
    """Turns the warnings of registries and constructors (a deprecated version, say) into log lines."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        log.info("%s", message)


def failure(where: str, error: Exception) -> EnvironmentFailedError:
    """The error to raise from `error`: where it happened, what it was, and the whole traceback as text."""
    text = "".join(traceback.format_exception(error))
    summary = f"{where}: {type(error).__name__}: {error}"
    return EnvironmentFailedError(f"{summary}\n\nOriginal traceback:\n{text}")
