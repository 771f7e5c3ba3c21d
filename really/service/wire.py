"""Rows on their way from a shard on another node: each frame once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really.data.frames import FrameColumn
from really.data.packed import Packed, packed, unpacked
from really.replay._ring import Ring


class SentFrames(NamedTuple):
    """Frames [frame, ...] that these columns share, and the axis of a row along which they are stacked."""

    keys: tuple[str, ...]
    axis: int
    frames: NDArray[Any] | Packed


@dataclass(frozen=True)
class SentRows:
    """Rows in the order in which they were asked for: frames once, and indices into them in place of their columns."""

    columns: dict[str, NDArray[Any]]
    shared: Sequence[SentFrames]

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""
        columns = sum(column.nbytes for column in self.columns.values())
        return columns + sum(sent.frames.nbytes for sent in self.shared)

    def received(self, order: NDArray[np.int64]) -> dict[str, Any]:
        """Row `order[i]` of the caller is row i here: columns [n, ...] in the caller's order, with `FrameColumn`s."""
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        frames = {key: (unpacked(sent.frames), sent.axis) for sent in self.shared for key in sent.keys}
        found: dict[str, Any] = {}
        for key, column in self.columns.items():
            mine = np.ascontiguousarray(column[back])
            found[key] = FrameColumn(frames[key][0], mine, frames[key][1]) if key in frames else mine
        return found


def sent_rows(ring: Ring, numbers: NDArray[np.int64]) -> SentRows | None:
    """These rows of a ring that shares frames, [n] in ascending order, so that equal frames are close to each other.

    Returns None if one is not held.
    """
    taken = ring.take_windows(numbers, len(numbers), [1] * len(ring.shared))
    if taken is None:
        return None
    columns, frames = taken
    shared = [
        SentFrames(tuple(ring.names[at] for at in positions), axis, packed(frames[number][0]))
        for number, (positions, _, axis) in enumerate(ring.shared)
    ]
    return SentRows({key: columns[key] for key in ring.names}, shared)
