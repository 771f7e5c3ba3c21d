"""Sources: make environments from what the user gave: an id, a class, a factory or an instance."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from really._utils.packages import check_installed, needed
from really.envs.environment import NO_LIMIT, Environment, accepts, logged_warnings, parameters
from really.envs.real_gym import fails_in_gym, gym_spec, import_gym, without_checker
from really.envs.single_of_vector import SingleOfVector
from really.errors import InvalidTypeError, InvalidValueError, did_you_mean

log = logging.getLogger("really")

EXTRAS = ("box2d", "mujoco")
"""Extras of gymnasium that are extras of this package, too."""


class InstanceSource:
    """Makes copies of the user's instance, which itself stays as it is."""

    def __init__(self, instance: Any) -> None:
        self._instance = instance
        self._is_used = False

    def borrow(self) -> Environment:
        """A copy to inspect. If it cannot be copied, the instance itself, which `close` then leaves open."""
        try:
            return Environment(without_checker(copy.deepcopy(self._instance)))
        except Exception:
            return Environment(self._instance, is_owned=False)

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A copy. If it cannot be copied, the instance itself, but only once. `config` must be empty."""
        if config:
            raise InvalidValueError(f"env_config: expected nothing with an instance as environment, got {dict(config)}")
        try:
            return Environment(without_checker(copy.deepcopy(self._instance)))
        except Exception as error:
            if self._is_used:
                raise InvalidTypeError(
                    f"environment: expected an instance that copy.deepcopy can copy, since more than one is "
                    f"needed, got {self._instance!r}, which raised {type(error).__name__}: {error}. "
                    f"Give its class or a factory instead."
                ) from error
            self._is_used = True
            return Environment(without_checker(self._instance))


class FactorySource:
    """Calls a class or another callable with `env_config`."""

    def __init__(self, factory: Callable[..., Any]) -> None:
        self._factory = factory

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A new environment. The factory gets `render_mode` if it accepts it and `config` has none."""
        extra: dict[str, Any] = {}
        if "render_mode" not in config and _takes_render_mode(self._factory, render_mode):
            extra["render_mode"] = render_mode
        env = self._factory(**config, **extra)
        _refuse_vector_of_sb3(env)
        _refuse_made_vector(env)
        if not (hasattr(env, "reset") and hasattr(env, "step")):
            raise InvalidTypeError(
                f"environment: expected {self._factory!r} to return an object with reset and step, got {type(env)}"
            )
        return Environment(without_checker(env))


class IdSource:
    """Makes environments of the id `name` in gymnasium's registry, without the wrappers that only check."""

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A new environment. The caller applies the time limit, unless the id has wrappers of its own."""
        import gymnasium

        options = dict(config)
        limit = options.pop("max_episode_steps", None)
        if render_mode is not None:
            options.setdefault("render_mode", render_mode)
        with logged_warnings():
            spec = copy.deepcopy(gymnasium_spec(self.name))
            spec.order_enforce = False
            if spec.additional_wrappers:
                env = gymnasium.make(spec, max_episode_steps=limit, disable_env_checker=True, **options)
                return Environment(env)
            env = gymnasium.make(spec, max_episode_steps=-1, disable_env_checker=True, **options)
        limit = spec.max_episode_steps if limit is None else limit
        return Environment(env, NO_LIMIT if limit is None or limit < 0 else limit)

    def make_vector(self, num_envs: int, config: Mapping[str, Any], render_mode: str | None) -> Any:
        """The id's own vector environment. Returns None if it has none."""
        import gymnasium

        options = {**({} if render_mode is None else {"render_mode": render_mode}), **config}
        with logged_warnings():
            spec = gymnasium_spec(self.name)
            if spec.vector_entry_point is None or spec.additional_wrappers:
                return None
            return gymnasium.make_vec(spec, num_envs=num_envs, vectorization_mode="vector_entry_point", **options)


class GymIdSource:
    """Makes environments of an id that only real gym knows."""

    def __init__(self, name: str) -> None:
        self._name = name

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A new environment in gym's own wrappers, which include the time limit."""
        gym = import_gym()
        options = dict(config)
        if render_mode is not None:
            options.setdefault("render_mode", render_mode)
        with logged_warnings():
            # gym's checker uses names that NumPy 2 no longer has.
            return Environment(gym.make(self._name, disable_env_checker=True, **options))


class VectorSource:
    """Makes gymnasium vector environments of any size, by a class, a factory or the result of `really.atari`."""

    def __init__(self, factory: Callable[..., Any]) -> None:
        self.factory = factory

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A vector environment of size one, as a single environment."""
        return Environment(SingleOfVector(self.make_vector(1, config, render_mode)))

    def make_vector(self, num_envs: int, config: Mapping[str, Any], render_mode: str | None) -> Any:
        """A new vector environment with `num_envs` environments."""
        extra: dict[str, Any] = {"num_envs": num_envs}
        if _takes_render_mode(self.factory, render_mode):
            extra["render_mode"] = render_mode
        vector = self.factory(**{**extra, **config})
        if getattr(vector, "num_envs", None) != num_envs or not hasattr(vector, "single_observation_space"):
            raise InvalidTypeError(
                f"environment: expected {self.factory!r} to return a gymnasium VectorEnv with num_envs={num_envs}, "
                f"got {vector!r}"
            )
        return vector


def _takes_render_mode(factory: Callable[..., Any], render_mode: str | None) -> bool:
    """Whether to pass `render_mode`: None only to a factory whose parameter `render_mode` has no default."""
    if render_mode is not None:
        return accepts(factory, "render_mode")
    parameter = parameters(factory).get("render_mode")
    return parameter is not None and parameter.default is parameter.empty


EnvironmentSource = InstanceSource | FactorySource | IdSource | GymIdSource | VectorSource


def source_of(environment: Any, config: Mapping[str, Any]) -> EnvironmentSource:
    """The source for the environment that the user gave; `config` has the arguments with which it will be made.

    Raises:
        InvalidValueError: the id is unknown.
        InvalidTypeError: this is no environment, class or factory.
    """
    if isinstance(environment, str):
        return _source_of_id(environment, config)
    if hasattr(environment, "make_vector"):
        return VectorSource(environment.make_vector)
    if hasattr(environment, "single_observation_space"):
        raise InvalidTypeError(
            f"environment: expected a class or factory that takes num_envs, since a vector environment of the right "
            f"size is made for each runner, got the vector environment {environment!r}"
        )
    _refuse_vector_of_sb3(environment)
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


def _refuse_vector_of_sb3(environment: Any) -> None:
    """Raises InvalidTypeError for a VecEnv of Stable-Baselines3, whose `reset` and `step` are of a whole batch."""
    kind = environment if isinstance(environment, type) else type(environment)
    # Of the class, since some environments answer to every name.
    if all(hasattr(kind, name) for name in ("step_async", "step_wait", "env_method")):
        count = getattr(environment, "num_envs", None)
        parallel = count if isinstance(count, int) else "n"
        raise InvalidTypeError(
            f"environment: expected the id, class or factory of a single environment, got {kind.__name__}, a "
            f"vectorised environment of Stable-Baselines3; give the function that makes one of its environments, with "
            f"num_parallel={parallel}"
        )


def _refuse_made_vector(environment: Any) -> None:
    """Raises InvalidTypeError for a vector environment of gymnasium whose factory gives it a number of its own."""
    from gymnasium.vector import VectorEnv

    if isinstance(environment, VectorEnv):
        raise InvalidTypeError(
            f"environment: expected one environment, or a factory that takes num_envs, since a vector environment of "
            f"the right size is made for each runner, got {type(environment).__name__} of {environment.num_envs}; give "
            f"the function that makes one of its environments, with num_parallel={environment.num_envs}"
        )


def _makes_vectors(factory: Callable[..., Any]) -> bool:
    """Whether this is a subclass of gymnasium's VectorEnv, or a function with an argument `num_envs`."""
    if isinstance(factory, type):
        from gymnasium.vector import VectorEnv

        return issubclass(factory, VectorEnv)
    return "num_envs" in parameters(factory)


def _source_of_id(name: str, config: Mapping[str, Any]) -> IdSource | GymIdSource:
    """The source of an id: gymnasium's, or else gym's if gym can run it, or else the next version, with a warning."""
    with logged_warnings():
        try:
            found = gymnasium_spec(name)
            unknown = "retired" if _is_placeholder(found) else ""
        except _unregistered() as error:
            if name.startswith("ALE/"):
                check_installed("ale_py", "environment", f"ale_py for {name!r}", "atari")
            unknown = _unknown_id(name, error)
    if not unknown:
        return IdSource(name)
    in_gym, newer = gym_spec(name), _next_version(name)
    if in_gym is not None and not (newer and fails_in_gym(in_gym, config)):
        log.info("environment %r: not known to gymnasium, taken from gym", name)
        return GymIdSource(name)
    if newer is None:
        raise InvalidValueError(unknown)
    warnings.warn(
        f"environment: expected an id whose version gymnasium has, got {name!r}, which it has retired; the next "
        f"version, {newer!r}, is taken",
        stacklevel=2,
    )
    return IdSource(newer)


def refuse_missing_package(where: str, error: BaseException) -> None:
    """Raises MissingPackageError if gymnasium says that its extra is missing and an extra here brings it."""
    from gymnasium.error import DependencyNotInstalled

    extra = next((extra for extra in EXTRAS if f"gymnasium[{extra}]" in str(error)), None)
    if extra is not None and isinstance(error, DependencyNotInstalled) and isinstance(error.__cause__, ImportError):
        with needed(where, f"{error.__cause__.name} for its simulation", extra):
            raise error.__cause__


def _next_version(name: str) -> str | None:
    """The id of the lowest higher version that gymnasium can make. None if there is none."""
    import gymnasium
    from gymnasium.envs.registration import parse_env_id

    try:
        namespace, base, version = parse_env_id(name)
    except gymnasium.error.Error:
        return None
    newer = [
        (spec.version, spec.id)
        for spec in gymnasium.registry.values()
        if (spec.namespace, spec.name) == (namespace, base) and not _is_placeholder(spec)
    ]
    return min((found for found in newer if version is not None and (found[0] or 0) > version), default=(0, None))[1]


def _is_placeholder(spec: Any) -> bool:
    """Whether gymnasium only keeps the id, to tell where its environment has gone, as of MuJoCo v2 and v3."""
    return callable(spec.entry_point) and getattr(spec.entry_point, "__module__", "") == "gymnasium.envs"


def gymnasium_spec(name: str) -> Any:
    """The registered spec of an id. If the id is unknown, ale_py registers its ids first."""
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
    """The errors for unknown, outdated and malformed ids, and for ids of a package that is not installed."""
    from gymnasium import error

    return error.Error, ModuleNotFoundError


def _unknown_id(name: str, error: Exception) -> str:
    import gymnasium

    known = list(gymnasium.registry)
    if "gym" in sys.modules:
        known += list(sys.modules["gym"].envs.registry)
    hint = did_you_mean(name, sorted(set(known)))
    return f"environment: expected an id of gymnasium or gym, got {name!r}.{hint} (gymnasium: {error})"
