"""EnvironmentSpec: makes any number of instances of the user's environment, and describes them by a Probe."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from gymnasium import spaces

from really._utils.interrupts import ends_program
from really.data.masks import ActionMasks
from really.data.spaces import native_space, to_gymnasium
from really.envs.environment import NO_LIMIT, Environment, failure
from really.envs.observed import declared_space, observed_space, shaped_space
from really.envs.received import ReceivedObservations
from really.envs.sources import EnvironmentSource, InstanceSource, refuse_missing_package, source_of
from really.errors import InvalidTypeError, ReallyError

# Wrappers that are looked at for a time limit.
MOST_WRAPPERS = 100


@dataclass(frozen=True)
class Probe:
    """Description of all instances of an environment, taken from one of them.

    Attributes:
        name: the id, or the name of the class.
        observation_space: a gymnasium space, the one in which batches give observations. It is the declared one if
            `observation` fits it, else inferred from `observation`.
        action_space: gymnasium's Discrete, Box, MultiDiscrete or MultiBinary.
        max_episode_steps: the time limit; None if there is none or it is unknown.
        observation: an observation after a reset, in the structure of `seen_space`.
        seen_space: the space in which the environment returns observations: `observation_space`, but for another
            shape if `observation_shape` asks for one.
        declared_space: the observation space of the environment; None if it has none, or one of an unknown kind.
        masks: how the environment tells which actions a state allows; None if it does not.
        reward_shape: shape of a reward; () is one number.
    """

    name: str
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    max_episode_steps: int | None
    observation: Any
    seen_space: spaces.Space[Any]
    declared_space: spaces.Space[Any] | None
    masks: ActionMasks | None = None
    reward_shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class EnvironmentSpec:
    """The user's environment, from which any process can make instances (pickled by cloudpickle).

    Args:
        environment: an id of gymnasium or gym, a class, a factory, an instance, or the result of `really.atari` or
            `really.envs.envpool`.
        env_config: arguments of the class or factory; for an id, arguments of `gymnasium.make`.
        observation_shape: the shape in which batches give observations, if it has as many numbers as those of the
            environment; None keeps theirs.
        action_masks: False ignores action masks.
        reward_shape: shape of a reward; () is one number.
    """

    environment: Any
    env_config: Mapping[str, Any] = field(default_factory=dict)
    observation_shape: tuple[int, ...] | None = None
    action_masks: bool = True
    reward_shape: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The id, which an instance may have too, or the name of the class or factory."""
        if isinstance(self.environment, str):
            return self.environment
        registered_id = getattr(getattr(self.environment, "spec", None), "id", None)
        if isinstance(registered_id, str):
            return registered_id
        # A functools.partial has the function that it calls in `func`.
        named = getattr(self.environment, "func", self.environment)
        return str(getattr(named, "__name__", type(named).__name__))

    @cached_property
    def source(self) -> EnvironmentSource:
        """The source that makes the instances. Raises the same errors as `probe`."""
        return source_of(self.environment, self.env_config)

    @cached_property
    def _probe(self) -> Probe:
        environment = self.source.borrow() if isinstance(self.source, InstanceSource) else self.make()
        try:
            probe = _inspect(self.name, environment, self.observation_shape)
            return replace(probe, masks=probe.masks if self.action_masks else None, reward_shape=self.reward_shape)
        finally:
            environment.close()

    def probe(self) -> Probe:
        """Makes an instance, inspects it and closes it; later calls return the same Probe.

        Raises:
            InvalidValueError: the id is unknown; the message names similar ids.
            InvalidTypeError: this is no environment, or its spaces are missing or not supported.
            EnvironmentFailedError: the constructor or the reset raised.
        """
        return self._probe

    def make(self, render_mode: str | None = None) -> Environment:
        """Makes a new instance."""
        try:
            environment = self.source.make(self.env_config, render_mode)
            environment.reward_shape = self.reward_shape
            return environment
        except ReallyError:
            raise
        except BaseException as error:
            if ends_program(error):
                raise
            refuse_missing_package(f"environment {self.name!r}", error)
            where = f"environment {self.name!r} could not be made with env_config {dict(self.env_config)}"
            raise failure(where, error) from error


def _inspect(name: str, environment: Environment, shape: tuple[int, ...] | None) -> Probe:
    action_space = _action_space(name, environment.env)
    try:
        observation = environment.reset(0)
    except BaseException as error:
        if ends_program(error):
            raise
        raise failure(f"environment {name!r}: reset raised", error) from error
    if environment.odd_info is not None:
        warnings.warn(
            f"environment {name!r}: expected reset to return (observation, info) with a dict as info, got "
            f"{type(environment.odd_info).__name__}, which is ignored",
            stacklevel=2,
        )
    declared = declared_space(environment.env)
    space = observed_space(name, declared, observation)
    try:
        received = ReceivedObservations(space, observation, 1)
        received.write(0, observation)
        received.convert()
    except (TypeError, ValueError) as error:
        raise failure(f"environment {name!r}: reset", error) from error
    limit: int | None = environment.limit
    if limit == NO_LIMIT:
        limit = _declared_limit(environment.env)
    masks = ActionMasks.of(name, space, action_space, environment.action_mask(environment.info))
    return Probe(name, shaped_space(space, shape), action_space, limit, observation, space, declared, masks)


def _declared_limit(env: Any) -> int | None:
    """The time limit in an environment's spec, or that of its wrapper `TimeLimit`; None if it has neither."""
    limit, seen = getattr(getattr(env, "spec", None), "max_episode_steps", None), 0
    while limit is None and seen < MOST_WRAPPERS and isinstance(getattr(env, "__dict__", None), dict):
        limit, env, seen = vars(env).get("_max_episode_steps"), vars(env).get("env"), seen + 1
    return limit if isinstance(limit, int) and limit > 0 else None


def _action_space(name: str, env: Any) -> spaces.Space[Any]:
    given = getattr(env, "action_space", None)
    if given is None:
        raise InvalidTypeError(f"environment {name!r}: expected an attribute action_space, got none in {env!r}")
    space = native_space(to_gymnasium(given))
    if isinstance(space, spaces.Discrete | spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return space
    raise InvalidTypeError(
        f"environment {name!r}: expected an action_space that is Discrete, Box, MultiDiscrete or MultiBinary, "
        f"got {space}"
    )
