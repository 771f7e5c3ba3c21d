"""Who reads a buffer's rows in order while others put, and what puts owe such a reader.

A `Reader` knows its next row by age. As long as there are readers every put passes the gate, which counts how far
rows have aged; without readers the gate is no more than the look at an empty list. The ring itself counts no rows, so
a put that passed before the first reader came cannot be seen in it: `open` waits until none is under way.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._ring import Ring
from really.errors import InvalidValueError, ReallyError

PIECE = 1 << 20
"""Bytes that a reader copies at a time: what a put may have to wait for, as it may for a batch."""
STARTS = 20
"""How often a reader begins again if it is overtaken before it has read anything: the oldest rows go first."""


class OvertakenError(ReallyError, RuntimeError):
    """Rows that were being read have meanwhile been dropped for newer ones."""


class Reader:
    """Reads the rows that were held when it was opened, oldest first; `keeps` makes puts wait rather than drop them."""

    def __init__(self, gate: Gate, ring: Ring, keeps: bool) -> None:
        self.keeps = keeps
        self.num_rows = len(ring)
        self.num_read = 0
        self._gate = gate
        self._ring = ring
        self._age = 0  # of the next row; below 0 it is gone
        self._thread = threading.get_ident()  # that reads

    @property
    def num_left(self) -> int:
        """Rows not read yet."""
        return self.num_rows - self.num_read

    @property
    def row_nbytes(self) -> int:
        """Bytes of a row without padding, at least 1."""
        kinds = zip(self._ring.dtypes, self._ring.shapes, strict=True)
        return max(1, sum(dtype.itemsize * math.prod(shape) for dtype, shape in kinds))

    def read(self, num: int) -> dict[str, NDArray[Any]]:
        """The next `num` rows (fewer at the end), key -> [n, ...] of new memory.

        Which rows there are to read is fixed by the first call, unless the reader `keeps` them from the beginning.

        Raises:
            OvertakenError: puts or `clear` have dropped one of them.
        """
        self._thread = threading.get_ident()
        for _ in range(STARTS if self.num_read == 0 and not self.keeps else 0):
            self._gate.restart(self)
            try:
                return self._copied(num)
            except OvertakenError:
                continue
        return self._copied(num)

    def restart(self) -> None:
        """What is held now is what there is to read."""
        self._age, self.num_read, self.num_rows = 0, 0, len(self._ring)

    def close(self) -> None:
        """Ends reading: nothing is left, and puts need not look after this reader any more."""
        self.num_rows = self.num_read
        self._gate.leave(self)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def must_wait(self, num_dropped: int) -> bool:
        """Whether a put that drops so many rows has to wait for this reader.

        Raises InvalidValueError where it would wait for itself: the thread that puts is the one that reads.
        """
        waits = self.keeps and self.num_left > 0 and num_dropped > self._age
        if waits and self._thread == threading.get_ident():
            raise InvalidValueError(
                f"put: expected to drop at most {self._age:,} rows as long as this thread reads the others with "
                f"keeps=True, came a put or clear that drops {num_dropped:,}"
            )
        return waits

    def shift(self, num_dropped: int) -> None:
        """The oldest rows have been dropped."""
        self._age -= num_dropped

    def _copied(self, num: int) -> dict[str, NDArray[Any]]:
        num = min(num, self.num_left)
        ring = self._ring
        columns = {
            key: np.empty((num, *shape), dtype)
            for key, dtype, shape in zip(ring.names, ring.dtypes, ring.shapes, strict=True)
        }
        step = max(1, PIECE // ring.stride)
        for start in range(0, num, step):
            self._read_piece({key: column[start : start + step] for key, column in columns.items()})
        return columns

    def _read_piece(self, piece: dict[str, NDArray[Any]]) -> None:
        num = len(next(iter(piece.values())))
        with self._gate.changed:
            ages = np.arange(self._age, self._age + num, dtype=np.int64)
            if self._ring.take(ages, num, 0, piece) is None:
                raise OvertakenError(
                    f"reading a buffer: expected {self.num_rows:,} rows as they were when reading began, but at row "
                    f"{self.num_read:,} the next {min(self.num_left, max(1, -self._age)):,} had been dropped for "
                    f"newer ones; read faster, or read a saved copy"
                )
            self._age += num
            self.num_read += num
            self._gate.changed.notify_all()


class Gate:
    """The one way into a ring while it is being read.

    Args:
        passing: code of the function whose calls may put past the gate as long as `readers` is empty.
        asking: code of what that function calls where it does come to the gate.
    """

    def __init__(self, owner: Any, passing: CodeType, asking: CodeType) -> None:
        self.readers: list[Reader] = []
        self.changed = threading.Condition()  # on an RLock: a generator may be closed in the middle of a put
        self._owner = weakref.ref(owner)
        self._passing, self._asking = passing, asking
        _gates.add(self)

    def open(self, ring: Ring, keeps: bool = False) -> Reader:
        """A reader of the rows that are held now; with `keeps`, puts wait where they would drop rows it has to read."""
        with self.changed:
            arriving = Reader(self, ring, keeps=False)
            self.readers.append(arriving)
            try:
                while self._is_passed():
                    self.changed.wait(1e-4)
            finally:
                self.readers.remove(arriving)
            reader = Reader(self, ring, keeps)
            self.readers.append(reader)
        return reader

    def restart(self, reader: Reader) -> None:
        """`reader.restart` while nobody puts."""
        with self.changed:
            reader.restart()

    def put(self, ring: Ring, columns: dict[str, NDArray[Any]]) -> bool:
        """`ring.put` of whole columns, after waiting for the readers that need it."""
        num_rows = len(next(iter(columns.values())))
        with self.changed:
            self._wait_for_readers(lambda: max(0, len(ring) + num_rows - ring.capacity))
            return ring.put(columns)

    def clear(self, ring: Ring) -> None:
        """`ring.clear`, after waiting for the readers that need it."""
        with self.changed:
            self._wait_for_readers(lambda: ring.capacity)
            ring.clear()

    def leave(self, reader: Reader) -> None:
        """Forgets a reader; no harm if it is forgotten already."""
        with self.changed:
            if reader in self.readers:
                self.readers.remove(reader)
            self.changed.notify_all()

    def _wait_for_readers(self, num_dropped: Callable[[], int]) -> None:
        while any(reader.must_wait(num_dropped()) for reader in self.readers):
            self.changed.wait()
        for reader in self.readers:
            reader.shift(num_dropped())

    def _is_passed(self) -> bool:
        """Whether another thread is in a put that has not come to the gate and will not."""
        own = threading.get_ident()
        return any(
            self._passes(frame, called)
            for thread, top in sys._current_frames().items()
            if thread != own
            for frame, called in _calls(top)
        )

    def _passes(self, frame: FrameType, called: CodeType | None) -> bool:
        if frame.f_code is not self._passing or called is self._asking:
            return False
        return frame.f_locals.get("self") is self._owner()

    def start_anew(self) -> None:
        """In a forked process: those who read were threads of the other one."""
        for reader in self.readers:
            reader.shift(reader.num_rows + 1)
        self.readers.clear()
        self.changed = threading.Condition()


def _calls(top: FrameType) -> Iterator[tuple[FrameType, CodeType | None]]:
    """Each frame of a thread's stack with the code that it has called."""
    called = None
    frame: FrameType | None = top
    while frame is not None:
        yield frame, called
        called = frame.f_code
        frame = frame.f_back


def _after_fork() -> None:
    for gate in _gates:
        gate.start_anew()


_gates: weakref.WeakSet[Gate] = weakref.WeakSet()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
