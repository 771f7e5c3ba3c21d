"""What one call still needs: how many results, of which agents, and which of those that came are delivered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from really.collectors.messages import Chunk

if TYPE_CHECKING:
    import pyarrow as pa

# A message of about this much is large enough to make its fixed cost (1 ms) small and small enough to overlap.
MESSAGE_ROWS = 16_384


@dataclass(frozen=True)
class Part:
    """The first `results` results of a chunk from `first` on: rows `start` to `stop` of its batch."""

    chunk: Chunk
    first: int
    start: int
    results: int
    stop: int

    @classmethod
    def whole(cls, chunk: Chunk) -> Part:
        """All of a chunk."""
        return cls(chunk, 0, 0, len(chunk.results), chunk.batch.num_rows)

    @property
    def rows(self) -> int:
        """Number of rows in this part."""
        return self.stop - self.start

    @property
    def batch(self) -> pa.RecordBatch:
        """The part's rows, in the chunk's memory."""
        return self.chunk.batch.slice(self.start, self.rows)

    @property
    def agents(self) -> set[int]:
        """The agents that have a result in this part."""
        return {result.agent for result in self.chunk.results[self.first : self.first + self.results]}

    def split(self, results: int) -> tuple[Part, Part]:
        """The part's first `results` results, and the rest."""
        taken = self.chunk.results[self.first : self.first + results]
        stop = self.start + sum(result.rows for result in taken)
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
        """Whether the parts suffice."""
        held = list(parts)
        enough_agents = len(set().union(*(part.agents for part in held))) >= self.agents if held else False
        return enough_agents and sum(part.rows for part in held) >= self.rows

    def fewest(self, parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
        """The parts in their order up to the result that meets the demand, and what is left over."""
        taken: list[Part] = []
        rows, agents = 0, set[int]()
        for at, part in enumerate(parts):
            for count, result in enumerate(part.chunk.results[part.first : part.first + part.results], start=1):
                rows += result.rows
                agents.add(result.agent)
                if rows >= self.rows and len(agents) >= self.agents:
                    head, tail = part.split(count)
                    return [*taken, head], [*([tail] if tail.results else []), *parts[at + 1 :]]
            taken.append(part)
        return taken, []


def spread(results: int, agents: Sequence[int], turn: int, num_agents: int) -> NDArray[np.int_]:
    """Results an agent `[num_agents]`, shared out evenly among `agents`; who gets one more goes round with `turn`."""
    quota = np.zeros(num_agents, np.int_)
    each, extra = divmod(results, len(agents))
    quota[list(agents)] = each
    for at in range(extra):
        quota[agents[(turn + at) % len(agents)]] += 1
    return quota


def waves(quota: NDArray[np.int_], rows_a_result: int, row_bytes: int, message_bytes: float) -> list[NDArray[np.int_]]:
    """The quota in portions of about a message a runner: a few results of every agent at a time.

    Their size depends on the number of agents and not of processes, so that a seeded run delivers the same order.
    """
    rows = int(min(MESSAGE_ROWS, message_bytes // max(row_bytes, 1)))
    most = max(1, rows // max(1, rows_a_result * len(quota)))
    return [np.clip(quota - done, 0, most) for done in range(0, int(quota.max(initial=0)), most)]
