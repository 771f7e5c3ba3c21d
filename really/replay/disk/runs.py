"""Runs of rows or frames in the files of a buffer on disk, with the CRC-32 of each run.

Rows and frames have numbers, and only updates of rows change them once they are committed. So the checksum of a run
stays right until the place of its first row or frame is used again; an update forgets those of the rows that it writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from really._utils.input_files import open_regular
from really.errors import FileError, InvalidValueError
from really.replay._ring import Ring
from really.replay.disk import frame_files
from really.replay.disk.schema import FolderSchema

RUN = np.dtype([("first", "<i8"), ("end", "<i8"), ("crc32", "<u4")])
"""Numbers of the first row or frame of a run and of the one after its last, and the CRC-32 of their bytes."""
RUN_NBYTES = 1 << 16
"""Bytes of a run, about: few enough to name the rows that are damaged."""
RECORDS = "records"

Runs = NDArray[np.void]
"""[run] of RUN, by number; runs do not overlap."""


class Items(Protocol):
    """Rows or frames of an open file, by number.

    Attributes:
        path: the file.
        nbytes: bytes of an item.
        per_run: most of them in a run, which begins at a multiple of it or where the one before ends.
    """

    path: Path
    nbytes: int
    per_run: int

    def read(self, first: int, end: int) -> bytes:
        """The bytes of the items from `first` to before `end`, which are in one run; fewer if the file ends."""


class OpenFile:
    """A file that is open for reading in a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = -1

    def __enter__(self) -> Self:
        self.handle = open_regular(self.path)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.handle)


class Rows(OpenFile):
    """The rows in the file `records`."""

    def __init__(self, folder: Path, schema: FolderSchema) -> None:
        self.nbytes, self._num_slots = schema.stride, schema.num_slots
        # Rows that are held are then in runs of which no row is overwritten yet.
        self.per_run = min(max(1, RUN_NBYTES // self.nbytes), schema.spare)
        super().__init__(folder / RECORDS)

    def read(self, first: int, end: int) -> bytes:
        """The bytes of these rows: [row, stride]."""
        slot, num = first % self._num_slots, end - first
        num_behind = min(num, self._num_slots - slot)
        parts = os.pread(self.handle, num_behind * self.nbytes, slot * self.nbytes)
        return parts + os.pread(self.handle, (num - num_behind) * self.nbytes, 0) if num > num_behind else parts


class Frames(OpenFile):
    """The frames in the file `frames.N`. `table` is the mapped `frames.N.table`, uint8."""

    def __init__(self, folder: Path, at: int, ring: Ring, table: NDArray[np.uint8]) -> None:
        self._block_nbytes, self._num_blocks = ring.frame_tables[at]
        self.nbytes, self._per_block = ring.frame_ranges[at][:2]
        self._blocks = table[frame_files.TABLE_HEAD :].view(np.uint32)
        whole = max(1, RUN_NBYTES // self.nbytes)
        self.per_run = min(1 << (whole.bit_length() - 1), self._per_block)  # so that a run is in one block
        super().__init__(folder / frame_files.names(at)[0])

    def read(self, first: int, end: int) -> bytes:
        """The bytes of these frames: [frame, stride]."""
        block, place = divmod(first, self._per_block)
        index = int(self._blocks[block % self._num_blocks]) - 1
        if index < 0:
            return b""
        return os.pread(self.handle, (end - first) * self.nbytes, index * self._block_nbytes + place * self.nbytes)


@contextlib.contextmanager
def opened(folder: Path, schema: FolderSchema, ring: Ring, tables: list[NDArray[np.uint8]]) -> Iterator[list[Items]]:
    """The rows of a buffer, then the frames of each file of frames, to be read by number."""
    with contextlib.ExitStack() as files:
        found = closed(folder, schema, ring, tables)
        for items in found:
            files.enter_context(items)
        yield list(found)


def closed(
    folder: Path, schema: FolderSchema, ring: Ring, tables: list[NDArray[np.uint8]]
) -> tuple[Rows | Frames, ...]:
    """The same before their files are open: what their numbers are."""
    return Rows(folder, schema), *(Frames(folder, at, ring, table) for at, table in enumerate(tables))


def none() -> Runs:
    """No runs."""
    return np.zeros(0, RUN)


def extended(runs: Runs, items: Items, first: int, end: int) -> Runs:
    """The runs, and those of the items from `first` to before `end` that come after the last of them.

    Raises OSError if the file cannot be read.
    """
    start, crc32 = first, 0
    if len(runs) and (last := int(runs["end"][-1])) >= first:
        if last >= end:
            return runs
        first = start = last
        if last % items.per_run:
            start, crc32, runs = int(runs["first"][-1]), int(runs["crc32"][-1]), runs[:-1]
    new = []
    while first < end:
        stop = min(end, (first // items.per_run + 1) * items.per_run)
        new.append((start, stop, _crc32(items, first, stop, crc32)))
        first, start, crc32 = stop, stop, 0
    return np.concatenate([runs, np.array(new, RUN)])


def without(runs: Runs, numbers: NDArray[np.int64]) -> Runs:
    """The runs that have none of these rows."""
    places = np.searchsorted(runs["first"], numbers, "right") - 1
    places = places[(places >= 0) & (numbers < np.append(runs["end"], 0)[places])]
    return np.delete(runs, np.unique(places))


def gaps(runs: Runs, first: int, end: int) -> list[tuple[int, int]]:
    """(first, end) of the rows from `first` to before `end` that are in no run."""
    starts, ends = np.maximum(np.append(first, runs["end"]), first), np.append(runs["first"], end)
    found = starts < ends
    return list(zip(starts[found].tolist(), ends[found].tolist(), strict=True))


def filled(runs: Runs, items: Items, first: int) -> Runs:
    """The runs, and those of the rows from `first` on, and between runs, that are in none.

    Raises OSError if the file cannot be read.
    """
    new = []
    for start, stop in gaps(runs[:-1], first, int(runs["first"][-1])) if len(runs) else []:
        while start < stop:
            to = min(stop, (start // items.per_run + 1) * items.per_run)
            new.append((start, to, _crc32(items, start, to, 0)))
            start = to
    return np.sort(np.concatenate([runs, np.array(new, RUN)]), order="first")


def cut(runs: Runs, items: Items, end: int) -> Runs:
    """The runs of the items before `end`. A run that is damaged stays so when it is cut."""
    left = runs[runs["first"] < end].copy()
    if len(left) and left["end"][-1] > end:
        wrong = content(items, left[-1]) is None
        left["end"][-1] = end
        left["crc32"][-1] = _crc32(items, int(left["first"][-1]), end, 0) ^ wrong
    return left


def content(items: Items, run: np.void) -> bytes | None:
    """The bytes of a run; None if they are not those of its checksum, or cannot be read."""
    first, end, crc32 = run.tolist()
    try:
        found = items.read(first, end)
    except OSError:
        return None
    return found if len(found) == (end - first) * items.nbytes and zlib.crc32(found) == crc32 else None


def check(runs: Runs, per_run: int) -> None:
    """Raises ValueError unless these can be runs of at most `per_run` items."""
    first, end = runs["first"].copy(), runs["end"].copy()  # in a row, and aligned: they are looked at several times
    if not ((first >= 0) & (end > first) & (end - first <= per_run)).all():
        raise InvalidValueError(f"expected runs of 1 to {per_run} rows or frames")
    if (first[1:] < end[:-1]).any():
        raise InvalidValueError("expected runs one after the other")


def _crc32(items: Items, first: int, end: int, start: int) -> int:
    content = items.read(first, end)
    if len(content) != (end - first) * items.nbytes:
        raise FileError(errno.EIO, f"{items.path}: expected {end - first} rows or frames, got fewer bytes")
    return zlib.crc32(content, start)
