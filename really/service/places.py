"""The places of a shard's rows, and their numbers in the whole buffer; in a file, if the rows are in one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from really._utils.atomic_files import file_errors, sync_folder
from really.errors import InvalidFileError

RING, PLACE, NUMBER = range(3)
"""Columns of an entry."""
WHAT = "the places of a shard's rows"
NO_ROW = -1
"""The ring's row of a place that has none."""
ENTRY = 24
"""Bytes of an entry in the file: three int64."""


class Places:
    """From which row of the ring on, places and numbers go on from which ones.

    A row's place is how many rows were meant for the shard before it, and its number how many rows the whole buffer had
    taken before it. Both have gaps. An entry is written before its rows are, so a kill leaves one without rows at most.

    Args:
        file: where entries are appended; None keeps them in memory alone.
        num_put: rows that the ring has taken so far.
        check: raises an error if the file is not this process's to write; it is called before each write.
    """

    def __init__(self, file: Path | None = None, num_put: int = 0, check: Callable[[], None] = lambda: None) -> None:
        self._file, self._has_file, self._check = file, file is not None and file.exists(), check
        self._table = np.zeros((1, 3), np.int64)
        self._looked_up: NDArray[np.int64] | None = None  # the table of which these are columns
        self._starts = self._shifts = self._ends = np.zeros(0, np.int64)
        if file is not None and self._has_file:
            self._read(file, num_put)
        elif num_put:
            raise InvalidFileError(f"{file}: expected a file with the places of {num_put:,} rows, got none")

    @classmethod
    def of_file(cls, file: Path) -> Self:
        """The places of a shard that another process writes; entries whose rows are to come are among them."""
        places = cls()
        places._append(cls._stored(file))
        return places

    def add(self, ring: int, place: int, number: int) -> None:
        """Says that the ring's row `ring`, which comes next, has this place and this number."""
        continues = ((ring, place, number) - self._table[-1] == ring - self._table[-1, RING]).all()
        if continues and (self._file is None or self._has_file):
            return
        entry = np.array([[ring, place, number]], np.int64)
        if self._file is not None:
            self._check()
            with file_errors(self._file, WHAT), open(self._file, "ab") as file:
                file.write(entry.tobytes())
            self._has_file = True
        self._append(entry)

    def rings(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ring's rows that have these places; `NO_ROW` for places of rows that were refused."""
        if self._looked_up is not self._table:
            self._starts, self._shifts = self._table[:, PLACE].copy(), self._table[:, RING] - self._table[:, PLACE]
            self._ends = np.append(self._table[1:, RING], np.iinfo(np.int64).max)
            self._looked_up = self._table
        if len(self._starts) == 1:
            shifted: NDArray[np.int64] = places + self._shifts[0]
            return shifted
        at = np.searchsorted(self._starts, places, side="right") - 1
        rows = places + self._shifts[at]
        found: NDArray[np.int64] = np.where(rows < self._ends[at], rows, NO_ROW)
        return found

    def of(self, rings: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number and place of these rows of the ring, [n, 2]."""
        entries = self._table[np.searchsorted(self._table[:, RING], rings, side="right") - 1]
        found: NDArray[np.int64] = entries[:, [NUMBER, PLACE]] + (rings - entries[:, RING])[:, None]
        return found

    def next_place(self, num_put: int) -> int:
        """The place after that of the last of `num_put` rows."""
        return int(self._table[-1, PLACE] + num_put - self._table[-1, RING])

    def has(self, place: int, num_put: int) -> bool:
        """Whether one of `num_put` rows was put at this place."""
        at = int(np.searchsorted(self._table[:, PLACE], place, side="right")) - 1
        if at < 0:
            return False
        end = num_put if at + 1 == len(self._table) else int(self._table[at + 1, RING])
        return bool(place - self._table[at, PLACE] + self._table[at, RING] < end)

    def runs(self, oldest: int, num_put: int) -> NDArray[np.int64]:
        """Of the ring's rows `oldest` to before `num_put`: runs of number, place and length, [run, 3]."""
        starts = self._table[:, RING]
        first, end = np.maximum(starts, oldest), np.minimum(np.append(starts[1:], num_put), num_put)
        skipped = first - starts
        runs = np.stack([self._table[:, NUMBER] + skipped, self._table[:, PLACE] + skipped, end - first], axis=1)
        found: NDArray[np.int64] = runs[runs[:, 2] > 0]
        return found

    def cut(self, ring: int) -> None:
        """Forgets the entries of the ring's rows from this one on."""
        kept = self._table[self._table[:, RING] < ring]
        if len(kept) < len(self._table):
            self._table = kept if len(kept) else np.zeros((1, 3), np.int64)
            if self._file is not None and self._has_file:
                self._write(self._file)

    def restart(self, ring: int, place: int, number: int) -> None:
        """Says that the ring's row `ring` has this place and this number, and forgets those of all rows before it."""
        self._table = np.array([[ring, place, number]], np.int64)
        if self._file is not None and self._has_file:
            self._write(self._file)

    def sync(self) -> None:
        """Returns when the file, if there is one, is on the disk, safe from a loss of power."""
        if self._file is not None and self._has_file:
            with file_errors(self._file, WHAT), open(self._file, "rb") as file:
                os.fsync(file.fileno())
            sync_folder(self._file.parent)

    def _append(self, entries: NDArray[np.int64]) -> None:
        """Appends entries; one without rows is replaced by the next."""
        table = np.concatenate([self._table, entries])
        self._table = table[np.append(np.diff(table[:, RING]) > 0, True)]

    @staticmethod
    def _stored(file: Path) -> NDArray[np.int64]:
        """The entries of a file, [entry, 3]."""
        with file_errors(file, WHAT):
            stored = file.read_bytes()
        entries = np.frombuffer(stored, np.int64, len(stored) // ENTRY * 3).reshape(-1, 3)
        if len(entries) and ((np.diff(entries, axis=0) < 0).any() or entries.min() < 0):
            raise InvalidFileError(f"{file}: expected places of rows that rise, got others: the file is damaged")
        return entries

    def _read(self, file: Path, num_put: int) -> None:
        entries = self._stored(file)
        self._append(entries[entries[:, RING] <= num_put])
        if file.stat().st_size != entries.nbytes or len(self._table) < len(entries):
            self._write(file)

    def _write(self, file: Path) -> None:
        """Replaces the file by one of the table."""
        self._check()
        with file_errors(file, WHAT):
            replacement = file.with_name(f"{file.name}.new")
            replacement.write_bytes(self._table.tobytes())
            replacement.replace(file)
