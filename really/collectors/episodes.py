"""Episodes that ended: their returns and lengths, measured on whole columns by runners, and the log of a manager."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from really._utils._locks import Lock
from really.collectors.rollout import Rollout

# An episode in a chunk: the row at which it ends, its agent, its undiscounted sum of raw rewards, and its steps. If
# rewards have several numbers, all of them are added.
ENDED = np.dtype([("row", np.int64), ("agent", np.int32), ("return", np.float64), ("length", np.int64)])
# An episode in the log: `steps` is the number of rows that the manager had delivered up to its last row.
LOGGED = np.dtype([("return", np.float64), ("length", np.int64), ("agent", np.int32), ("steps", np.int64)])
# Episodes that the log keeps, and how many of them a summary is about.
KEPT, RECENT = 10_000, 100

Records = NDArray[np.void]


class EpisodeMeter:
    """The runner's part: measures the episodes that end in rollout after rollout.

    Args:
        agents: number of the agent of each environment.
    """

    def __init__(self, agents: Sequence[int]) -> None:
        self._agents = np.asarray(agents, np.int32)
        # What each environment's open episode has so far.
        self._returns, self._lengths = np.zeros(len(agents)), np.zeros(len(agents), np.int64)

    def begin(self) -> None:
        """Begins new episodes in all environments."""
        self._returns[:], self._lengths[:] = 0.0, 0

    def measure(self, rollout: Rollout) -> Records:
        """The episodes that end in a rollout, as records `[episode]` of `ENDED`, in the order of its rows."""
        rewards, lengths = rollout.flat("reward"), rollout.lengths
        if rewards.ndim > 1:
            rewards = rewards.sum(axis=tuple(range(1, rewards.ndim)), dtype=np.float64)
        done = rollout.flat("terminated") | rollout.flat("truncated")
        # A piece begins with the rows of an environment, or after the end of an episode.
        envs = np.flatnonzero(lengths)
        env_starts = (np.cumsum(lengths) - lengths)[envs]
        begins = np.append(True, done[:-1])
        begins[env_starts] = True
        starts = np.flatnonzero(begins)
        first = np.searchsorted(starts, env_starts)
        returns = np.add.reduceat(rewards, starts, dtype=np.float64)
        steps = np.diff(starts, append=len(rewards))
        returns[first] += self._returns[envs]
        last_rows = starts + steps - 1
        steps[first] += self._lengths[envs]
        last = np.append(first[1:], len(starts)) - 1
        is_over = done[last_rows]
        self._returns[envs] = np.where(is_over[last], 0.0, returns[last])
        self._lengths[envs] = np.where(is_over[last], 0, steps[last])
        ended = np.empty(np.count_nonzero(is_over), ENDED)
        ended["row"] = last_rows[is_over]
        ended["agent"] = np.repeat(self._agents[envs], np.diff(first, append=len(starts)))[is_over]
        ended["return"], ended["length"] = returns[is_over], steps[is_over]
        return ended


@dataclass(frozen=True)
class EpisodeFigures:
    """How many episodes ended, and the means of their returns and lengths, which are NaN if none ended."""

    count: int
    mean_return: float
    mean_length: float

    @classmethod
    def of(cls, episodes: Sequence[Records]) -> Self:
        """The figures of records with the fields `return` and `length`."""
        returns = np.concatenate([np.empty(0), *(part["return"] for part in episodes)])
        lengths = np.concatenate([np.empty(0), *(part["length"] for part in episodes)])
        if not returns.size:
            return cls(0, np.nan, np.nan)
        return cls(returns.size, float(returns.mean()), float(lengths.mean()))

    def __str__(self) -> str:
        if not self.count:
            return "no episode ended"
        number = "1 episode" if self.count == 1 else f"{self.count:,} episodes"
        return f"{number} ended, mean return {self.mean_return:.2f}, mean length {self.mean_length:.1f}"


class EpisodeLog:
    """The manager's part: the last `kept` episodes that ended in delivered rows, in the order of delivery.

    Attributes:
        steps: number of rows delivered so far.
        count: number of episodes that ended in them.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept, self.steps, self.count = kept, 0, 0
        self._parts: deque[Records] = deque()
        # A thread of its own adds rows while the learner reads.
        self._changing = Lock()

    def add(self, ended: Records, rows: int) -> None:
        """Adds `rows` delivered rows, in which these episodes ended; `row` counts from the first of them."""
        with self._changing:
            if ended.size:
                logged = np.empty(ended.size, LOGGED)
                for name in ("return", "length", "agent"):
                    logged[name] = ended[name]
                logged["steps"] = self.steps + ended["row"] + 1
                self._parts.append(logged[-self._kept :])
                self.count += ended.size
                while sum(map(len, self._parts)) - len(self._parts[0]) >= self._kept:
                    self._parts.popleft()
            self.steps += rows

    def last(self, number: int = KEPT) -> Records:
        """The last `number` of the episodes kept, as records `[episode]` of `LOGGED`, oldest first."""
        held, _ = self._held()
        return held[max(0, len(held) - number) :]

    def since(self, count: int) -> tuple[Records, int]:
        """The episodes that ended after the first `count`, as far as they are kept, and how many have ended in all."""
        held, ended = self._held()
        return held[max(0, len(held) - (ended - count)) :], ended

    def info(self) -> dict[str, Any]:
        """How many episodes ended, and mean return and length of the last ones of them."""
        held, ended = self._held()
        recent = EpisodeFigures.of([held[-RECENT:]])
        if not recent.count:
            return {"episodes": {"ended": 0}}
        means = {"mean_return": recent.mean_return, "mean_length": recent.mean_length}
        return {"episodes": {"ended": ended, "of_the_last": recent.count, **means}}

    def _held(self) -> tuple[Records, int]:
        """The episodes kept, oldest first, and how many have ended in all: both at the same moment."""
        with self._changing:
            parts, ended = list(self._parts), self.count
        return np.concatenate([np.empty(0, LOGGED), *parts])[-self._kept :], ended
