"""EnvironmentBatch: the interface of environments that are stepped together; PlainBatch: plain instances."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really._utils._step import PlainLoop, convert, fill
from really._utils.interrupts import ends_program
from really.data.schema import Spec
from really.data.spaces import observation_leaves
from really.envs.environment import failure
from really.envs.received import LostValueError, ReceivedObservations
from really.envs.results import StepResult, flag, number, numbers
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
        rewards: `[env] float32`, or `[env, *reward_shape]`.
        terminated, truncated: `[env] bool`; both may be true.
        masks: how the environment tells which actions it allows; None if it does not.
        reward_shape: shape of a reward; () is one number.
    """

    kind: str
    can_idle = True

    def __init__(self, probe: Probe, num_envs: int) -> None:
        self.name = probe.name
        self.num_envs = num_envs
        self.observation_space = probe.observation_space
        self.action_space = probe.action_space
        self.masks = probe.masks
        self.leaves: Spec = observation_leaves(probe.observation_space)
        self.observations = self._empty()
        self.final_observations = self.observations
        self.reward_shape = probe.reward_shape
        self.rewards = np.zeros((num_envs, *self.reward_shape), np.float32)
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
        """Raises EnvironmentFailedError for NaN or inf in an observation, which explains them in the model's outputs.

        The message calls environment `i` that of agent `names[i]`.
        """
        for name, values in zip(self.leaves, self.observations, strict=True):
            rows = values.reshape(len(values), math.prod(values.shape[1:]))
            bad = ~np.isfinite(rows) if values.dtype.kind == "f" else np.zeros((1, 1), np.bool_)
            if bad.any():
                i = int(bad.any(axis=1).argmax())
                raise EnvironmentFailedError(
                    f"environment {self.name!r} of agent {names[i]}: expected finite numbers in 'state{name}', as the "
                    f"model's outputs are not finite either, got {_as_text(rows[i, bad[i].argmax()])}"
                )

    @property
    def action_masks(self) -> NDArray[np.bool_]:
        """`[env, width]`, the masks of the current observations. Only for environments with `masks`."""
        assert self.masks is not None
        assert self.masks.leaf is not None
        return self.masks.rows(self.observations[self.masks.leaf])

    @property
    def final_action_masks(self) -> NDArray[np.bool_]:
        """`[env, width]`, the masks of the final observations. Only for environments with `masks`."""
        assert self.masks is not None
        assert self.masks.leaf is not None
        return self.masks.rows(self.final_observations[self.masks.leaf])

    def checked_masks(self, active: NDArray[np.intp], names: Sequence[int], step: int) -> NDArray[np.bool_]:
        """The action masks; raises EnvironmentFailedError if that of an active environment allows no action.

        The message calls environment `i` that of agent `names[i]`, and tells the step.
        """
        masks = self.action_masks
        assert self.masks is not None
        if (wrong := np.intersect1d(self.masks.without_choice(masks), active)).size:
            i = int(wrong[0])
            raise EnvironmentFailedError(
                f"environment {self.name!r} of agent {names[i]}, step {step}: expected an action mask that allows an "
                f"action, got {masks[i].astype(np.int8).tolist()}"
            )
        return masks

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
        probe = spec.probe()
        self._received = ReceivedObservations(probe.seen_space, probe.observation, self.num_envs)
        self.observations = [
            shown.reshape(self.num_envs, *leaf.shape)
            for shown, leaf in zip(self._received.shown, self.leaves.values(), strict=True)
        ]
        self.final_observations = self.observations
        self._environments = [spec.make(render_mode) for _ in seeds]
        self._render_mode = render_mode
        # Each seed is used once: later resets continue the environment's own generator.
        self._seeds: list[int | None] = [seed_of(seed) for seed in seeds]
        self._loop = PlainLoop(
            self.num_envs,
            self._environments[0].limit,
            isinstance(self.action_space, spaces.Discrete),
            self._received,
            (
                np.zeros(self.num_envs, np.float32) if self.reward_shape else self.rewards,
                self.terminated,
                self.truncated,
            ),
            number,
            flag,
        )
        self._loop.steps = self._steps()
        self._all = range(self.num_envs)
        self._finals = self._empty()
        self._flags_set = False
        self._steps_are_final = False

    def reset(self, which: NDArray[np.intp] | None = None) -> None:
        """Starts new episodes; an environment's first reset uses its seed."""
        self._begin(self._all if which is None else which.tolist())
        self._clear_flags()
        self.final_observations = self.observations

    def step(self, actions: NDArray[Any], active: NDArray[np.intp] | None = None) -> None:
        """Steps the environments one after the other, and resets those whose episode ended."""
        if self._flags_set:
            self._clear_flags()
        try:
            ended = self._loop.run(actions, active)
        except BaseException as error:
            if ends_program(error):
                raise
            raise self._failed("step", self._loop.at, error) from error
        if self._received.converts or not self._steps_are_final:
            self._convert_and_update()
        self.final_observations = self.observations
        if ended:
            self._end(ended)

    def render(self) -> Any:
        """Renders environment 0."""
        return self._environments[0].render(self._render_mode)

    def close(self) -> None:
        """Closes the environments."""
        for environment in self._environments:
            environment.close()

    def _convert_and_update(self) -> None:
        """What a step does seldom: observations of another dtype, and the environments' first steps."""
        if self._received.converts:
            self._convert("step")
        if not self._steps_are_final:
            self._update_steps()

    def _update_steps(self) -> None:
        """Replaces `Environment.step` by the environments' own functions, once their API is known."""
        self._loop.steps = self._steps()
        self._steps_are_final = all(environment.is_known for environment in self._environments)

    def _steps(self) -> list[Callable[[Any], StepResult]]:
        """The environments' functions, as the compiled loop calls them: with one number as reward."""
        steps = [environment.step for environment in self._environments]
        return [self._keeping_rewards(*each) for each in enumerate(steps)] if self.reward_shape else steps

    def _keeping_rewards(self, i: int, step: Callable[[Any], StepResult]) -> Callable[[Any], StepResult]:
        """The function of an environment whose rewards have several numbers, which go into `rewards` here."""

        def stepped(action: Any) -> StepResult:
            observation, reward, *others = step(action)
            convert(self.rewards[i], numbers(reward, self.reward_shape))
            return observation, 0.0, *others

        return stepped

    def _clear_flags(self) -> None:
        self.terminated.fill(False)
        self.truncated.fill(False)
        self._flags_set = False

    def _end(self, ended: list[int]) -> None:
        self._flags_set = True
        fill(self._finals, self.observations)
        self.final_observations = self._finals
        self._begin(ended)

    def _begin(self, which: Iterable[int]) -> None:
        for i in which:
            seed, self._seeds[i] = self._seeds[i], None
            self._loop.elapsed[i] = 0
            try:
                self._loop.write(i, self._environments[i].reset(seed))
            except BaseException as error:
                if ends_program(error):
                    raise
                raise self._failed("reset", i, error) from error
        if self._received.converts:
            self._convert("reset")

    def _convert(self, verb: str) -> None:
        try:
            self._received.convert()
        except LostValueError as error:
            raise self._failed(verb, error.env, error) from error

    def _failed(self, verb: str, i: int, error: BaseException) -> Exception:
        where = (
            f"environment {self.name!r}, number {i} of the batch, step {self._loop.elapsed[i]} of its episode: {verb}"
        )
        return failure(where, error)


def _as_text(value: Any) -> str:
    return "NaN" if np.isnan(value) else str(value)


def seed_of(sequence: np.random.SeedSequence) -> int:
    """The integer seed of an environment: 31 bits, which every API takes, ALE included."""
    return int(sequence.generate_state(1)[0] >> 1)
