"""SingleOfVector: a vector environment of size one as a single environment."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np

from really.envs.vector_api import (
    DISABLED,
    NEXT_STEP,
    SAME_STEP,
    autoreset_mode,
    copied,
    equal,
    final_observation,
    has_begun_next,
    infos_of,
    no_final_observation,
    pick,
)
from really.errors import InvalidValueError

log = logging.getLogger("really")


class SingleOfVector:
    """A vector environment of size one with the interface of a single gymnasium environment.

    An explicit `reset()` is right in every autoreset mode, because the batch holds no other environment: after it, a
    NextStep environment has no reset pending. A SameStep environment has started its next episode within the step, so
    `reset()` returns the observation of that start. If the environment declares no mode, its first episode's end shows
    which it has.
    """

    def __init__(self, vector: Any) -> None:
        self._vector = vector
        self._mode = self._declared = autoreset_mode(vector)
        if self._declared is None:
            _warn_of_no_mode(type(vector).__qualname__)
        # The next episode's first observation and its info, if it has begun.
        self._next_start: tuple[Any, dict[str, Any]] | None = None
        # The first observation of this episode, while the mode is unknown.
        self._start: Any = None
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space
        self.spec = vector.spec
        self.render_mode = vector.render_mode
        self.metadata: dict[str, Any] = vector.metadata

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode, or returns the start of the one that the environment has started."""
        start, self._next_start = self._next_start, None
        if start is None or seed is not None:
            batch, info = self._vector.reset(seed=seed)
            start = pick(self.observation_space, batch, 0), infos_of(info, 0)[1]
        if self._mode is None:
            self._start = copied(self.observation_space, start[0])
        return start

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment; at an episode's end observation and info are the last ones of that episode.

        Raises InvalidValueError if the last observation cannot be had.
        """
        batch, rewards, terminated, truncated, info = self._step(action)
        observation, reward = pick(self.observation_space, batch, 0), rewards[0]
        is_over = bool(terminated[0]), bool(truncated[0])
        own_info, next_info = infos_of(info, 0) if info else ({}, {})
        if any(is_over):
            observation = self._last_observation(observation, info, action, next_info)
        return observation, reward, *is_over, own_info

    def render(self) -> Any:
        """Renders a frame."""
        return self._vector.render()[0]

    def close(self) -> None:
        """Closes the vector environment."""
        self._vector.close()

    def _step(self, action: Any) -> Any:
        return self._vector.step(np.asarray(action, self._vector.action_space.dtype)[None])

    def _last_observation(self, shown: Any, info: Any, action: Any, next_info: dict[str, Any]) -> Any:
        """The last observation of the episode that has ended with the observation `shown` and this info."""
        space = self.observation_space
        final = final_observation(space, info, 0)
        if final is None:
            shown = copied(space, shown)
            if self._mode is None:
                self._mode = SAME_STEP if has_begun_next(info) else self._find_mode(shown, action)
            if self._mode == SAME_STEP:
                raise InvalidValueError(no_final_observation(self._declared is not None))
            return shown
        if self._mode is None:
            self._mode = DISABLED if equal(space, final, shown) else SAME_STEP
        if self._mode == SAME_STEP:
            self._next_start = shown, next_info
        return final

    def _find_mode(self, last: Any, action: Any) -> str:
        """The mode of an environment that neither declares one nor tells last observations.

        It is stepped once more after the episode's end with the observation `last`. In mode NextStep this step starts
        an episode, so it has the reward 0. Otherwise only equal first observations can tell the modes apart.
        """
        space = self.observation_space
        try:
            batch, rewards, terminated, truncated, info = self._step(action)
        except Exception:
            return DISABLED
        after = copied(space, pick(space, batch, 0))
        if not (np.any(rewards[0]) or terminated[0] or truncated[0]):
            if equal(space, last, self._start) and not equal(space, after, self._start):
                return SAME_STEP
            self._next_start = after, infos_of(info, 0)[1]
            return NEXT_STEP
        again = copied(space, pick(space, self._vector.reset()[0], 0))
        if not equal(space, again, self._start):
            raise InvalidValueError(
                "metadata['autoreset_mode']: expected 'NextStep', 'SameStep' or 'Disabled', got none, and what step "
                f"returns after an episode's end (reward {rewards[0]}) is not that of 'NextStep', gymnasium's default"
            )
        self._next_start = again, {}
        return SAME_STEP if equal(space, last, again) else DISABLED


@functools.cache
def _warn_of_no_mode(kind: str) -> None:
    """Logs once for each class that it declares no autoreset mode."""
    log.warning(
        "%s: expected metadata['autoreset_mode'] with 'NextStep', 'SameStep' or 'Disabled', got none; the first "
        "episode's end shows the mode, and 'NextStep' is assumed if it does not",
        kind,
    )
