"""Trajectories of stacked frames for the tests of frame deduplication: several environments, ends and resets."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

FRAME = (17, 8)  # four of them are less than 1 kB in uint8 and more in uint16


@dataclass
class Game:
    """One environment with stacks of `stack` frames along `axis`; some steps leave the screen unchanged."""

    rng: np.random.Generator
    stack: int = 4
    axis: int = 0
    dtype: type = np.uint16
    padded: bool = False
    frames: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self):
        self.reset()

    def reset(self):
        first = self.frame()
        start = np.zeros_like(first) if self.padded else first
        self.frames = [start] * (self.stack - 1) + [first]

    def frame(self):
        if self.frames and self.rng.random() < 0.1:
            return self.frames[-1]
        return self.rng.integers(0, 1000, FRAME).astype(self.dtype)

    def step(self):
        """Steps within the episode; returns the state and the next one."""
        before = self.observation()
        self.frames = [*self.frames[1:], self.frame()]
        return before, self.observation()

    def observation(self):
        return np.stack(self.frames, self.axis) if self.stack > 1 else self.frames[0]


def rows_of(games, order, rng, end_probability=0.05):
    """`state`, `state_new` and `row` [n, ...] for steps of the games in this order; episodes end at random."""
    states, after = [], []
    for number in order:
        state, state_new = games[number].step()
        states.append(state)
        after.append(state_new)
        if rng.random() < end_probability:
            games[number].reset()
    return {"state": np.array(states), "state_new": np.array(after), "row": np.arange(len(order))}
