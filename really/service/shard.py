"""A shard: a share of a buffer's rows, put and taken by their places. It decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really._utils.atomic_files import file_errors, replacing
from really._utils.input_files import read_small
from really.data.frames import FrameColumn
from really.errors import InvalidValueError
from really.replay import engine
from really.replay._ring import Ring, RingError
from really.replay.arguments import sizes_of
from really.replay.buffer import ReplayBuffer
from really.replay.disk import schema
from really.replay.moments import Moment
from really.replay.removed_rows import from_text, removed_rows, to_text
from really.replay.samplers import Shape
from really.replay.units import Batch
from really.service.ledger import NOWHERE
from really.service.places import NO_ROW, Places
from really.service.wire import SentRows, sent_rows

OWNER = "ledger"
"""The file that says which sharded buffer a shard's folder is of."""
LONGEST_OWNER = 64
"""Bytes that its content has at most."""
ROWS, PLACES = "rows", "places"
"""The folder of its rows, and the file of their places."""


class Owner(NamedTuple):
    """The sharded buffer that a folder is of: what distinguishes it from all others, and its capacity, 0 if unknown."""

    identity: str
    capacity: int


class Shard(ReplayBuffer):
    """A `ReplayBuffer` whose rows have places: how many rows were meant for this shard before them.

    Places are those of the ledger. They have gaps where the shard refused rows.

    Args:
        capacity: for how many rows a new shard has room; a folder keeps the room that it was made with.
        *args: of `ReplayBuffer`.
        path: a folder for the rows and their places; None keeps them in memory.
        **options: of `ReplayBuffer`.
    """

    def __init__(self, capacity: int, *args: Any, path: Path | None = None, **options: Any) -> None:
        self._home = path
        if path is None:
            super().__init__(capacity, *args, **options)
            self._places = Places()
            return
        if schema.read(path.parent) is not None:
            raise InvalidValueError(f"path: expected a folder for shards, got {path.parent}, which has a ReplayBuffer")
        with file_errors(path, "the folder of a shard"):
            path.mkdir(parents=True, exist_ok=True)
        stored = schema.read(path / ROWS)
        super().__init__(stored["capacity"] if stored else capacity, *args, path=path / ROWS, **options)
        try:
            self._places = Places(path / PLACES, self._num_put, self._storage.check_files)
        except BaseException:
            self.close()
            raise

    @property
    def owner(self) -> Owner | None:
        """The sharded buffer that the folder is of; None if it is of none yet."""
        file = None if self._home is None else self._home / OWNER
        if file is None or not file.exists():
            return None
        with file_errors(file, "the buffer of a shard"):
            identity, _, capacity = read_small(file, LONGEST_OWNER).decode("ascii", "replace").partition(" ")
        return Owner(identity, int(capacity) if capacity.isdecimal() else 0)

    def belong_to(self, owner: Owner) -> bool:
        """Writes into the folder, if there is one, which sharded buffer it is of; returns True."""
        if self._home is not None:
            self._storage.check_files()
            with replacing(self._home / OWNER, b"", "the buffer of a shard") as file:
                file.write(f"{owner.identity} {owner.capacity}".encode("ascii"))
        return True

    @property
    def next_place(self) -> int:
        """The place after the last row."""
        return self._places.next_place(self._num_put)

    @property
    def runs(self) -> NDArray[np.int64]:
        """The rows that are held as runs of number, place and length, [run, 3] int64."""
        return self._places.runs(*((0, 0) if self._ring is None else self._ring.held_rows()))

    @property
    def removed(self) -> NDArray[np.int64]:
        """Number and place of the rows that are held and removed, [n, 2] int64."""
        if self._ring is None or not self._ring.num_removed:
            return np.zeros((0, 2), np.int64)
        return self._places.of(removed_rows(self._ring))

    def removed_at(self) -> NDArray[np.int64]:
        """`removed`, for other processes."""
        return self.removed

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

    def sample_of(self, drawing: Ring, shape: Shape, distinct: bool) -> Batch | None:
        """The batch of the rows that another ring draws, if both have as many rows; None otherwise."""
        ring = self._ring
        if ring is None:
            return None
        try:
            return ring.sample_of(drawing, *sizes_of(shape), distinct)
        except RingError as error:
            raise engine.translated(ring, error) from None

    def take_at(self, places: NDArray[np.int64]) -> Batch | None:
        """The batch of the rows at these places, [n] or [k, n]; None if one is no longer held."""
        ring = self._ring
        if ring is None:
            return None
        try:
            return self._draws.unit.take(ring, self._places.rings(places))
        except RingError as error:
            raise engine.translated(ring, error) from None

    def send_at(self, places: NDArray[np.int64]) -> SentRows | None:
        """The rows at these places [n], in ascending order, for another node; None if one is no longer held."""
        ring = self._ring
        return None if ring is None else sent_rows(ring, self._places.rings(places))

    def read_shared_at(self, place: int, num: int) -> dict[str, Any] | None:
        """`read_at` with a `FrameColumn` for each key that shares frames; the rows are of one run."""
        ring = self._ring
        return None if ring is None else ring.read(int(self._places.rings(np.array(place))), num)

    def columns_at(self, places: NDArray[np.int64], keys: list[str]) -> Batch | None:
        """These columns of the rows at these places [n], in ascending order; None if one is no longer held.

        The rows may be removed. Columns that share frames cannot be had.
        """
        ring = self._ring
        if ring is None or len(places) == 0:
            return None
        numbers = self._places.rings(places)
        if (numbers == NO_ROW).any():
            return None
        first, end = int(numbers[0]), int(numbers[-1]) + 1
        kinds = {key: (ring.dtypes[at], ring.shapes[at]) for at, key in enumerate(ring.names) if key in keys}
        found = {key: np.empty((end - first, *kinds[key][1]), kinds[key][0]) for key in keys}
        if not ring.read_keys(first, end - first, found):
            return None
        return {key: column[numbers - first] for key, column in found.items()}

    def continues_at(
        self, before: NDArray[np.int64], places: NDArray[np.int64], pairs: list[tuple[int, int]]
    ) -> NDArray[np.bool_] | None:
        """`Ring.continues` of the rows at these places [n]; None if one is no longer held."""
        ring = self._ring
        if ring is None:
            return None
        return ring.continues(self._places.rings(before), self._places.rings(places), pairs)

    def remove_at(self, places: NDArray[np.int64]) -> int:
        """Removes the rows at these places [n]; returns how many of them were left."""
        return self.remove(self._places.rings(places))

    def update_at(self, places: NDArray[np.int64], columns: Batch) -> int:
        """Writes columns [n, ...] of the rows at these places [n]; returns how many of them are written."""
        return self.update(self._places.rings(places), columns)

    def verify_at(self) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
        """`verify` with numbers in the whole buffer: rows that may be damaged, rows without a checksum, and files."""
        found = self.verify()
        if self._ring is None or found.num_rows == 0:
            return found.damaged, found.unchecked, found.files
        damaged, unchecked = (self._places.of(self.numbers(ages))[:, 0] for ages in (found.damaged, found.unchecked))
        return damaged, unchecked, found.files

    def make_durable(self) -> bool:
        """`flush`, and the places too; returns True."""
        self.flush()
        self._places.sync()
        return True

    def about(self) -> tuple[str | None, int]:
        """What distinguishes the folder from all others, None in memory; and `next_place`."""
        moments = self.moments
        return None if moments is None else moments.identity, self.next_place

    def take_moment(self, place: int) -> Moment | None:
        """This moment, of which a checkpoint needs the rows from this place on, or none if it is `NOWHERE`.

        Returns None in memory.
        """
        moments = self.moments
        if moments is None:
            return None
        moment = moments.take(self.state_dict(), durable=False)
        wanted = moment.num_put if place == NOWHERE else int(self._places.rings(np.array(place)))
        first = max(moment.first, wanted)
        removed = from_text(moment.removed, moment.num_rows) - (first - moment.first)
        return replace(moment, first=first, removed=to_text(removed[removed >= 0]))

    def keep_moment(self, moment: Moment) -> bool:
        """Keeps the rows of this moment as long as there is spare room; returns True."""
        assert self.moments is not None
        self.moments.keep(moment)
        return True

    def left_of(self, moment: Moment) -> tuple[int, int]:
        """Places from the first row of a moment that is left to before the last one; (0, 0) for none."""
        assert self.moments is not None
        self.moments.check(moment, "accept")
        runs = self._places.runs(*self.moments.left(moment))
        return (int(runs[0, 1]), int(runs[-1, 1] + runs[-1, 2])) if len(runs) else (0, 0)

    def return_to(self, moment: Moment, place: int, number: int) -> bool:
        """Returns to a moment, after which rows from this place and this number on come; returns True."""
        assert self.moments is not None
        self.moments.roll_back(moment, "accept", tells=False)
        # The rows go first: a kill in between leaves places of no rows, not rows without places.
        self._places.cut(min(moment.num_put, self._num_put))
        if self.next_place != place:
            self._places.add(self._num_put, place, number)
        return True

    def forget(self, place: int, number: int) -> bool:
        """Drops all rows, after which rows from this place and this number on come; returns True."""
        self.clear()
        self._places.restart(self._num_put, place, number)
        return True

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
