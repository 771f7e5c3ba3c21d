"""Frames stored once: which columns may share them, and such columns on their way, as frames and indices."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really.data.schema import ColumnSpec, Spec
from really.errors import InvalidTypeError, InvalidValueError

Stack = tuple[int, int]
"""(number of frames, axis of a row along which they stand)."""

SMALLEST_ROW = 1024
"""Bytes; a shorter row is copied faster than its frames are looked up."""
LARGEST_STACK = 16
WHOLE: Stack = (1, 0)
"""A row that is one frame."""
FRAME_NUMBER = 4
"""Bytes of a frame's number in a record."""
EXTRA = 1.05
"""Frames a row that are counted against memory: one, and those that trajectories begin with."""


@dataclass(frozen=True, eq=False)
class FrameColumn:
    """Rows that are stacks of frames, each frame stored once.

    Row i is `frames[indices[i]]` with the stack's axis moved to `axis`; a stack of one frame is the frame itself,
    without such an axis. Two columns may have the same `frames`.

    Attributes:
        frames: [frame, ...] of the rows' dtype, C-contiguous.
        indices: [row, stack] int32, C-contiguous, each from 0 to `len(frames) - 1`.
        axis: of a row.

    Raises:
        InvalidValueError: the arrays are not of that kind, or an index has no frame.
    """

    frames: NDArray[Any]
    indices: NDArray[np.int32]
    axis: int = 0

    def __post_init__(self) -> None:
        indices = self.indices
        if indices.dtype != np.int32 or indices.ndim != 2 or not indices.flags.c_contiguous:
            raise InvalidValueError(
                f"indices: expected C-contiguous int32 [row, stack], got {indices.dtype} of shape {indices.shape}"
            )
        if not self.frames.flags.c_contiguous or not 0 <= self.axis < max(1, self.frames.ndim):
            raise InvalidValueError(
                f"frames: expected C-contiguous [frame, ...] with axis {self.axis} in a row, got {self.frames.shape}"
            )
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < len(self.frames):
            raise InvalidValueError(
                f"indices: expected 0 to {len(self.frames) - 1}, got {int(indices.min())} to {int(indices.max())}"
            )

    @property
    def stack(self) -> Stack:
        """(number of frames, axis)."""
        return self.indices.shape[1], self.axis

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the frames."""
        return self.frames.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """[row, ...] of the rows as arrays."""
        row = list(self.frames.shape[1:])
        if self.stack != WHOLE:
            row.insert(self.axis, self.indices.shape[1])
        return (len(self.indices), *row)

    @property
    def ndim(self) -> int:
        """Number of axes, that of the rows included."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements of the rows."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that frames and indices take."""
        return self.frames.nbytes + self.indices.nbytes

    def __len__(self) -> int:
        return len(self.indices)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("frames stored once: the rows cannot be had without a copy")
        rows = np.empty(self.shape, self.dtype)
        self.write_to(rows)
        return rows if dtype is None else rows.astype(dtype, copy=False)

    def write_to(self, rows: NDArray[Any]) -> None:
        """Writes all rows to an array of this shape."""
        if self.stack == WHOLE:
            np.take(self.frames, self.indices[:, 0], axis=0, out=rows, mode="clip")
        elif self.axis == 0:
            np.take(self.frames, self.indices, axis=0, out=rows, mode="clip")
        else:
            rows[...] = np.moveaxis(self.frames[self.indices], 1, self.axis + 1)


class Sharing(NamedTuple):
    """Columns that share frames: positions in the schema (of two, the second comes after the first), and the stack."""

    columns: tuple[int, ...]
    stack: int
    axis: int


def plan(spec: Spec, stack: Stack | Mapping[str, Stack] | None = None) -> list[Sharing]:
    """Which columns may share frames, and how a row of them is made of frames.

    A state and the state after it (`state` and `state_new`, `obs` and `next_obs`) of one kind share; a column that
    is alone shares where it is a stack. The first axis is the stack's where it is no longer than 16 and others follow;
    else a row is one frame. Rows below 1 kB stay as they are.

    Args:
        spec: key -> (dtype, shape of one row).
        stack: (frames, axis) of all columns that may share, or of each by key; (1, 0) says that a row is one frame.

    Raises:
        InvalidValueError, InvalidTypeError: a stack that no column has.
    """
    keys = list(spec)
    large = [key for key in keys if spec[key].nbytes >= SMALLEST_ROW]
    stacks = {key: _stack_of(key, spec[key], _given(stack, key)) for key in large}
    _refuse_unused(stack, stacks)
    found, used = [], set[str]()
    for key in large:
        after = [other for other in large if other not in used and is_after(key, other)]
        pair = [key, *(other for other in after[:1] if spec[other] == spec[key] and stacks[other] == stacks[key])]
        if key not in used and len(pair) == 2:
            found.append(Sharing(tuple(keys.index(name) for name in pair), *stacks[key]))
            used.update(pair)
    alone = [key for key in large if key not in used and stacks[key][0] > 1]
    return sorted(found + [Sharing((keys.index(key),), *stacks[key]) for key in alone])


def is_after(key: str, other: str) -> bool:
    """Whether the name says that `other` holds what comes after `key`."""
    if key == other:
        return False
    bare = re.sub(r"(?:^|[._])(?:new|next)(?=[._]|$)|(?:new|next)_?|_$", "", other)
    return bare.strip("._") == key.strip("._")


def frame_nbytes(spec: Spec, sharings: Sequence[Sharing]) -> float:
    """Bytes that the frames of one row take, as counted against memory."""
    columns = list(spec.values())
    return sum(EXTRA * columns[sharing.columns[0]].nbytes / sharing.stack for sharing in sharings)


def field_nbytes(spec: Spec, sharings: Sequence[Sharing]) -> list[int]:
    """Bytes of a record's fields: of the columns, of which some hold numbers of frames, and of the oldest of those."""
    nbytes = [column.nbytes for column in spec.values()]
    for sharing in sharings:
        for at in sharing.columns:
            nbytes[at] = FRAME_NUMBER * sharing.stack
    return nbytes + [FRAME_NUMBER] * len(sharings)


def stacks_of(spec: Spec, sharings: Sequence[Sharing]) -> dict[str, Stack]:
    """Key -> stack of the columns that share frames."""
    keys = list(spec)
    return {keys[at]: (sharing.stack, sharing.axis) for sharing in sharings for at in sharing.columns}


def frame_shape(shape: tuple[int, ...], sharing: Sharing) -> tuple[int, ...]:
    """Of the frames that rows of this shape are made of."""
    whole = sharing[1:] == WHOLE
    return shape if whole else shape[: sharing.axis] + shape[sharing.axis + 1 :]


def pairs(columns: Mapping[str, Any]) -> Iterator[list[str]]:
    """The keys of the `FrameColumn`s, those of the same frames together."""
    found: dict[int, list[str]] = {}
    for key, column in columns.items():
        if isinstance(column, FrameColumn):
            found.setdefault(id(column.frames), []).append(key)
    yield from found.values()


def owned(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of the columns; those that share frames go on sharing them."""
    copies = {key: column.copy() for key, column in columns.items() if not isinstance(column, FrameColumn)}
    for keys in pairs(columns):
        frames = columns[keys[0]].frames.copy()
        copies |= {key: FrameColumn(frames, columns[key].indices.copy(), columns[key].axis) for key in keys}
    return copies


def joined(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of all pieces, which have the same columns, one after the other."""
    first = pieces[0]
    plain = [key for key, column in first.items() if not isinstance(column, FrameColumn)]
    columns: dict[str, Any] = {key: np.concatenate([piece[key] for piece in pieces]) for key in plain}
    for keys in pairs(first):
        frames = np.concatenate([piece[keys[0]].frames for piece in pieces])
        starts = np.cumsum([0, *(len(piece[keys[0]].frames) for piece in pieces)], dtype=np.int32)
        for key in keys:
            indices = [piece[key].indices + start for piece, start in zip(pieces, starts, strict=False)]
            columns[key] = FrameColumn(frames, np.concatenate(indices), first[key].axis)
    return columns


def _given(stack: Stack | Mapping[str, Stack] | None, key: str) -> Stack | None:
    return stack.get(key) if isinstance(stack, Mapping) else stack


def _stack_of(key: str, column: ColumnSpec, given: Stack | None) -> Stack:
    shape = column.shape
    if given is None:
        return (shape[0], 0) if len(shape) > 1 and 1 < shape[0] <= LARGEST_STACK else WHOLE
    if not isinstance(given, tuple) or len(given) != 2 or not all(isinstance(part, int) for part in given):
        raise InvalidTypeError(f"stack: key {key!r}: expected (number of frames, axis), got {given!r}")
    num, axis = given
    if num == 1:
        return WHOLE
    if not -len(shape) <= axis < len(shape) or shape[axis] != num or not 1 <= num <= LARGEST_STACK:
        raise InvalidValueError(
            f"stack: key {key!r}: expected up to {LARGEST_STACK} frames along an axis of {shape} of that length, "
            f"got {given!r}"
        )
    return num, axis % len(shape)


def _refuse_unused(stack: Stack | Mapping[str, Stack] | None, stacks: Mapping[str, Stack]) -> None:
    unused = sorted(set(stack) - set(stacks)) if isinstance(stack, Mapping) else []
    if unused or (stack is not None and not stacks):
        known = ", ".join(stacks) or "there are none"
        raise InvalidValueError(
            f"stack: expected keys whose rows have {SMALLEST_ROW} bytes or more ({known}), got {unused or stack!r}"
        )
