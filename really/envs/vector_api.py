"""gymnasium's vector environments: their three autoreset modes, and one of size one as a single environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

NEXT_STEP, SAME_STEP, DISABLED = "NextStep", "SameStep", "Disabled"


def autoreset_mode(vector: Any) -> str:
    """Name of the mode in which `vector` begins episodes; gymnasium's default is NextStep."""
    mode = vector.metadata.get("autoreset_mode", NEXT_STEP)
    return str(getattr(mode, "value", mode))


def pick(space: spaces.Space[Any], batch: Any, i: int) -> Any:
    """The observation of environment `i` in a batch of observations of `space`.

    A Dict's batch is a dict of batches, a Tuple's a tuple of them, or (in `info`) an array of observations.
    """
    if isinstance(space, spaces.Dict) and isinstance(batch, dict):
        return {key: pick(part, batch[key], i) for key, part in space.items()}
    if isinstance(space, spaces.Tuple) and isinstance(batch, tuple):
        return tuple(pick(part, batch[at], i) for at, part in enumerate(space))
    return batch[i]


class SingleOfVector:
    """A vector environment of size one with the interface of a single gymnasium environment.

    An explicit `reset()` is right in each of the autoreset modes, since nobody else is in the batch: after it, a
    NextStep environment has no reset pending. A SameStep one has begun its next episode within the step.
    """

    def __init__(self, vector: Any) -> None:
        self._vector = vector
        self._same_step = autoreset_mode(vector) == SAME_STEP
        self._begun: Any = None
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space
        self.spec = vector.spec
        self.render_mode = vector.render_mode
        self.metadata: dict[str, Any] = vector.metadata

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode, or hands over the one that a SameStep environment has begun."""
        begun, self._begun = self._begun, None
        if begun is None or seed is not None:
            batch, _ = self._vector.reset(seed=seed)
            begun = pick(self.observation_space, batch, 0)
        return begun, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; the observation is the episode's own, also at its end."""
        batch, rewards, terminated, truncated, info = self._vector.step(
            np.asarray(action, self._vector.action_space.dtype)[None]
        )
        observation = pick(self.observation_space, batch, 0)
        if self._same_step and (terminated[0] or truncated[0]):
            self._begun = observation
            observation = pick(self.observation_space, info["final_obs"], 0)
        return observation, rewards[0], bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        """The only environment's frame."""
        return self._vector.render()[0]

    def close(self) -> None:
        """Closes the vector environment."""
        self._vector.close()
