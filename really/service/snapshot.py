"""The rows of a sharded buffer at one moment, for a file: one that a buffer in one process reads, too.

Rows that are lost, or whose shard is away, have numbers, and priorities depend on numbers. So the file has rows of
zeros in their place, marked as removed and as lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really.data.frames import FrameColumn, Sharing, frame_shape
from really.errors import RunnerError
from really.replay.readers import Reader
from really.replay.snapshot import SnapshotOf
from really.service.ledger import LENGTH, NUMBER, PLACE, SHARD, Ledger
from really.service.reader import NumberedRows, ShardedReader


class Piece(NamedTuple):
    """Rows `number` to before `end` that one shard holds from this place on; shard None if no shard holds them."""

    number: int
    end: int
    shard: int | None = None
    place: int = 0


ReadPiece = Callable[[Piece], dict[str, Any] | None]
"""Reads a piece that a shard holds; None if it no longer does."""


class WholeReader(ShardedReader):
    """Reads all rows, those that no shard holds included, piece by piece.

    Args:
        buffer: whose rows.
        kept: a reader of the rows' numbers that puts wait for.
        pieces: the rows, in order and without gaps.
        sharings: which columns share frames.
        read_piece: reads a piece.
    """

    def __init__(
        self,
        buffer: NumberedRows,
        kept: Reader,
        pieces: Sequence[Piece],
        sharings: Sequence[Sharing],
        read_piece: ReadPiece,
    ) -> None:
        super().__init__(buffer, kept)
        self._pieces, self._at = pieces, 0
        self._spec, self._sharings, self._read_piece = buffer.spec or {}, sharings, read_piece

    @property
    def num_read(self) -> int:
        """Rows read so far."""
        return self._next - self._first

    def read(self, num: int, keys: Any = None) -> dict[str, Any]:
        """The next `num` rows, or fewer, of all keys."""
        return self.read_shared(num)

    def read_shared(self, num: int) -> dict[str, Any]:
        """The next `num` rows, or fewer, with a `FrameColumn` for each key that shares frames.

        Raises RunnerError if the shard that holds them is lost meanwhile.
        """
        while self._next >= self._pieces[self._at].end:
            self._at += 1
        whole = self._pieces[self._at]
        end = min(self._next + num, whole.end)
        piece = whole._replace(number=self._next, end=end, place=whole.place + self._next - whole.number)
        rows = self._nothing(end - self._next) if piece.shard is None else self._read_piece(piece)
        if rows is None:
            raise RunnerError(
                f"save: expected the rows that were held at its start, but those from number {self._next:,} on are "
                f"lost, or away; no file is written"
            )
        self._advance(end - self._next)
        return rows

    def _nothing(self, num: int) -> dict[str, Any]:
        """Rows of zeros."""
        rows: dict[str, Any] = {key: np.zeros((num, *shape), dtype) for key, (dtype, shape) in self._spec.items()}
        names = list(self._spec)
        for sharing in self._sharings:
            dtype, shape = self._spec[names[sharing.columns[0]]]
            frames = np.zeros((1, *frame_shape(shape, sharing)), dtype)
            indices = np.zeros((num, sharing.stack), np.int32)
            rows |= {names[at]: FrameColumn(frames, indices, sharing.axis) for at in sharing.columns}
        return rows


class ShardedSnapshot(SnapshotOf[WholeReader]):
    """The rows of a sharded buffer at one moment, those that no shard holds included."""


def pieces_of(ledger: Ledger, first: int, end: int) -> list[Piece]:
    """The rows with numbers from `first` to before `end`, those that are removed or cannot be had included."""
    found, number, runs = list[Piece](), first, ledger.all_runs
    for run in runs[~ledger.away[runs[:, SHARD]]].tolist():
        start, stop = max(first, run[NUMBER]), min(end, run[NUMBER] + run[LENGTH])
        if start < stop:
            if number < start:
                found.append(Piece(number, start))
            found.append(Piece(start, stop, run[SHARD], run[PLACE] + start - run[NUMBER]))
            number = stop
    return found + ([Piece(number, end)] if number < end else [])


def missing_in(pieces: Sequence[Piece], ledger: Ledger, first: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which rows are removed or held by no shard, and which of them no shard holds, int64 [n]: 0 is number `first`."""
    gaps = [np.arange(piece.number - first, piece.end - first) for piece in pieces if piece.shard is None]
    removed, lost = ledger.removed - first, np.concatenate([np.zeros(0, np.int64), *gaps])
    return np.union1d(removed[removed >= 0], lost), lost
