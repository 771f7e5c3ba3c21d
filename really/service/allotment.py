"""Allotment: which shard takes the rows of a put."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RUN = 4096
"""Rows that one shard takes in a row, at most, if their maker does not matter."""


class Piece(NamedTuple):
    """Rows `start` to before `stop` of a put, for one shard."""

    shard: int
    start: int
    stop: int


class Allotment:
    """Gives rows to one shard until its run is long enough, and then to the one with the most room.

    Args:
        capacity: rows of the whole buffer.
        num_shards: how many shards there are.
    """

    def __init__(self, capacity: int, num_shards: int) -> None:
        self._most = max(1, min(RUN, capacity // (4 * num_shards)))
        self._shard, self._length = 0, 0

    def pieces(self, num: int, rooms: NDArray[np.int64], home: int | None = None) -> list[Piece]:
        """The pieces of a put of `num` rows, in order; `rooms` are the rows for which each shard has room.

        With a `home`, its shard takes the rows as far as it has room.
        """
        rooms, found, start = rooms.copy(), list[Piece](), 0
        while start < num:
            shard = self._choice(rooms) if home is None or rooms[home] <= 0 else home
            most = int(rooms[shard]) if shard == home else min(int(rooms[shard]), self._most - self._length)
            if most <= 0:
                raise AssertionError(f"{num - start} rows of a put: expected room in a shard, got {rooms}")
            found.append(self._noted(Piece(shard, start, min(num, start + most))))
            rooms[shard] -= found[-1].stop - start
            start = found[-1].stop
        return found

    @property
    def shard(self) -> int:
        """The shard that took rows last."""
        return self._shard

    def resume_in(self, shard: int) -> None:
        """Says that this shard took the last rows."""
        self._shard, self._length = shard, 0

    def next_shard(self, num: int, counts: NDArray[np.int64], rooms: NDArray[np.int64]) -> int:
        """The shard for a put of `num` rows that is not divided; `counts` are the rows of each shard.

        It has room for all of them, if one has: a shard that is lost has the fewest rows, and no room.
        """
        has_room = rooms >= min(num, rooms.max())
        if self._length < self._most and has_room[self._shard]:
            return self._shard
        return int(np.where(has_room, counts, np.iinfo(np.int64).max).argmin())

    def _choice(self, rooms: NDArray[np.int64]) -> int:
        """The shard that goes on, or begins, with a run."""
        if self._length >= self._most or rooms[self._shard] <= 0:
            self._shard, self._length = int(rooms.argmax()), 0
        return self._shard

    def _noted(self, piece: Piece) -> Piece:
        if piece.shard != self._shard:
            self._shard, self._length = piece.shard, 0
        self._length += piece.stop - piece.start
        return piece
