"""Branches of a buffer on disk: they tell rows of a checkpoint from others that have taken their numbers.

A buffer that returns to a checkpoint gives later numbers to new rows. A copy of its folder does, too. So each process
begins a branch with a random key before its first put to a folder, and so does each return. A checkpoint keeps the
branches of its rows. Where they differ from those of the folder, the folder has other rows.

The branches are a part of the cursor page (`cursor_page.py`), as a log of the last ones:

    bytes 512 to 520   int64: how often a branch has begun
    bytes 528 to 1552  64 places of two int64 each: the number of the branch's first row, and its key; branch n is at
                       n % 64. The place that the next one takes is not read, so that a kill leaves no wrong branch.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PLACES = 64
COUNT, LOG = slice(512, 520), slice(528, 528 + 16 * PLACES)
KEY_BITS = 61

Branch = Sequence[int]
"""The number of the first row, and a key."""


def begin(page: NDArray[np.uint8], num_put: int) -> None:
    """Begins a branch with the next row. `page` [4096] uint8 is the cursor page of the process that writes."""
    count, log, key = _parts(page)[0], _log(page), secrets.randbits(KEY_BITS)
    present = read(page)
    if present and present[-1][0] == num_put:
        log[(count - 1) % PLACES, 1] = key  # no row is of that branch
        return
    log[count % PLACES] = num_put, key
    page[COUNT].view(np.int64)[0] = count + 1


def read(page: NDArray[np.uint8]) -> list[list[int]]:
    """The branches of the rows that are there, oldest first. Rows before the first of them are of unknown branches."""
    found = list[list[int]]()
    for first, key in _parts(page)[1]:
        # A return has dropped the rows of later numbers.
        while found and found[-1][0] >= first:
            found.pop()
        found.append([first, key])
    return found


def of_rows(page: NDArray[np.uint8], first: int, end: int) -> list[list[int]]:
    """The branches of these rows."""
    found = [branch for branch in read(page) if branch[0] < end]
    return found[max(0, bisect_right([start for start, _ in found], first) - 1) :]


def common_end(saved: Sequence[Branch], present: Sequence[Branch], first: int, end: int) -> int:
    """The first of these rows that is of another branch now; `end` if none is known to be."""
    starts = {first, *(start for start, _ in (*saved, *present) if first < start < end)}
    for start in sorted(starts):
        keys = _key(saved, start), _key(present, start)
        if None not in keys and keys[0] != keys[1]:
            return start
    return end


def _key(branches: Sequence[Branch], row: int) -> int | None:
    at = bisect_right([start for start, _ in branches], row)
    return branches[at - 1][1] if at else None


def _parts(page: NDArray[np.uint8]) -> tuple[int, list[list[int]]]:
    """How often a branch has begun, and what the log has of the last ones."""
    count, log = int(page[COUNT].view(np.int64)[0]), _log(page)
    if not 0 <= count < 1 << 60:
        return 0, []
    return count, [log[n % PLACES].tolist() for n in range(max(0, count - PLACES + 1), count)]


def _log(page: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[place, 2] int64, as a view of the page."""
    return page[LOG].view(np.int64).reshape(PLACES, 2)
