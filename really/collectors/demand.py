"""Demand: how many rows one call needs, of how many agents, and which of the received results it delivers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from really._ray.remote_rows import fetched
from really.collectors.episodes import Records
from really.collectors.messages import Chunk

if TYPE_CHECKING:
    from really.data.record_batches import RecordBatch

# Rows of a message: enough to make its fixed cost (1 ms) small, and few enough that messages overlap with work.
MESSAGE_ROWS = 16_384


@dataclass(frozen=True)
class Part:
    """A part of a chunk: `results` results from number `first` on, which are rows `start` to `stop` of its batch."""

    chunk: Chunk
    first: int
    start: int
    results: int
    stop: int

    @classmethod
    def of(cls, chunk: Chunk) -> Part:
        """The part that holds all results of a chunk."""
        return cls(chunk, 0, 0, len(chunk.results), chunk.batch.num_rows)

    @property
    def rows(self) -> int:
        """Number of rows in this part."""
        return self.stop - self.start

    @property
    def batch(self) -> RecordBatch:
        """The rows of the part, as a view of the chunk's memory."""
        return self.chunk.batch.slice(self.start, self.rows)

    def batch_for(self, takes_remote_rows: bool) -> Any:
        """The rows of the part: where they are, if who takes them can fetch them, and else in this process."""
        return self.batch if takes_remote_rows else fetched(self.batch)

    @property
    def episodes(self) -> Records:
        """The episodes that ended in this part, whose `row` counts from the part's first row."""
        rows = self.chunk.episodes["row"]
        ended = self.chunk.episodes[(rows >= self.start) & (rows < self.stop)]
        ended["row"] -= self.start
        return ended

    @property
    def agents(self) -> set[int]:
        """The agents that have a result in this part."""
        return {result.agent for result in self.chunk.results[self.first : self.first + self.results]}

    def split(self, results: int) -> tuple[Part, Part]:
        """Two parts: the first `results` results, and the other ones."""
        head = self.chunk.results[self.first : self.first + results]
        stop = self.start + sum(result.rows for result in head)
        return (
            Part(self.chunk, self.first, self.start, results, stop),
            Part(self.chunk, self.first + results, stop, self.results - results, self.stop),
        )


@dataclass(frozen=True)
class Demand:
    """At least `rows` rows from at least `agents` different agents, in whole results."""

    rows: int
    agents: int

    def met(self, parts: Iterable[Part]) -> bool:
        """Whether the parts have enough rows of enough agents."""
        parts = list(parts)
        # Rows first: a call asks after each chunk, and the agents of all its results take much longer to find.
        if not parts or sum(part.rows for part in parts) < self.rows:
            return False
        return len(set().union(*(part.agents for part in parts))) >= self.agents

    def fewest(self, parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
        """Two lists: the parts up to the result that meets the demand, and the remaining parts."""
        delivered: list[Part] = []
        rows, agents = 0, set[int]()
        for number, part in enumerate(parts):
            for count, result in enumerate(part.chunk.results[part.first : part.first + part.results], start=1):
                rows += result.rows
                agents.add(result.agent)
                if rows >= self.rows and len(agents) >= self.agents:
                    head, tail = part.split(count)
                    return [*delivered, head], [*([tail] if tail.results else []), *parts[number + 1 :]]
            delivered.append(part)
        return delivered, []


def spread(
    results: int, agents: Sequence[int], turn: int, num_agents: int, weights: Sequence[float] | None = None
) -> NDArray[np.int_]:
    """Number of results per agent, `[num_agents]`: a share for each of `agents`.

    Shares are even, and the remainder goes to the agents from position `turn` on; or they are proportional to the
    `weights` of these agents, up to whole numbers.
    """
    quota = np.zeros(num_agents, np.int_)
    if weights is not None:
        exact = results * np.asarray(weights) / sum(weights)
        quota[list(agents)] = whole = exact.astype(np.int_)
        largest = np.argsort(whole - exact, kind="stable")[: results - int(whole.sum())]
        quota[np.asarray(agents)[largest]] += 1
        return quota
    each, extra = divmod(results, len(agents))
    quota[list(agents)] = each
    for position in range(turn, turn + extra):
        quota[agents[position % len(agents)]] += 1
    return quota


def waves(quota: NDArray[np.int_], rows_a_result: int, row_bytes: int, message_bytes: float) -> list[NDArray[np.int_]]:
    """The quota in waves that fit into messages: each wave has a few results of every agent.

    The size of a wave depends on the number of agents and not on the number of processes, so that a seeded run
    delivers its rows in the same order for any number of processes.
    """
    rows = int(min(MESSAGE_ROWS, message_bytes // max(row_bytes, 1)))
    most = max(1, rows // max(1, rows_a_result * len(quota)))
    return [np.clip(quota - done, 0, most) for done in range(0, int(quota.max(initial=0)), most)]
