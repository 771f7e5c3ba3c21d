"""EnvironmentBatch: the interface of environments that are stepped together; PlainBatch: plain instances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really.data.schema import Spec
from really.data.spaces import flatten, observation_leaves
from really.envs.environment import failure
from really.envs.spec import EnvironmentSpec, Probe
from really.errors import EnvironmentFailedError


class EnvironmentBatch(ABC):
    """Environments that are stepped together. The first call must be `reset()`.

    The next call may overwrite or replace the arrays: read them from the attributes and copy them.

    Attributes:
        kind: 'plain' or 'native'.
        can_idle: whether inactive environments keep their state. If not, they are stepped too, and the results are
            discarded.
        observations: for each leaf `[env, ...]`, the current observations.
        final_observations: for each leaf `[env, ...]`, the observations to which the last step led; at an episode's
            end the last observation of that episode.
        rewards: `[env] float32`.
        terminated, truncated: `[env] bool`; both may be true.
    """

    kind: str
    can_idle = True

    def __init__(self, probe: Probe, num_envs: int) -> None:
        self.name = probe.name
        self.num_envs = num_envs
        self.observation_space = probe.observation_space
        self.action_space = probe.action_space
        self.leaves: Spec = observation_leaves(probe.observation_space)
        self.observations = self._empty()
        self.final_observations = self.observations
        self.rewards = np.zeros(num_envs, np.float32)
        self.terminated = np.zeros(num_envs, np.bool_)
        self.truncated = np.zeros(num_envs, np.bool_)

    @abstractmethod
    def reset(self, which: NDArray[np.intp] | None = None) -> None:
        """Starts new episodes in all environments, or in those with the given numbers."""

    @abstractmethod
    def step(self, actions: NDArray[Any], active: NDArray[np.intp] | None = None) -> None:
        """Steps all environments, or the active ones. If an episode ends, the next one starts within the same call.

        Afterwards the entries of inactive environments are undefined, except in `observations`.

        Args:
            actions: `[env, ...]`, as the environment takes them (a Discrete space's `start` included).
            active: numbers of the environments to step.

        Raises:
            EnvironmentFailedError: an environment raised, or returned something that its spaces do not allow. Some
                environments may have been stepped then and some not: call `reset()` before the next step.
        """

    def check_observations(self, names: Sequence[int]) -> None:
        """Raises EnvironmentFailedError if an observation has NaN, which explains NaN in the model's outputs.

        The message calls environment `i` that of agent `names[i]`.
        """
        for name, values in zip(self.leaves, self.observations, strict=True):
            bad = np.isnan(values).reshape(len(values), -1).any(axis=1) if values.dtype.kind == "f" else np.zeros(1)
            if bad.any():
                raise EnvironmentFailedError(
                    f"environment {self.name!r} of agent {names[int(bad.argmax())]}: expected numbers in "
                    f"'state{name}', got NaN"
                )

    @abstractmethod
    def render(self) -> Any:
        """Renders environment 0: a frame `[height, width, 3] uint8` with render mode 'rgb_array'."""

    @abstractmethod
    def close(self) -> None:
        """Closes the environments."""

    def _empty(self) -> list[NDArray[Any]]:
        return [np.zeros((self.num_envs, *leaf.shape), leaf.dtype) for leaf in self.leaves.values()]


class PlainBatch(EnvironmentBatch):
    """Plain instances, stepped one after the other in a tight loop."""

    kind = "plain"

    def __init__(
        self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], render_mode: str | None = None
    ) -> None:
        super().__init__(spec.probe(), len(seeds))
        self._environments = [spec.make(render_mode) for _ in seeds]
        self._limit = self._environments[0].limit
        self._render_mode = render_mode
        # Each seed is used once: later resets continue the environment's own generator.
        self._seeds: list[int | None] = [seed_of(seed) for seed in seeds]
        self._steps = [environment.step for environment in self._environments]
        self._elapsed = [0] * self.num_envs
        self._all = range(self.num_envs)
        self._finals = self._empty()
        self._flags_set = False
        self._actions_as_ints = isinstance(self.action_space, spaces.Discrete)
        nested = isinstance(self.observation_space, spaces.Dict | spaces.Tuple)
        self._single = None if nested else self.observations[0]
        self._shape = None if nested else self.leaves[""].shape
        self._steps_are_final = False

    def reset(self, which: NDArray[np.intp] | None = None) -> None:
        """Starts new episodes; an environment's first reset uses its seed."""
        for i in self._all if which is None else which.tolist():
            self._begin(i)
        self._clear_flags()
        self.final_observations = self.observations

    def step(self, actions: NDArray[Any], active: NDArray[np.intp] | None = None) -> None:
        """Steps the environments one after the other, and resets those whose episode ended."""
        given = actions.tolist() if self._actions_as_ints else actions
        if self._flags_set:
            self._clear_flags()
        ended = []
        # Local variables are faster: this loop is the whole cost of a step besides the environments' own.
        steps, elapsed, rewards, limit = self._steps, self._elapsed, self.rewards, self._limit
        single, shape, array = self._single, self._shape, np.ndarray
        i = -1
        try:
            for i in self._all if active is None else active.tolist():
                observation, rewards[i], terminated, truncated, _ = steps[i](given[i])
                count = elapsed[i] + 1
                if count >= limit:
                    truncated = True
                if single is not None and type(observation) is array and observation.shape == shape:
                    single[i] = observation
                else:
                    self._store(i, observation)
                elapsed[i] = count
                if terminated or truncated:
                    self.terminated[i] = terminated
                    self.truncated[i] = truncated
                    ended.append(i)
        except Exception as error:
            raise self._failed("step", i, error) from error
        self.final_observations = self.observations
        if not self._steps_are_final:
            self._update_steps()
        if ended:
            self._end(ended)

    def render(self) -> Any:
        """Renders environment 0."""
        return self._environments[0].render(self._render_mode)

    def close(self) -> None:
        """Closes the environments."""
        for environment in self._environments:
            environment.close()

    def _update_steps(self) -> None:
        """Replaces `Environment.step` by the environments' own functions, once their API is known."""
        self._steps = [environment.step for environment in self._environments]
        self._steps_are_final = all(environment.is_known for environment in self._environments)

    def _clear_flags(self) -> None:
        self.terminated[:] = False
        self.truncated[:] = False
        self._flags_set = False

    def _end(self, ended: list[int]) -> None:
        self._flags_set = True
        for final, shown in zip(self._finals, self.observations, strict=True):
            np.copyto(final, shown)
        self.final_observations = self._finals
        for i in ended:
            self._begin(i)

    def _begin(self, i: int) -> None:
        seed, self._seeds[i] = self._seeds[i], None
        self._elapsed[i] = 0
        try:
            self._store(i, self._environments[i].reset(seed))
        except Exception as error:
            raise self._failed("reset", i, error) from error

    def _store(self, i: int, observation: Any) -> None:
        """Writes any observation leaf by leaf; raises ValueError for a shape that NumPy would broadcast."""
        if type(observation) is int and self._shape == ():
            self.observations[0][i] = observation
            return
        for (name, leaf), shown, part in zip(
            self.leaves.items(), self.observations, flatten(self.observation_space, observation), strict=True
        ):
            got = np.asarray(part)
            if got.shape != leaf.shape:
                raise ValueError(
                    f"observation{name}: expected shape {leaf.shape}, got {got.shape} of dtype {got.dtype}"
                )
            shown[i] = got

    def _failed(self, verb: str, i: int, error: Exception) -> Exception:
        where = f"environment {self.name!r}, number {i} of the batch, step {self._elapsed[i]} of its episode: {verb}"
        return failure(where, error)


def seed_of(sequence: np.random.SeedSequence) -> int:
    """The integer seed of an environment: 31 bits, which every API takes, ALE included."""
    return int(sequence.generate_state(1)[0] >> 1)
