"""Readers: they read a buffer's rows in order while other threads put.

The ring numbers its rows. A `Reader` knows the number of its next row, whatever is put meanwhile, and sees by it
whether the row is still held. Readers that keep their rows tell the ring the lowest of them. The ring refuses, under
its own lock, the put that would drop that row, and the put waits here. Without such readers no put looks here.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.checks import checked_bool
from really._utils.forks import ForkGroup, Order
from really.data.schema import Spec, row_nbytes
from really.errors import InvalidValueError, OvertakenError
from really.replay import engine
from really.replay._ring import FrameFileError, Ring, RingError, TooManyFramesError
from really.replay.columns import spec_of

PIECE = 1 << 20
"""Bytes that a reader copies at a time: what a put may have to wait for, as it may for a batch."""
NEAR = 4
"""Rows that are left are read together with removed rows between them, at most so many times as many."""
STARTS = 20
"""How often a reader starts again if puts overtake it before it has read anything: the oldest rows drop first."""
NO_ROW = np.iinfo(np.int64).max
"""A row number that is never reached."""


class Reader:
    """Reads the rows that were held when it was opened, oldest first. With `keeps`, puts wait rather than drop them.

    Attributes:
        keeps: whether puts wait for this reader; False once it is closed.
        ring: what it reads.
        next_row: number of the next row.
        thread: identifier of the thread that read last.
    """

    def __init__(self, readers: Readers, ring: Ring, keeps: bool, with_removed: bool = False) -> None:
        self._readers, self.keeps, self._with_removed = readers, keeps, with_removed
        self.thread = threading.get_ident()
        self.ring = ring
        self.restart()

    def restart(self) -> None:
        """Makes the rows that are held now the rows to read."""
        self._first, self._end = self.ring.held_rows()
        self.next_row = self._first
        self._known_left: NDArray[np.int64] | None = None
        self._knows_left = self._with_removed

    @property
    def end_row(self) -> int:
        """Number of the row after the last one."""
        return self._end

    @property
    def left(self) -> NDArray[np.int64] | None:
        """Numbers of the rows to read, int64 [num_rows]; None if no row between the first and the last is left out."""
        if not self._knows_left:
            self._knows_left = True
            if self.ring.num_removed:
                numbers = np.arange(self._first, self._end)
                self._known_left = numbers[~self.ring.are_removed(numbers)]
        return self._known_left

    @property
    def num_rows(self) -> int:
        """Rows to read in all."""
        return self._end - self._first if self.left is None else len(self.left)

    @property
    def num_read(self) -> int:
        """Rows read so far."""
        if self.left is None:
            return self.next_row - self._first
        return int(np.searchsorted(self.left, self.next_row))

    @property
    def num_left(self) -> int:
        """Rows not read yet."""
        return self.num_rows - self.num_read

    def row_nbytes(self, keys: Iterable[str] | None = None) -> int:
        """Bytes of a row of these keys, without padding; by default of all keys. At least 1."""
        return max(1, row_nbytes(self._spec(keys)))

    def read(self, num: int, keys: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """The next `num` rows (fewer at the end), key -> [n, ...] of new memory.

        The first call fixes which rows there are to read, unless the reader `keeps` them from the start. With `keys`
        there may be more columns than those: one that shares frames comes with all others.

        Raises:
            OvertakenError: puts or `clear` have dropped one of the rows.
        """
        self.thread = threading.get_ident()
        spec = self._spec(keys)
        for _ in range(STARTS if self.num_read == 0 and not self.keeps else 0):
            self.restart()
            try:
                return self._copied(num, spec)
            except OvertakenError:
                continue
        return self._copied(num, spec)

    def read_shared(self, num: int) -> dict[str, Any]:
        """The next `num` rows (fewer at the end), with a `FrameColumn` for each key that shares frames.

        For a reader that reads removed rows, too.
        """
        self.thread = threading.get_ident()
        try:
            rows = self.ring.read(self.next_row, min(num, self.num_left))
        except RingError as error:
            raise engine.translated(self.ring, error) from None
        if rows is None:
            raise self._overtaken()
        self.skip(min(num, self.num_left))
        return rows

    def skip(self, num: int) -> None:
        """Moves on by `num` rows, as if it had read them."""
        if self.keeps:
            self._readers.advance(self, num)
        else:
            self.next_row += num

    def records(self) -> list[NDArray[np.uint8]]:
        """The memory of the rows in the ring, oldest first, in one part or two; for a reader that keeps its rows."""
        parts: list[NDArray[np.uint8]] = []
        for part in self.ring.records():  # rows that were put later may stand behind those of the reader
            parts.append(part[: self.num_rows - sum(len(before) for before in parts)])
        return [part for part in parts if len(part)]

    def close(self) -> None:
        """Ends reading: no row is left, and puts no longer wait for this reader."""
        if self.keeps:
            self._readers.remove(self)
            self.keeps = False
        self._end = self.next_row

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # An interrupt may have come before `__init__` set the attribute.
        if getattr(self, "keeps", False) and not is_finalizing():
            self._readers.remove(self)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _spec(self, keys: Iterable[str] | None) -> Spec:
        """The schema of what is read for these keys."""
        ring = self.ring
        spec = spec_of(ring)
        chosen = set(spec if keys is None else keys)
        if any(ring.names[at] in chosen for sharing in ring.shared for at in sharing[0]):
            return spec
        return {key: kind for key, kind in spec.items() if key in chosen}

    def _copied(self, num: int, spec: Spec) -> dict[str, NDArray[Any]]:
        num = min(num, self.num_left)
        columns = {key: np.empty((num, *shape), dtype) for key, (dtype, shape) in spec.items()}
        step = max(1, PIECE // max(1, row_nbytes(spec)))
        start = 0
        while start < num:
            end = min(num, start + step) if self.left is None else start + self._num_near(min(step, num - start))
            self._read_piece({key: column[start:end] for key, column in columns.items()})
            start = end
        return columns

    def _num_near(self, num: int) -> int:
        """How many of the next `num` rows that are left have numbers close enough to be read together."""
        assert self.left is not None
        at = self.num_read
        return max(1, int(np.searchsorted(self.left[at : at + num], self.left[at] + NEAR * num)))

    def _read_piece(self, piece: dict[str, NDArray[Any]]) -> None:
        num, ring = len(next(iter(piece.values()))), self.ring
        numbers = np.arange(self.next_row, self.next_row + num, dtype=np.int64)
        if self.left is not None:
            numbers = self.left[self.num_read : self.num_read + num]
        if len(piece) < len(ring.names):
            read = self._read_keys(numbers, piece)
        else:
            try:
                read = ring.take(numbers, num, 0, piece, by_number=True) is not None
            except RingError as error:
                raise engine.translated(ring, error) from None
        if not read:
            raise self._overtaken()
        self.skip(int(numbers[-1]) + 1 - self.next_row if num else 0)

    def _read_keys(self, numbers: NDArray[np.int64], piece: dict[str, NDArray[Any]]) -> bool:
        """`Ring.read_keys` of these rows."""
        if self.left is None:
            return self.ring.read_keys(self.next_row, len(numbers), piece)
        first, num = int(numbers[0]), int(numbers[-1] - numbers[0]) + 1
        span = {key: np.empty((num, *column.shape[1:]), column.dtype) for key, column in piece.items()}
        read = self.ring.read_keys(first, num, span)
        for key, column in piece.items():
            column[:] = span[key][numbers - first]
        return read

    def _overtaken(self) -> OvertakenError:
        num_gone = min(self.ring.oldest_row, self._end) - self.next_row
        return OvertakenError(
            f"reading a buffer: expected {self.num_rows:,} rows as they were when reading began, but at row "
            f"{self.num_read:,} the next {num_gone:,} had been dropped for newer ones; read faster, or read a "
            f"saved copy"
        )


class Readers:
    """The readers of one buffer that keep their rows; puts that the ring refuses because of them wait here.

    `lock` guards `keepers`, references to the readers. `changed` is notified when one has advanced; it is made once a
    put waits. A reader that is dropped unclosed, as by an interrupt between its creation and a `with`, keeps nothing.
    """

    changed: threading.Condition | None = None

    def __init__(self) -> None:
        self.keepers: set[weakref.ref[Reader]] = set()
        # Take the lock, not the condition: an interrupt in the condition's own Python code would leave it locked.
        self.lock = threading.RLock()  # may be taken again: a generator may be closed in the middle of a put
        _all_readers.add(self)

    def open(self, ring: Ring, keeps: bool = False, with_removed: bool = False) -> Reader:
        """A reader of the rows that are held now; with `keeps`, puts that would drop a row of them wait.

        It leaves out rows that are removed, unless `with_removed`.
        """
        if not checked_bool("keeps", keeps):
            return Reader(self, ring, keeps=False, with_removed=with_removed)
        with self.lock:
            ring.pin_held()  # from here on no put drops what the reader is about to find
            try:
                reader = Reader(self, ring, keeps=True, with_removed=with_removed)
                self.keepers.add(weakref.ref(reader, self.keepers.discard))
            finally:
                self._tell(ring)
        return reader

    def advance(self, reader: Reader, num: int) -> None:
        """Moves the reader on by `num` rows, and wakes the puts that wait."""
        with self.lock:
            reader.next_row += num
            self._tell(reader.ring)

    def remove(self, reader: Reader) -> None:
        """Removes a reader; harmless when repeated."""
        with self.lock:
            self.keepers.discard(weakref.ref(reader))
            self._tell(reader.ring)

    def put(self, ring: Ring, parts: list[dict[str, NDArray[Any]]]) -> None:
        """Puts columns part by part, each as soon as no reader needs the rows that it drops.

        Raises InvalidValueError, with nothing put, if the thread would wait for a reader of its own. If the frames of
        a part have no room, raises the error of `ring.put`; the parts before it are in, and counted in its arguments.
        """
        nums, num_in = [_num_rows(part) for part in parts], 0
        with self.lock:
            self._refuse_own(ring, sum(nums))
            if ring.storage is not None and len(parts) > 1:
                ring.storage.make_room(ring, sum(nums))
            for part, num in zip(parts, nums, strict=True):
                try:
                    self._pass(partial(ring.put, part), ring, num)
                except (TooManyFramesError, FrameFileError) as error:
                    error.args = (*error.args[:-1], error.args[-1] + num_in)
                    raise
                num_in += num

    def clear(self, ring: Ring) -> None:
        """`ring.clear`, as soon as no reader needs the rows."""
        with self.lock:
            self._pass(ring.clear, ring, ring.capacity)

    @contextlib.contextmanager
    def none_keeping(self, ring: Ring) -> Iterator[None]:
        """Runs the block once no reader needs rows that it keeps; none is opened meanwhile."""
        with self.room_for(ring, ring.capacity):
            yield

    @contextlib.contextmanager
    def room_for(self, ring: Ring, num_rows: int) -> Iterator[None]:
        """Runs the block once no reader needs the rows that a put of so many drops; none is opened meanwhile.

        Raises InvalidValueError if the reader belongs to this thread.
        """
        with self.lock:
            while self._blocking(ring, num_rows):
                self._wait(ring, num_rows)
            yield

    def reset_after_fork(self) -> None:
        """In a forked process: the readers were threads of the parent."""
        self.keepers.clear()
        self.lock, self.changed = threading.RLock(), None

    def _reading(self) -> list[Reader]:
        readers = (keeper() for keeper in list(self.keepers))
        return [reader for reader in readers if reader is not None and reader.num_left > 0]

    def _tell(self, ring: Ring) -> None:
        # Keep this under the lock in which readers advance: a put that the ring refuses must then find the reader that
        # blocks it.
        ring.pin_from(min((reader.next_row for reader in self._reading()), default=NO_ROW))
        if self.changed is not None:
            self.changed.notify_all()

    def _wait(self, ring: Ring, num_rows: int) -> None:
        """Waits with a put of so many rows until a reader has advanced; the caller has the lock.

        Raises InvalidValueError if a reader that blocks the put belongs to this thread.
        """
        self._refuse_own(ring, num_rows)
        if self.changed is None:
            self.changed = threading.Condition(self.lock)
        self.changed.wait()

    def _pass(self, action: Callable[[], bool], ring: Ring, num_rows: int) -> None:
        while not action():
            if self._blocking(ring, num_rows):
                self._wait(ring, num_rows)
                continue
            self._tell(ring)  # a reader may have been dropped unclosed
            if action():
                return
            raise AssertionError("the ring refused columns that had been made to fit it")

    def _blocking(self, ring: Ring, num_rows: int) -> list[Reader]:
        """The readers that have yet to read a row that a put of so many rows would drop."""
        if not self.keepers:
            return []
        first_left = _first_left(ring, num_rows)
        return [reader for reader in self._reading() if reader.next_row < first_left]

    def _refuse_own(self, ring: Ring, num_rows: int) -> None:
        """Raises InvalidValueError if one of these readers belongs to this thread, which would wait for itself."""
        for reader in self._blocking(ring, num_rows):
            if reader.thread == threading.get_ident():
                oldest = ring.oldest_row
                raise InvalidValueError(
                    f"put: expected to drop at most {reader.next_row - oldest:,} rows as long as this thread reads the "
                    f"others with keeps=True, got a put or clear that drops {_first_left(ring, num_rows) - oldest:,}"
                )


def _first_left(ring: Ring, num_rows: int) -> int:
    """Number of the oldest row that a put of so many rows would leave."""
    return ring.num_put - max(0, ring.capacity - num_rows)


def _num_rows(columns: dict[str, NDArray[Any]]) -> int:
    return len(next(iter(columns.values())))


_all_readers = ForkGroup(Order.READERS, in_child=Readers.reset_after_fork)
