"""Reading the rows of a sharded buffer in the order of puts, for streams."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from really.data.schema import Spec, row_nbytes
from really.errors import OvertakenError
from really.replay._ring import Ring
from really.replay.readers import Reader
from really.replay.units import Batch


class NumberedRows(Protocol):
    """What a reader asks of the buffer."""

    @property
    def spec(self) -> Spec | None:
        """The schema."""

    @property
    def known_ring(self) -> Ring:
        """What answers as a ring of all rows does."""

    def numbered_rows(self) -> tuple[int, int]:
        """Numbers of the oldest row and of the next row."""

    def read_numbers(self, first: int, end: int) -> list[Batch] | None:
        """The rows with these numbers that shards hold, in order; None if the oldest one was displaced."""


class ShardedReader:
    """Reads the rows that are held when it reads first, oldest first; with `kept`, those held when that was opened.

    Rows of a shard that is lost or away are left out.

    Args:
        buffer: whose rows.
        kept: a reader of the rows' numbers that puts wait for; None if they do not wait.
    """

    def __init__(self, buffer: NumberedRows, kept: Reader | None = None) -> None:
        self._buffer, self._kept = buffer, kept
        self._is_started = kept is not None
        self._first = self._next = self._end = 0
        self._restart()

    def _restart(self) -> None:
        kept = self._kept
        self._first, self._end = self._buffer.numbered_rows() if kept is None else (kept.next_row, kept.end_row)
        self._next = self._first

    @property
    def ring(self) -> Ring:
        """What answers as a ring of all rows does."""
        return self._buffer.known_ring

    @property
    def next_row(self) -> int:
        """Number of the next row to read."""
        return self._next

    @property
    def end_row(self) -> int:
        """Number of the row after the last one to read."""
        return self._end

    @property
    def left(self) -> NDArray[np.int64] | None:
        """Numbers of the rows that can be had; None if all of them can."""
        numbers = np.arange(self._first, self._end)
        gone = self.ring.are_removed(numbers)
        return numbers[~gone] if gone.any() else None

    @property
    def num_rows(self) -> int:
        """Rows to read in all."""
        return self._end - self._first

    @property
    def num_left(self) -> int:
        """Rows not read yet."""
        return self._end - self._next

    def row_nbytes(self, keys: Iterable[str] | None = None) -> int:
        """Bytes of a row of these keys, by default of all. At least 1."""
        spec = self._buffer.spec or {}
        return max(1, row_nbytes({key: spec[key] for key in (spec if keys is None else keys)}))

    def read(self, num: int, keys: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """The next `num` rows (fewer at the end, or if some are lost), key -> [n, ...] of new memory.

        Raises:
            OvertakenError: puts or `clear` have dropped one of the rows.
        """
        if not self._is_started:
            self._restart()
            self._is_started = True
        spec = self._buffer.spec or {}
        end = min(self._next + num, self._end)
        parts = self._buffer.read_numbers(self._next, end)
        if parts is None:
            raise OvertakenError(
                f"reading a buffer: expected {self.num_rows:,} rows as they were when reading began, but at row "
                f"{self._next - self._first:,} the next ones had been dropped for newer ones; read faster"
            )
        self._advance(end - self._next)
        wanted = set(spec if keys is None else keys)
        chosen = [key for key in spec if key in wanted]
        nothing = {key: np.empty((0, *spec[key][1]), spec[key][0]) for key in chosen}
        return {key: np.concatenate([nothing[key], *(part[key] for part in parts)]) for key in chosen}

    def close(self) -> None:
        """Ends reading: no row is left, and puts no longer wait."""
        self._end = self._next
        if self._kept is not None:
            self._kept.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _advance(self, num: int) -> None:
        self._next += num
        if self._kept is not None:
            self._kept.thread = threading.get_ident()
            self._kept.skip(num)
