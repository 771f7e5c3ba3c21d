"""Shards in this process that are lost, go away and come back as those on nodes do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from really.service import ShardedBuffer
from really.service.shard import Shard, num_rows_of
from really.service.shards import Answer, Event, LocalShards, SilentShardError


class UnsteadyShards(LocalShards):
    """Shards that a test makes silent; the learner knows it once it has asked one, or from `lose` and `leave`.

    Attributes:
        silent: those that do not answer.
        joins_at: a shard joins, as if another thread settled, while the others answer the first call of this method.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.nodes = [f"node {number}" for number in range(len(self.names))]
        self.silent = set[int]()
        self.joins_at = ""
        self._known = set[int]()
        self._events, self._refused = list[Event](), list[Event]()
        self._refuses = False

    def lose(self, shard: int) -> None:
        """A shard is gone for good, and its rows with it."""
        self.silent.add(shard)
        self._known.add(shard)
        self._events.append(Event(shard, "lost", 0, self._shards[shard].next_place))

    def leave(self, shard: int) -> None:
        """A shard no longer answers."""
        self.silent.add(shard)
        self._note(shard)

    def come_back(self, shard: int) -> None:
        """A shard that was away answers again."""
        self.silent.remove(shard)
        self._known.discard(shard)
        self._events.append(Event(shard, "back"))

    def refuse_next_put(self) -> None:
        """The shard of the next put refuses it, which the learner knows after the put after that."""
        self._refuses = True

    def put(self, shard: int, place: int, number: int, rows: Any) -> None:
        if self._refuses:
            self._refuses = False
            self._refused.append(Event(shard, "refused", place, place + num_rows_of(rows)))
        else:
            super().put(shard, place, number, rows)
            self._events += self._refused
            self._refused = []

    def settle(self) -> Sequence[Event]:
        events, self._events = self._events, []
        return events

    @property
    def rooms(self) -> NDArray[np.int64]:
        return self._rooms * [shard not in self._known for shard in range(len(self._rooms))]

    @property
    def sole(self) -> None:
        return None

    def ask(self, shard: int, places: NDArray[np.int64]) -> Answer:
        return self._no_answer if self._is_silent(shard) else super().ask(shard, places)

    def each(
        self, method: str, arguments: Sequence[tuple[Any, ...] | None] | None = None, limit: float | None = None
    ) -> list[Any]:
        given = [()] * len(self.names) if arguments is None else arguments
        answering = [None if each is None or self._is_silent(shard) else each for shard, each in enumerate(given)]
        answers = super().each(method, answering, limit)
        if method == self.joins_at:
            self.joins_at = ""
            self._join()
        return answers

    def _join(self) -> None:
        number, folder = len(self.names), self._folders[0]
        path = None if folder is None else folder.with_name(f"shard-{number:03d}")
        self._shards.append(Shard(**self._made, spec=self._shards[0].spec, path=path))
        self._rooms = np.append(self._rooms, self._shards[-1].capacity)
        self.nodes.append(f"node {number}")
        self.names.append(f"shard {number}")
        self._events.append(Event(number, "joined", 0))

    def _is_silent(self, shard: int) -> bool:
        if shard in self.silent:
            self._note(shard)
        return shard in self.silent

    def _note(self, shard: int) -> None:
        if shard not in self._known:
            self._known.add(shard)
            self._events.append(Event(shard, "away"))

    @staticmethod
    def _no_answer() -> None:
        raise SilentShardError


def unsteady(
    monkeypatch: pytest.MonkeyPatch, capacity: int, num: int, **options: Any
) -> tuple[ShardedBuffer, UnsteadyShards]:
    """A buffer in so many shards, and these."""
    made: list[UnsteadyShards] = []

    def make(number: int, options: Any, time_out: float, path: Any, given: Any) -> UnsteadyShards:
        made.append(UnsteadyShards(number, options, path, given))
        return made[0]

    monkeypatch.setattr("really.service.sharded_buffer.make_shards", make)
    return ShardedBuffer(capacity, shards=num, seed=5, **options), made[0]
