"""Sources: make environments from what the user gave: an id, a class, a factory or an instance."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import io
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from typing import Any

from really.envs.environment import NO_LIMIT, Environment, accepts, logged_warnings, parameters
from really.envs.single_of_vector import SingleOfVector
from really.errors import InvalidTypeError, InvalidValueError, did_you_mean

log = logging.getLogger("really")


class InstanceSource:
    """Makes copies of the user's instance, which itself stays as it is."""

    def __init__(self, instance: Any) -> None:
        self._instance = instance
        self._is_used = False

    def borrow(self) -> Environment:
        """A copy to inspect. If it cannot be copied, the instance itself, which `close` then leaves open."""
        try:
            return Environment(copy.deepcopy(self._instance))
        except Exception:
            return Environment(self._instance, is_owned=False)

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A copy. If it cannot be copied, the instance itself, but only once. `config` must be empty."""
        if config:
            raise InvalidValueError(f"env_config: expected nothing with an instance as environment, got {dict(config)}")
        try:
            return Environment(copy.deepcopy(self._instance))
        except Exception as error:
            if self._is_used:
                raise InvalidTypeError(
                    f"environment: expected an instance that copy.deepcopy can copy, since more than one is "
                    f"needed, got {self._instance!r}, which raised {type(error).__name__}: {error}. "
                    f"Give its class or a factory instead."
                ) from error
            self._is_used = True
            return Environment(self._instance)


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
        if not (hasattr(env, "reset") and hasattr(env, "step")):
            raise InvalidTypeError(
                f"environment: expected {self._factory!r} to return an object with reset and step, got {type(env)}"
            )
        return Environment(env)


class IdSource:
    """Makes environments of an id in gymnasium's registry, without the wrappers that only check."""

    def __init__(self, name: str) -> None:
        self._name = name

    def make(self, config: Mapping[str, Any], render_mode: str | None) -> Environment:
        """A new environment. The caller applies the time limit, unless the id has wrappers of its own."""
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
        """The id's own vector environment. Returns None if it has none."""
        import gymnasium

        options = {**({} if render_mode is None else {"render_mode": render_mode}), **config}
        with logged_warnings():
            spec = gymnasium_spec(self._name)
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


def source_of(environment: Any) -> EnvironmentSource:
    """The source for the environment that the user gave.

    Raises:
        InvalidValueError: the id is unknown.
        InvalidTypeError: this is no environment, class or factory.
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
    """Whether this is a subclass of gymnasium's VectorEnv, or a function with an argument `num_envs`."""
    if isinstance(factory, type):
        from gymnasium.vector import VectorEnv

        return issubclass(factory, VectorEnv)
    return "num_envs" in parameters(factory)


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
    """Imports real gym, without the message and the warning that it is unmaintained."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return importlib.import_module("gym")


def _unknown_id(name: str, error: Exception) -> str:
    import gymnasium

    known = list(gymnasium.registry)
    if "gym" in sys.modules:
        known += list(sys.modules["gym"].envs.registry)
    hint = did_you_mean(name, sorted(set(known)))
    return f"environment: expected an id of gymnasium or gym, got {name!r}.{hint} (gymnasium: {error})"
