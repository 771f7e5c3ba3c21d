"""gymnasium's vector environments: their autoreset modes, and one of size one as a single environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

NEXT_STEP, SAME_STEP, DISABLED = "NextStep", "SameStep", "Disabled"


def autoreset_mode(vector: Any) -> str:
    """Name of the mode in which `vector` starts episodes; gymnasium's default is NextStep."""
    mode = vector.metadata.get("autoreset_mode", NEXT_STEP)
    return str(getattr(mode, "value", mode))


def pick(space: spaces.Space[Any], batch: Any, i: int) -> Any:
    """The observation of environment `i` in a batch of observations of `space`.

    The batch of a Dict space is a dict of batches, that of a Tuple a tuple of batches; in `info` either is an array of
    observations.
    """
    if isinstance(space, spaces.Dict) and isinstance(batch, dict):
        return {key: pick(part, batch[key], i) for key, part in space.items()}
    if isinstance(space, spaces.Tuple) and isinstance(batch, tuple):
        return tuple(pick(part, batch[at], i) for at, part in enumerate(space))
    return batch[i]


class SingleOfVector:
    """A vector environment of size one with the interface of a single gymnasium environment.

    An explicit `reset()` is right in every autoreset mode, because the batch holds no other environment: after it, a
    NextStep environment has no reset pending. A SameStep environment has started its next episode within the step, so
    `reset()` returns the observation of that start.
    """

    def __init__(self, vector: Any) -> None:
        self._vector = vector
        self._same_step = autoreset_mode(vector) == SAME_STEP
        self._next_start: Any = None
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space
        self.spec = vector.spec
        self.render_mode = vector.render_mode
        self.metadata: dict[str, Any] = vector.metadata

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode, or returns the start of the one that a SameStep environment has started."""
        start, self._next_start = self._next_start, None
        if start is None or seed is not None:
            batch, _ = self._vector.reset(seed=seed)
            start = pick(self.observation_space, batch, 0)
        return start, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment; at an episode's end the observation is the last one of that episode."""
        batch, rewards, terminated, truncated, info = self._vector.step(
            np.asarray(action, self._vector.action_space.dtype)[None]
        )
        observation = pick(self.observation_space, batch, 0)
        if self._same_step and (terminated[0] or truncated[0]):
            self._next_start = observation
            observation = pick(self.observation_space, info["final_obs"], 0)
        return observation, rewards[0], bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        """Renders a frame."""
        return self._vector.render()[0]

    def close(self) -> None:
        """Closes the vector environment."""
        self._vector.close()
