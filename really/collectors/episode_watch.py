"""EpisodeWatch: notices an episode that does not end. It warns once, and bounds the steps and memory of its rollout."""

from __future__ import annotations

import logging
import math
import time

import numpy as np
from numpy.typing import NDArray

from really._utils.memory_limits import available_bytes
from really.errors import EnvironmentFailedError, NotEnoughMemoryError

log = logging.getLogger("really")

# An episode is taken for endless after so many seconds, or after so many times the rows that the manager asks for.
PATIENCE_SECONDS, PATIENCE_FACTOR = 60.0, 1000
# An episode without a time limit ends the call after so many steps and PATIENCE_FACTOR times the rows asked for.
ENDLESS_STEPS = 100_000
# Steps from one look at the clock to the next, at most.
MOST_STEPS = 256
CURE = (
    "an environment without a time limit may never end one: give num_steps= instead of num_episodes=, or wrap it in "
    "gymnasium.wrappers.TimeLimit; remote_time_out= ends a call that waits for runners of Ray"
)


class EpisodeWatch:
    """Watches the episodes of a runner in rollout after rollout.

    Args:
        name: the environment's name.
        num_envs: number of environments.
        total_steps: rows that a call of the manager asks for.
        runners: number of runners that may share this machine's memory.
        warns: whether it logs the warning; a runner in another process leaves that to the driver.
        limit: steps after which an episode ends in any case; None if the environment declares no time limit.
    """

    def __init__(
        self,
        name: str,
        num_envs: int,
        total_steps: int,
        runners: int = 1,
        warns: bool = True,
        limit: int | None = None,
    ) -> None:
        self._name, self._runners, self._warns = name, runners, warns
        self._most_steps = PATIENCE_FACTOR * total_steps
        self._endless_steps = max(self._most_steps, ENDLESS_STEPS) if limit is None else math.inf
        # The step and the time at which each environment's episode began.
        self._first_steps, self._times = np.zeros(num_envs, np.intp), np.zeros(num_envs)

    def begin(self) -> int:
        """Begins a rollout, in which every episode is new; returns the step before which to call `look`."""
        self._first_steps[:], self._times[:] = 0, time.monotonic()
        return 1

    def end(self, envs: NDArray[np.intp], step: int) -> None:
        """Notes that episodes of these environments ended before `step`."""
        self._first_steps[envs], self._times[envs] = step, time.monotonic()

    def look(self, step: int, active: NDArray[np.intp]) -> int:
        """Warns, once, if an active environment's episode takes very long; returns the step of the next look.

        Raises EnvironmentFailedError if it takes so long that it will not end.
        """
        steps, seconds = self._longest(step, active)
        if steps >= self._endless_steps:
            raise EnvironmentFailedError(f"{self._has_not_ended(steps, seconds)}; {CURE}")
        if self._warns and (seconds >= PATIENCE_SECONDS or steps >= self._most_steps):
            self._warns = False
            log.warning("%s: %s", self._has_not_ended(steps, seconds), CURE)
        return step + min(step, MOST_STEPS)

    def check_memory(self, step: int, active: NDArray[np.intp], nbytes: int) -> None:
        """Raises NotEnoughMemoryError if a rollout of `step` steps and `nbytes` has to double and that is too much.

        Rows are copied when they are delivered, so it may take half of this runner's share of the free memory.
        """
        left = available_bytes()
        share = math.inf if left is None else left / (2 * self._runners)
        if 2 * nbytes > share:
            raise NotEnoughMemoryError(
                f"{self._has_not_ended(*self._longest(step, active))}: its rows need {2 * nbytes:,} bytes, available "
                f"are {int(share):,}; {CURE}"
            )

    def _longest(self, step: int, active: NDArray[np.intp]) -> tuple[int, float]:
        """Steps and seconds of the longest episode of the active environments."""
        return step - int(self._first_steps[active].min()), time.monotonic() - float(self._times[active].min())

    def _has_not_ended(self, steps: int, seconds: float) -> str:
        return (
            f"num_episodes: expected episodes of environment {self._name!r} to end, got one of {steps:,} steps and "
            f"{seconds:.0f} s that has not ended"
        )
