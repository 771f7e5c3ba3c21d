"""Frame deduplication: which columns can share frames, and `FrameColumn`, the (frames, indices) form of a column."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really.data.schema import HAS_STATE, RECURRENT_STATE, ColumnSpec, Spec
from really.errors import InvalidTypeError, InvalidValueError

Stack = tuple[int, int]
"""(number of frames, axis of a row along which they are stacked)."""

SMALLEST_ROW = 1024
"""Bytes. A copy of a shorter row is faster than a lookup of its frames."""
SMALLEST_STATE = 32
"""Bytes. The numbers of its frames take 8 bytes of each row, so that a shorter recurrent state gains little."""
LARGEST_STACK = 16
ONE_FRAME: Stack = (1, 0)
"""The stack of rows that are one frame, without an axis for a stack."""
FRAME_NUMBER_NBYTES = 4
"""Bytes of a frame number in a record."""
FRAMES_PER_ROW = 1.05
"""Estimate of new frames per row: one, and the first frames of trajectories."""
STATES_PER_ROW = 0.5
"""Most new recurrent states per row, if rows repeat them."""


@dataclass(frozen=True, eq=False)
class FrameColumn:
    """Rows that are stacks of frames, with each frame stored once.

    Row i is `frames[indices[i]]` with the stack's axis moved to `axis`. A stack of one frame is the frame itself,
    without that axis. Two columns can have the same `frames`.

    Attributes:
        frames: [frame, ...] of the rows' dtype, C-contiguous.
        indices: [row, stack] int32, C-contiguous, each from 0 to `len(frames) - 1`.
        axis: axis of a row along which the frames are stacked.

    Raises:
        InvalidValueError: an array has another dtype, shape or layout, or an index has no frame.
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
        """Dtype of the frames."""
        return self.frames.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [row, ...] of the rows as one array."""
        row = list(self.frames.shape[1:])
        if self.stack != ONE_FRAME:
            row.insert(self.axis, self.indices.shape[1])
        return (len(self.indices), *row)

    @property
    def ndim(self) -> int:
        """Number of axes, with the axis of rows."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements of the rows."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of frames and indices."""
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
        """Writes all rows to an array of `shape`."""
        if self.stack == ONE_FRAME:
            np.take(self.frames, self.indices[:, 0], axis=0, out=rows, mode="clip")
        elif self.axis == 0:
            np.take(self.frames, self.indices, axis=0, out=rows, mode="clip")
        else:
            rows[...] = np.moveaxis(self.frames[self.indices], 1, self.axis + 1)


class Sharing(NamedTuple):
    """Columns that share frames: one column, or two of which the second holds the next observations, and the stack.

    `columns` are positions in the schema.
    """

    columns: tuple[int, ...]
    stack: int
    axis: int

    @property
    def is_repeated(self) -> bool:
        """Whether a row is one frame of one column, which repeats that of an earlier row or is new."""
        return len(self.columns) == 1 and self.stack == 1


def plan(spec: Spec, stack: Stack | Mapping[str, Stack] | None = None) -> list[Sharing]:
    """Says which columns share frames, and how their rows consist of frames.

    A state and the next state (`state` and `state_new`, `obs` and `next_obs`) share frames if their dtypes and shapes
    are equal. A column without such a partner shares frames among its own rows if it is a stack. The first axis is the
    stack if its length is at most 16 and other axes follow; otherwise a row is one frame. Other rows below 1 kB share
    none.

    With a column `has_recurrent_state`, rows repeat recurrent states. Then each column of the state shares frames among
    its own rows, from 32 bytes on: a row is one frame.

    Args:
        spec: key -> (dtype, shape of one row).
        stack: (frames, axis) of all columns that can share, or of each column by key; (1, 0) makes a row one frame.

    Raises:
        InvalidValueError, InvalidTypeError: no column has such a stack.
    """
    states = _repeated_states(spec)
    large = [key for key, column in spec.items() if column.nbytes >= SMALLEST_ROW or key in states]
    if not large and stack is None:
        return []
    keys = list(spec)
    stacks = {key: _stack_of(key, spec[key], _given(stack, key)) for key in large if key not in states}
    stacks |= {key: _stack_of_state(key, stack.get(key) if isinstance(stack, Mapping) else None) for key in states}
    _refuse_unused(stack, stacks)
    found, used = [], set[str]()
    for key in large:
        after = [other for other in large if other not in used and is_after(key, other) and not {key, other} & states]
        pair = [key, *(other for other in after[:1] if spec[other] == spec[key] and stacks[other] == stacks[key])]
        if key not in used and len(pair) == 2:
            found.append(Sharing(tuple(keys.index(name) for name in pair), *stacks[key]))
            used.update(pair)
    alone = [key for key in large if key not in used and (stacks[key][0] > 1 or key in states)]
    return sorted(found + [Sharing((keys.index(key),), *stacks[key]) for key in alone])


def check_sharings(spec: Spec, sharings: Sequence[Sharing]) -> None:
    """Raises InvalidValueError unless rows of this schema can share frames as a file says."""
    columns = list(spec.values())
    used = [at for sharing in sharings for at in sharing.columns]
    known = all(type(at) is int and 0 <= at < len(columns) for at in used)
    if not known or len(set(used)) < len(used) or not all(len(sharing.columns) in (1, 2) for sharing in sharings):
        raise InvalidValueError(f"shared: expected one or two different columns of {list(spec)}, got {[*sharings]}")
    for sharing in sharings:
        first, last = columns[sharing.columns[0]], columns[sharing.columns[-1]]
        num, axis = stack = sharing.stack, sharing.axis
        smallest = SMALLEST_STATE if sharing.is_repeated else SMALLEST_ROW
        fits = all(type(part) is int for part in stack) and 1 <= num <= LARGEST_STACK
        fits = fits and (stack == ONE_FRAME or (num > 1 and 0 <= axis < len(first.shape) and first.shape[axis] == num))
        if first != last or not fits or first.nbytes < smallest:
            raise InvalidValueError(f"shared: expected (frames, axis) of rows {first} and {last}, got {stack}")


def is_after(key: str, other: str) -> bool:
    """Whether `other` is, by its name, the next observation of `key`."""
    if key == other:
        return False
    bare = re.sub(r"(?:^|[._])(?:new|next)(?=[._]|$)|(?:new|next)_?|_$", "", other)
    return bare.strip("._") == key.strip("._")


def frame_nbytes(spec: Spec, sharings: Sequence[Sharing]) -> float:
    """Estimated bytes of the new frames of one row."""
    columns = list(spec.values())
    return sum(
        (STATES_PER_ROW if sharing.is_repeated else FRAMES_PER_ROW) * columns[sharing.columns[0]].nbytes / sharing.stack
        for sharing in map(Sharing._make, sharings)
    )


def field_nbytes(spec: Spec, sharings: Sequence[Sharing]) -> list[int]:
    """Bytes of each field of a record.

    The field of a column that shares frames has frame numbers. At the end, each `Sharing` has one for its oldest frame.
    """
    nbytes = [column.nbytes for column in spec.values()]
    for sharing in sharings:
        for at in sharing.columns:
            nbytes[at] = FRAME_NUMBER_NBYTES * sharing.stack
    return nbytes + [FRAME_NUMBER_NBYTES] * len(sharings)


def stacks_of(spec: Spec, sharings: Sequence[Sharing]) -> dict[str, Stack]:
    """Key -> stack, for the columns that share frames."""
    keys = list(spec)
    return {keys[at]: (sharing.stack, sharing.axis) for sharing in sharings for at in sharing.columns}


def frame_shape(shape: tuple[int, ...], sharing: Sharing) -> tuple[int, ...]:
    """Shape of the frames of which rows of this shape consist."""
    whole = sharing[1:] == ONE_FRAME
    return shape if whole else shape[: sharing.axis] + shape[sharing.axis + 1 :]


def keys_by_frames(columns: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yields the keys of the `FrameColumn`s in groups that have the same frames."""
    found: dict[int, list[str]] = {}
    for key, column in columns.items():
        if isinstance(column, FrameColumn):
            found.setdefault(id(column.frames), []).append(key)
    yield from found.values()


def owned(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of the columns. The copies share frames as the columns do."""
    copies = {key: column.copy() for key, column in columns.items() if not isinstance(column, FrameColumn)}
    for keys in keys_by_frames(columns):
        frames = columns[keys[0]].frames.copy()
        copies |= {key: FrameColumn(frames, columns[key].indices.copy(), columns[key].axis) for key in keys}
    return copies


def joined(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of all pieces one after the other. The pieces have the same columns."""
    first = pieces[0]
    plain = [key for key, column in first.items() if not isinstance(column, FrameColumn)]
    columns: dict[str, Any] = {key: np.concatenate([piece[key] for piece in pieces]) for key in plain}
    for keys in keys_by_frames(first):
        frames = np.concatenate([piece[keys[0]].frames for piece in pieces])
        starts = np.cumsum([0, *(len(piece[keys[0]].frames) for piece in pieces)], dtype=np.int32)
        for key in keys:
            indices = [piece[key].indices + start for piece, start in zip(pieces, starts, strict=False)]
            columns[key] = FrameColumn(frames, np.concatenate(indices), first[key].axis)
    return columns


def _repeated_states(spec: Spec) -> set[str]:
    """Columns of a recurrent state that several rows share."""
    names = {key for key in spec if key.split(".")[0] == RECURRENT_STATE and spec[key].nbytes >= SMALLEST_STATE}
    return names if HAS_STATE in spec else set()


def _stack_of_state(key: str, given: Any) -> Stack:
    if given not in (None, ONE_FRAME):
        raise InvalidValueError(f"stack: key {key!r}: expected none, as a row is a recurrent state, got {given!r}")
    return ONE_FRAME


def _given(stack: Stack | Mapping[str, Stack] | None, key: str) -> Stack | None:
    return stack.get(key) if isinstance(stack, Mapping) else stack


def _stack_of(key: str, column: ColumnSpec, given: Stack | None) -> Stack:
    shape = column.shape
    if given is None:
        return (shape[0], 0) if len(shape) > 1 and 1 < shape[0] <= LARGEST_STACK else ONE_FRAME
    if not isinstance(given, tuple) or len(given) != 2 or not all(isinstance(part, int) for part in given):
        raise InvalidTypeError(f"stack: key {key!r}: expected (number of frames, axis), got {given!r}")
    num, axis = given
    if num == 1:
        return ONE_FRAME
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
