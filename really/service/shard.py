"""A shard: a share of a buffer's rows, put and taken by their places. It decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.atomic_files import file_errors
from really.data.frames import FrameColumn
from really.replay import engine
from really.replay._ring import RingError
from really.replay.buffer import ReplayBuffer
from really.replay.units import Batch
from really.service.places import Places


class Shard(ReplayBuffer):
    """A `ReplayBuffer` whose rows have places: how many rows were meant for this shard before them.

    Places are those of the ledger. They have gaps where the shard refused rows.

    Args:
        *args: of `ReplayBuffer`.
        path: a folder for the rows and their places; None keeps them in memory.
        **options: of `ReplayBuffer`.
    """

    def __init__(self, *args: Any, path: Path | None = None, **options: Any) -> None:
        if path is None:
            super().__init__(*args, **options)
            self._places = Places()
            return
        with file_errors(path, "the folder of a shard"):
            path.mkdir(parents=True, exist_ok=True)
        super().__init__(*args, path=path / "rows", **options)
        try:
            self._places = Places(path / "places", self._num_put)
        except BaseException:
            self.close()
            raise

    @property
    def next_place(self) -> int:
        """The place after the last row."""
        return self._places.next_place(self._num_put)

    @property
    def runs(self) -> NDArray[np.int64]:
        """The rows that are held as runs of number, place and length, [run, 3] int64."""
        return self._places.runs(*((0, 0) if self._ring is None else self._ring.held_rows()))

    def put_at(self, place: int, number: int, rows: Any) -> None:
        """Appends rows: columns [n, ...] or a record batch. The first gets this place and this number.

        Rows that are there already are left out.

        Raises what `put` raises; then none of the rows is in.
        """
        num_there = max(0, self.next_place - place)
        if num_there < (num := num_rows_of(rows)):
            self._places.add(self._num_put, place + num_there, number + num_there)
            self.put(piece_of(rows, num_there, num))

    def has(self, place: int) -> bool:
        """Whether a row was put at this place: it is none that was refused, and none to come."""
        return self._places.has(place, self._num_put)

    def take_at(self, places: NDArray[np.int64]) -> Batch | None:
        """The batch of the rows at these places, [n] or [k, n]; None if one is no longer held."""
        ring = self._ring
        if ring is None:
            return None
        try:
            return self._draws.unit.take(ring, self._places.rings(places))
        except RingError as error:
            raise engine.translated(ring, error) from None

    def read_at(self, place: int, num: int) -> Batch | None:
        """`num` rows from this place on as they were put, whatever the sample unit; None if one is no longer held."""
        ring = self._ring
        if ring is None:
            return None
        return ring.take(self._places.rings(np.arange(place, place + num)), num, by_number=True)

    @property
    def _num_put(self) -> int:
        return 0 if self._ring is None else self._ring.num_put


def num_rows_of(rows: Any) -> int:
    """How many rows columns [n, ...], a record batch or `RemoteRows` have."""
    return len(next(iter(rows.values()))) if isinstance(rows, Mapping) else int(rows.num_rows)


def piece_of(rows: Any, start: int, stop: int) -> Any:
    """Rows `start` to before `stop`, in the same form, with all frames of a column that shares frames."""
    if not isinstance(rows, Mapping):
        return rows.slice(start, stop - start)
    return {key: _piece(column, start, stop) for key, column in rows.items()}


def _piece(column: Any, start: int, stop: int) -> Any:
    if start == 0 and stop == len(column):
        return column
    if isinstance(column, FrameColumn):
        return FrameColumn(column.frames, column.indices[start:stop], column.axis)
    return column[start:stop]
