"""A shard's folder, read by another process of its node while the shard writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really.errors import ReallyError
from really.replay import engine
from really.replay._ring import RingError
from really.replay.buffer import ReplayBuffer
from really.replay.units import Batch
from really.service.places import Places
from really.service.shard import PLACES, ROWS


class MappedRows(ReplayBuffer):
    """The rows of a shard, open for reading."""

    def take_numbers(self, numbers: NDArray[np.int64]) -> Batch | None:
        """The batch of these rows of the ring, [n] or [k, n]; None if one is not held."""
        ring = self._ring
        if ring is None:
            return None
        oldest, newest = ring.held_rows()
        if numbers.size and not oldest <= int(numbers.min()) <= int(numbers.max()) < newest:
            return None
        try:
            return self._draws.unit.take(ring, numbers)
        except RingError as error:
            raise engine.translated(ring, error) from None


class Unreadable(NamedTuple):
    """Why a folder cannot be read: for good, or while its shard is made anew or returns to a checkpoint."""

    error: ReallyError


class MappedShard:
    """Takes rows of a folder by their places. Rows are mapped, not copied to another process.

    Attributes:
        problem: the error of the last call; None if the folder could be read.

    Args:
        folder: of the shard.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._rows: MappedRows | None = None
        self._places = Places()
        self._seen: tuple[int, ...] = ()
        self.problem: ReallyError | None = None

    def told_at(self, places: NDArray[np.int64]) -> Batch | Unreadable | None:
        """`take_at`, or why the folder cannot be read."""
        batch = self.take_at(places)
        return batch if self.problem is None else Unreadable(self.problem)

    def take_at(self, places: NDArray[np.int64]) -> Batch | None:
        """The batch of the rows at these places, [n] or [k, n]; None if one is not held, or if there is a problem."""
        self.problem = None
        try:
            self._look()
            assert self._rows is not None
            return self._rows.take_numbers(self._places.rings(places))
        except ReallyError as error:
            self.problem = error
            self.close()  # it is opened again: the shard may have been made anew, or have returned to a checkpoint
            return None

    def close(self) -> None:
        """Closes the folder; the next call opens it again."""
        if self._rows is not None:
            self._rows.close()
        self._rows, self._seen = None, ()

    def _look(self) -> None:
        """Reads the places that were added since the last call."""
        file = self._folder / PLACES
        try:
            found = file.stat()
        except OSError as error:
            raise ReallyError(f"{file}: {error}") from error
        seen = found.st_ino, found.st_size, found.st_mtime_ns
        if self._rows is None:
            self._rows = MappedRows.open(self._folder / ROWS)
        if seen != self._seen:
            self._places, self._seen = Places.of_file(file), seen


class ShardDoor:
    """The class of an actor that gives processes of other nodes the rows of the owner's node."""

    def __init__(self, folder: str) -> None:
        self._shard = MappedShard(folder)

    def take_at(self, places: NDArray[np.int64]) -> Any:
        """`MappedShard.told_at`."""
        return self._shard.told_at(places)
