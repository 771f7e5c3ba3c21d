"""Recurrence: the recurrent states of a runner's agents, from step to step of a rollout."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.collectors.rollout import Rollout
from really.envs.batch import EnvironmentBatch
from really.policies.recurrent import RecurrentLayout, RecurrentStates

Advance = Callable[[Rollout, int, int, NDArray[np.intp]], None]
# Steps and agents at which a trajectory was cut, and the states of these agents after it.
Cut = tuple[NDArray[np.intp], NDArray[np.intp], list[NDArray[Any]]]


class Recurrence(RecurrentStates):
    """Each agent's state after a step is that with which it acts next, or the initial one where an episode begins.

    Args:
        layout: of the model's state.
        envs: the environments of the agents.
        is_delivered: whether the states with which agents act are columns of the rollout.
        keeps_cuts: whether values are asked for after steps at which a trajectory is cut.
        num_steps: steps of a result, at whose end trajectories are cut, too; None if results are whole episodes.
        every: k delivers the state of every k-th step of an episode, from the first step on; steps between repeat it.
    """

    def __init__(
        self,
        layout: RecurrentLayout,
        envs: EnvironmentBatch,
        is_delivered: bool,
        keeps_cuts: bool,
        num_steps: int | None,
        every: int = 1,
    ) -> None:
        super().__init__(layout, envs.num_envs)
        self._every, self._steps = every, np.zeros(envs.num_envs, np.int64)  # steps of each agent's episode so far
        self._stored = self.arrays if every == 1 else layout.begin(envs.num_envs)
        self._envs, self._is_delivered, self._keeps_cuts, self._num_steps = envs, is_delivered, keeps_cuts, num_steps
        self._cuts: list[Cut] = []
        self._after: list[NDArray[Any]] | None = None

    def begin_rollout(self) -> None:
        """Forgets where the last rollout was cut."""
        self._cuts, self._after = [], None

    def stepping(self, advance: Advance) -> Advance:
        """A runner's steps, `Stepper.advance`, with the states before and after each."""

        def recurrent(rollout: Rollout, start: int, stop: int, active: NDArray[np.intp]) -> None:
            for step in range(start, stop):
                if self._is_delivered:
                    rollout.recurrent.write(step, self._delivered())
                advance(rollout, step, step + 1, active)
                self._follow(step, active)

        return recurrent

    def reset(self, which: NDArray[np.intp] | None = None) -> None:
        """Begins an episode for all agents, or for those with the given numbers."""
        super().reset(which)
        self._steps[slice(None) if which is None else which] = 0

    def _delivered(self) -> tuple[NDArray[Any], ...]:
        """The states' columns, and a flag: whether each is the state of this step."""
        if self._every == 1:
            return tuple(self.arrays)
        are_stored = self._steps % self._every == 0
        for stored, leaf in zip(self._stored, self.arrays, strict=True):
            stored[are_stored] = leaf[are_stored]
        return (*self._stored, are_stored)

    @contextlib.contextmanager
    def after_cuts(self, which: NDArray[np.intp]) -> Iterator[None]:
        """The model gets the states after these cuts of the rollout, which are counted agent by agent."""
        if self._after is None:
            steps, envs = (np.concatenate([cut[at] for cut in self._cuts]) for at in (0, 1))
            order = np.lexsort((steps, envs))
            self._after = [np.concatenate(parts)[order] for parts in zip(*(cut[2] for cut in self._cuts), strict=True)]
        self.given = [leaf[which] for leaf in self._after]
        try:
            yield
        finally:
            self.given = self.arrays

    def _follow(self, step: int, active: NDArray[np.intp]) -> None:
        """Takes over the states after a step, and begins episodes where they have ended."""
        envs = self._envs
        # Environments that cannot idle are stepped too while they are not active, and their agents with them.
        which = None if active.size == envs.num_envs or not envs.can_idle else active
        self.advance(which)
        self._steps[slice(None) if which is None else which] += 1
        if self._keeps_cuts:
            self._keep_cuts(step, active)
        ended = envs.terminated | envs.truncated
        if ended.any():
            self.reset(np.flatnonzero(ended) if which is None else which[ended[which]])

    def _keep_cuts(self, step: int, active: NDArray[np.intp]) -> None:
        is_last = self._num_steps is not None and (step + 1) % self._num_steps == 0
        is_cut = ~self._envs.terminated[active] & (is_last | self._envs.truncated[active])
        if is_cut.any():
            cut = active[is_cut]
            self._cuts.append((np.full(cut.size, step), cut, [leaf[cut] for leaf in self.arrays]))
