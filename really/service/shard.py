"""A shard: a share of a buffer's rows, put and taken by their places. It decides nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.replay import engine
from really.replay._ring import RingError
from really.replay.buffer import ReplayBuffer
from really.replay.units import Batch


class Shard(ReplayBuffer):
    """A `ReplayBuffer` whose rows have places: how many rows were meant for this shard before them.

    Places are those of the ledger. They have gaps where the shard refused rows.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # From the place `_from[i]` on, a row's number in the ring is its place less `_refused[i]`.
        self._from, self._refused = np.zeros(1, np.int64), np.zeros(1, np.int64)

    @property
    def next_place(self) -> int:
        """The place after the last row."""
        return (0 if self._ring is None else self._ring.num_put) + int(self._refused[-1])

    def put_at(self, place: int, rows: dict[str, Any]) -> None:
        """Appends rows, of which the first gets this place. Rows that are there already are left out.

        Raises what `put` raises; then none of the rows is in.
        """
        num_there = self.next_place - place
        if num_there < 0:
            self._from = np.append(self._from, place)
            self._refused = np.append(self._refused, self._refused[-1] - num_there)
        num = len(next(iter(rows.values())))
        if num_there < num:
            self.put(rows if num_there <= 0 else {key: column[num_there:] for key, column in rows.items()})

    def has(self, place: int) -> bool:
        """Whether a row was put at this place: it is none that was refused, and none to come."""
        at = int(np.searchsorted(self._from, place, side="right"))
        if at == len(self._from):
            return place < self.next_place
        num_refused = self._refused[at] - self._refused[at - 1]
        return bool(place < self._from[at] - num_refused)

    def take_at(self, places: NDArray[np.int64]) -> Batch | None:
        """The batch of the rows at these places, [n] or [k, n]; None if one is no longer held."""
        ring = self._ring
        if ring is None:
            return None
        numbers = places - self._refused[np.searchsorted(self._from, places, side="right") - 1]
        try:
            return self._draws.unit.take(ring, numbers)
        except RingError as error:
            raise engine.translated(ring, error) from None

    def read_at(self, place: int, num: int) -> Batch | None:
        """`num` rows from this place on as they were put, whatever the sample unit; None if one is no longer held."""
        ring = self._ring
        if ring is None:
            return None
        numbers = np.arange(place, place + num)
        numbers -= self._refused[np.searchsorted(self._from, numbers, side="right") - 1]
        return ring.take(numbers, num, by_number=True)
