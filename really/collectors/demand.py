"""Demand: how many rows one call needs, of how many agents, and which of the received results it delivers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from really._ray.remote_rows import fetched
from really.collectors.episodes import Records
from really.collectors.messages import Chunk

if TYPE_CHECKING:
    from really.data.record_batches import RecordBatch

# Rows of all agents in one round of messages. A message costs driver, runner and Ray some milliseconds, so that few
# messages are cheaper; but only several of them overlap with work. A call of many rounds has longer messages.
MESSAGE_ROWS, LONG_MESSAGE_ROWS, ROUNDS = 32_768, 131_072, 16
# Rows of all agents in one round of streamed orders: few enough that new settings apply soon. Fast runners get as many
# as they collect in these seconds.
STREAMED_ROWS, STREAMED_SECONDS = 4096, 0.05


@dataclass(frozen=True)
class Part:
    """A part of a chunk: `count` results from number `first` on, which are rows `start` to `stop` of its batch."""

    chunk: Chunk
    first: int
    start: int
    count: int
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
        """The rows, fetched to this process, unless the buffer takes references to rows that stayed on their node."""
        return self.batch if takes_remote_rows else fetched(self.batch)

    @property
    def results(self) -> Records:
        """The results of the part, as records of `RESULT`."""
        return self.chunk.results[self.first : self.first + self.count]

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
        return set(self.results["agent"].tolist())

    def split(self, count: int) -> tuple[Part, Part]:
        """Two parts: the first `count` results, and the other ones."""
        stop = self.start + int(self.results["rows"][:count].sum())
        return (
            Part(self.chunk, self.first, self.start, count, stop),
            Part(self.chunk, self.first + count, stop, self.count - count, self.stop),
        )


@dataclass(frozen=True)
class Demand:
    """At least `rows` rows from at least `agents` different agents, in whole results."""

    rows: int
    agents: int

    def met(self, arrivals: Arrivals) -> bool:
        """Whether enough rows of enough agents have arrived."""
        # Rows first: a call asks after each chunk, and the agents of all its results take much longer to find.
        return bool(arrivals) and arrivals.rows >= self.rows and len(arrivals.agents) >= self.agents

    def fewest(self, parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
        """Two lists: the parts up to the result that meets the demand, and the remaining parts."""
        rows, agents = 0, set[int]()
        for number, part in enumerate(parts):
            rows_after = rows + np.cumsum(part.results["rows"])
            for count in (np.flatnonzero(rows_after >= self.rows) + 1).tolist():
                if len(agents.union(part.results["agent"][:count].tolist())) >= self.agents:
                    head, tail = part.split(count)
                    return [*parts[:number], head], [*([tail] if tail.count else []), *parts[number + 1 :]]
            rows, agents = rows + part.rows, agents | part.agents
        return list(parts), []


class Arrivals:
    """Parts that have arrived and wait for their delivery, by the number of their order.

    Attributes:
        rows: number of their rows.
    """

    def __init__(self) -> None:
        self._parts: dict[int, Part] = {}
        self.rows = 0

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Part]:
        """The parts, by the number of their order."""
        return (self._parts[number] for number in sorted(self._parts))

    @property
    def agents(self) -> set[int]:
        """The agents that have a result in them."""
        return set().union(*(part.agents for part in self._parts.values()))

    def add(self, number: int, part: Part) -> None:
        """Adds the part that answers order `number`."""
        self._parts[number] = part
        self.rows += part.rows

    def take(self, demand: Demand) -> list[Part]:
        """Takes out the parts that meet a demand; what is left of the last one stays."""
        numbers = sorted(self._parts)
        taken, kept = demand.fewest(list(self))
        self._parts = dict(zip(numbers[len(numbers) - len(kept) :], kept, strict=True))
        self.rows -= sum(part.rows for part in taken)
        return taken

    def drop_older(self, version: float) -> int:
        """Drops the parts whose policy version is older than `version`; returns the number of their rows."""
        kept = {number: part for number, part in self._parts.items() if part.results["version"][0] >= version}
        before, self._parts = self.rows, kept
        self.rows = sum(part.rows for part in kept.values())
        return before - self.rows


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


def waves(
    quota: NDArray[np.int_], rows_a_result: int, row_bytes: int, message_bytes: float, *, grows: bool = False
) -> list[NDArray[np.int_]]:
    """The quota in waves that fit into messages: each wave has a few results of every agent.

    `grows` lets calls of many rows have longer messages. The size of a wave does not depend on the number of processes,
    so that a seeded run delivers its rows in the same order for any number of them.
    """
    rows = message_rows(row_bytes, message_bytes, int(quota.sum()) * rows_a_result if grows else 0)
    most = max(1, rows // max(1, rows_a_result * len(quota)))
    return [np.clip(quota - done, 0, most) for done in range(0, int(quota.max(initial=0)), most)]


def message_rows(row_bytes: int, message_bytes: float, call_rows: int = 0) -> int:
    """Rows of all agents in one round of messages of a call, of which none is larger than `message_bytes`."""
    rows = min(max(call_rows // ROUNDS, MESSAGE_ROWS), LONG_MESSAGE_ROWS)
    return int(min(rows, message_bytes // max(row_bytes, 1)))


def streamed_rows(rows_per_second: float, most: int) -> float:
    """Rows of all agents in one round of streamed orders, for runners that together collect so many per second."""
    return max(STREAMED_ROWS, min(STREAMED_SECONDS * rows_per_second, most))
