"""RowGroups: the rows of a buffer by the value of one of their columns, kept up to date as rows come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from really._utils._locks import Lock
from really._utils.forks import ForkGroup, Order
from really.data.schema import Spec
from really.errors import EmptyBufferError, InvalidValueError
from really.replay._ring import GroupedRows, Ring

Made = TypeVar("Made")
PIECE = 1 << 16
"""Rows whose values are read at a time."""
DOUBLE_BITS = 53
LEAST = 16
"""Places of the smallest group."""
REMOVED = -1
"""The group of rows that are removed."""
FEW = 64
"""So many groups may be empty before they are removed."""


class RowGroups:
    """Numbers of the rows held, grouped by the value of a column, oldest first within each group.

    `follow` reads the values of the rows that were put since, so puts cost nothing. Each group is a ring of its own in
    one flat array, so that rows of any groups are looked up in one step. Hold `lock` from `follow` to the look-ups.

    Attributes:
        values: of the groups, [group] int64, in the order in which they came.
        counts: rows held of each, [group] int64; may be 0.
        lock: guards all of this.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Replaces the lock, which another thread may have held, and forgets what it may have left half-done."""
        self.lock = Lock()
        self.forget()
        _live.add(self)

    def check_spec(self, spec: Spec, what: str) -> None:
        """Raises InvalidValueError, naming `what`, unless the column is there and has one integer a row."""
        if self.column not in spec:
            raise InvalidValueError(
                f"sampler: expected the key {self.column!r}, by which {what} draws, got {list(spec)}"
            )
        dtype, shape = spec[self.column]
        if dtype.kind not in "iub" or shape != ():
            raise InvalidValueError(
                f"sampler: key {self.column!r}: expected integers of shape [], by which {what} draws, got {dtype} of "
                f"{list(shape)}"
            )

    def forget(self) -> None:
        """Forgets all rows; the next `follow` reads them again."""
        self.values = np.zeros(0, np.int64)
        self._groups: dict[int, int] = {}
        self._first = self._base = self._size = self.counts = np.zeros(0, np.int64)
        self._rows, self._used = np.zeros(0, np.int64), 0
        self._group_of = np.zeros(0, np.int32)  # by row number modulo capacity
        self._oldest = self._newest = self._version = 0
        self._made: tuple[Any] | None = None

    def follow(self, ring: Ring) -> None:
        """Adds rows that were put, and drops those that are no longer held. Raises EmptyBufferError without rows."""
        oldest, newest = ring.held_rows()
        while newest > oldest:
            version, is_same_ring = ring.version_of([self.column]), len(self._group_of) == ring.capacity
            if (oldest, newest, version) == (self._oldest, self._newest, self._version) and is_same_ring:
                return
            self._made = None
            if newest < self._newest or not is_same_ring or version != self._version:
                self.forget()
                self._version = version
                self._group_of = np.zeros(ring.capacity, np.int32)
            self._drop_before(oldest)
            if self._add(ring, max(oldest, self._newest), newest):
                return
            oldest, newest = ring.held_rows()
        raise EmptyBufferError("sample: expected a buffer that holds rows, got an empty one; put some first")

    def made_once(self, make: Callable[[], Made]) -> Made:
        """What `make` gives for the groups, which it makes anew only after rows have come or gone."""
        if self._made is None:
            self._made = (make(),)
        made: Made = self._made[0]
        return made

    def grouped(self, order: NDArray[np.int64] | None = None) -> GroupedRows:
        """The rows as they are until the next `follow`: all groups, or these in this order."""
        chosen = slice(None) if order is None else order
        return GroupedRows(self._first[chosen], self.counts[chosen], self._base[chosen], self._size[chosen], self._rows)

    def rows_of(self, group: int) -> NDArray[np.int64]:
        """Numbers of all rows of a group, oldest first."""
        num = int(self.counts[group])
        return self.rows(np.full(num, group), np.arange(num))

    def drawn(self, ring: Ring, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of rows of these groups, each row of a group equally likely."""
        parts = ring.draw_below(1 << DOUBLE_BITS, len(groups)) / (1 << DOUBLE_BITS)
        return self.rows(groups, (parts * self.counts[groups]).astype(np.int64))

    def groups_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The group of each of these rows; `REMOVED` for rows that are in none."""
        is_known = (self._oldest <= numbers) & (numbers < self._newest)
        return np.where(is_known, self._group_of[numbers % len(self._group_of)], REMOVED)

    def rows(self, groups: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the rows at these places of these groups; place 0 is a group's oldest row."""
        at = (self._first[groups] + places) & (self._size[groups] - 1)
        found: NDArray[np.int64] = self._rows[self._base[groups] + at]
        return found

    def _drop_before(self, oldest: int) -> None:
        gone = np.arange(self._oldest, min(oldest, self._newest))
        if len(gone):
            groups = self._group_of[gone % len(self._group_of)]
            counts = np.bincount(groups[groups != REMOVED], minlength=len(self.values))
            self._first += counts
            self.counts -= counts
            if len(self.values) > FEW and 4 * np.count_nonzero(self.counts) < len(self.values):
                self._remove_empty()
        self._oldest, self._newest = oldest, max(oldest, self._newest)

    def _add(self, ring: Ring, first: int, newest: int) -> bool:
        """Adds the rows from `first` to before `newest`; returns False if one of them is no longer held."""
        for start in range(first, newest, PIECE):
            num = min(PIECE, newest - start)
            values = {self.column: np.empty(num, ring.dtypes[ring.names.index(self.column)])}
            if not ring.read_keys(start, num, values):
                return False
            numbers = np.arange(start, start + num)
            left = ~ring.are_removed(numbers)
            self._group_of[numbers % len(self._group_of)] = REMOVED
            self._add_values(numbers[left], values[self.column][left].astype(np.int64))
            self._newest = start + num
        return True

    def _add_values(self, numbers: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        if len(numbers) == 0:
            return
        found, which = np.unique(values, return_inverse=True)
        ids = np.array([self._group(int(value)) for value in found])
        self._group_of[numbers % len(self._group_of)] = ids[which]
        order = numbers[np.argsort(which, kind="stable")]
        ends = np.cumsum(np.bincount(which))
        for group, rows in zip(ids.tolist(), np.split(order, ends[:-1]), strict=True):
            self._append(group, rows)

    def _group(self, value: int) -> int:
        if value not in self._groups:
            self._groups[value] = len(self.values)
            self.values = np.append(self.values, value)
            self._first, self.counts = np.append(self._first, 0), np.append(self.counts, 0)
            self._base, self._size = np.append(self._base, 0), np.append(self._size, 0)
        return self._groups[value]

    def _append(self, group: int, rows: NDArray[np.int64]) -> None:
        needed = int(self.counts[group]) + len(rows)
        if needed > self._size[group]:
            self._move(group, _places(needed))
        at = (self._first[group] + self.counts[group] + np.arange(len(rows))) & (self._size[group] - 1)
        self._rows[self._base[group] + at] = rows
        self.counts[group] += len(rows)

    def _move(self, group: int, size: int) -> None:
        """Moves a group to `size` places behind all others."""
        if self._used + size > len(self._rows):
            self._pack(size)
        rows = self.rows_of(group)
        self._rows[self._used : self._used + len(rows)] = rows
        self._base[group], self._size[group] = self._used, size
        self._first[group] = 0
        self._used += size

    def _pack(self, spare: int) -> None:
        """Moves all groups to new memory without gaps, with at least `spare` places behind them."""
        counts = self.counts
        sizes = np.array([_places(int(count)) for count in counts], np.int64)
        base = np.cumsum(sizes) - sizes
        which = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        used = int(sizes.sum())
        rows = np.zeros(used + max(used, spare), np.int64)
        rows[base[which] + places] = self.rows(which, places)
        self._rows, self._base, self._size, self._used = rows, base, sizes, used
        self._first = np.zeros_like(counts)

    def _remove_empty(self) -> None:
        kept = np.flatnonzero(self.counts)
        renamed = np.zeros(len(self.values), np.int32)
        renamed[kept] = np.arange(len(kept))
        self._group_of = np.where(self._group_of == REMOVED, REMOVED, renamed[self._group_of])
        for name in ("values", "counts", "_first", "_base", "_size"):
            setattr(self, name, getattr(self, name)[kept])
        self._groups = {int(value): group for group, value in enumerate(self.values)}
        self._pack(0)


def _places(num: int) -> int:
    """Places of a group of so many rows: a power of two."""
    return max(LEAST, 1 << (num - 1).bit_length())


_live = ForkGroup(Order.SAMPLERS, in_child=RowGroups.reset_after_fork)
