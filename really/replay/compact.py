"""Compact batches: columns that share frames leave as the frames of each row of a batch, and as indices into those."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.frames import Sharing, frame_shape, is_after
from really.data.schema import ColumnSpec, Spec
from really.errors import InvalidTypeError, InvalidValueError
from really.replay._ring import Ring
from really.replay.arguments import MOST_ROWS
from really.replay.units import IS_FIRST, MASK, NUMBER, Batch

FRAMES, INDICES = "_frames", "_indices"
"""What the names of the columns end with that a compact batch has in place of columns that share frames."""


def checked_compact(compact: Any) -> bool | int:
    """The argument `compact` of a sample unit; raises InvalidTypeError or InvalidValueError for others."""
    if isinstance(compact, bool | np.bool_):
        return bool(compact)
    if not isinstance(compact, int | np.integer):
        raise InvalidTypeError(f"compact: expected True, False or how many frames a row has room for, got {compact!r}")
    if not 1 <= compact <= MOST_ROWS:
        raise InvalidValueError(f"compact: expected room for 1 frame or more, got {compact}")
    return int(compact)


def check_names(spec: Spec) -> None:
    """Raises InvalidValueError if a column has the name of one that a compact batch may have."""
    taken = [key + end for key in spec for end in (FRAMES, INDICES) if key + end in spec]
    if taken:
        raise InvalidValueError(f"compact: expected no keys {taken}, which batches have in place of columns")


def fitting(what: str, key: str, column: NDArray[Any], shape: tuple[int, ...], num_lead: int) -> NDArray[Any]:
    """The column, which has `num_lead` axes before that of frames, in the shape of a batch whose shape is fixed.

    Raises InvalidValueError, naming `what`, for frames of rows that need more of them than usual.
    """
    if column.size != math.prod(shape):
        raise InvalidValueError(
            f"{what}: key {key!r}: expected {list(shape)}, got {list(column.shape)}, as a row needs more frames; "
            f"compact={column.shape[num_lead]} gives each row room for them"
        )
    return column.reshape(shape)


class CompactFrames:
    """The compact form of the batches of a ring: windows of `length` rows, each with its frames once.

    Args:
        ring: whose rows.
        length: rows of a window.
        compact: True, or how many frames a window has room for. True makes room for `length + stack` frames where a
            state and the next state share them, and for `length + stack - 1` where one column does. Columns whose rows
            are repeated recurrent states stay whole rows.
        has_steps: whether the rows of a window are an axis of a batch. Windows then have room for another number of
            frames than `length`, as `stacked` tells both axes apart by that.
    """

    def __init__(self, ring: Ring, length: int, compact: bool | int, *, has_steps: bool) -> None:
        self._ring, self._length, self._has_steps = ring, length, has_steps
        self._names = [[ring.names[at] for at in columns] for columns, _, _ in ring.shared]
        usual = [length + stack + len(columns) - 2 for columns, stack, _ in ring.shared]
        self._are_states = [sharing.is_repeated for sharing in map(Sharing._make, ring.shared)]
        self._num_places = self._apart(
            [
                most if compact is True or is_state else compact
                for most, is_state in zip(usual, self._are_states, strict=True)
            ]
        )

    def spec(self, spec: Spec) -> Spec:
        """The schema of a batch whose columns have this schema, with the axis of steps if there is one."""
        found: Spec = {}
        replaced = {key: at for at, names in enumerate(self._names) for key in names if not self._are_states[at]}
        for key, (dtype, shape) in spec.items():
            if key not in replaced:
                found[key] = ColumnSpec(dtype, shape)
                continue
            at = replaced[key]
            sharing = Sharing._make(self._ring.shared[at])
            row = self._ring.shapes[self._ring.names.index(key)]
            steps = shape[: len(shape) - len(row)]
            if key == self._names[at][0]:
                found[key + FRAMES] = ColumnSpec(dtype, (self._num_places[at], *frame_shape(row, sharing)))
            found[key + INDICES] = ColumnSpec(np.dtype(np.int32), (*steps, sharing.stack))
        return found

    def take(self, rows: NDArray[np.int64], is_padding: NDArray[np.bool_] | None = None) -> Batch | None:
        """The rows of these numbers [n * length], window after window: columns [n * length, ...] and frames [n, ...].

        Returns None if a row is not held.
        """
        places = list(self._num_places)
        taken = self._ring.take_windows(rows, self._length, places, is_padding)
        if (apart := self._apart(places)) != places:  # these windows need as many frames as they have rows
            taken = self._ring.take_windows(rows, self._length, apart, is_padding)
        if taken is None:
            return None
        columns, frames = taken
        first = {names[0]: at for at, names in enumerate(self._names)}
        shared = {key for names in self._names for key in names}
        batch: Batch = {}
        for key in self._ring.names:
            if key in first and self._are_states[first[key]]:
                windows = np.repeat(np.arange(len(rows) // self._length), self._length)
                batch[key] = frames[first[key]][windows, columns[key][:, 0]]
                continue
            if key in first:
                batch[key + FRAMES] = frames[first[key]]
            batch[key + INDICES if key in shared else key] = columns[key]
        return batch

    def _apart(self, num_places: list[int]) -> list[int]:
        """One place more where an axis of frames would be as long as that of steps."""
        return [
            num + (self._has_steps and not is_state and num == self._length)
            for num, is_state in zip(num_places, self._are_states, strict=True)
        ]

    def reshaped(self, batch: Batch, lead: tuple[int, ...], steps: tuple[int, ...]) -> Batch:
        """What `take` gave as columns [*lead, *steps, ...], and frames as [*lead, ...]."""
        frames = {names[0] + FRAMES for names in self._names}
        return {
            key: column.reshape((*lead, *(() if key in frames else steps), *column.shape[1:]))
            for key, column in batch.items()
        }


def stacked(batch: Mapping[str, Any], axis: int | Mapping[str, int] = 0) -> dict[str, Any]:
    """A compact batch as it would be without `compact`: indices and frames become whole rows again.

    It only indexes, with the operations of the batch's own library (NumPy, TensorFlow, PyTorch or JAX), so it works on
    an accelerator and inside compiled functions. Other batches stay as they are.

    Args:
        batch: with `state_frames` [*lead, frames, ...] and `state_indices` [*lead, ..., stack], likewise for other
            columns. Steps may be cut off the indices, but not to as many as there are frames, and frames may not.
        axis: of a row along which its frames are stacked, as in `ReplayBuffer(stack=)`, or a mapping from key to that;
            by default the first one. Rows of one frame have none.

    Returns:
        A dict with whole rows, `state` [*lead, ..., stack, ...], in place of those columns.

    Raises:
        InvalidValueError: frames of a column are missing, rows have no such axis, or a batch of sequences has as many
            steps as frames, which cannot be told apart then.
    """
    found: dict[str, Any] = {}
    for key, column in batch.items():
        if key.endswith(INDICES):
            name = key.removesuffix(INDICES)
            frames = batch[_frames_of(name, batch)]
            _refuse_as_many_steps(name, frames.shape, column.shape, batch)
            found[name] = _rows(name, frames, column, axis.get(name, 0) if isinstance(axis, Mapping) else axis)
        elif not (key.endswith(FRAMES) and key.removesuffix(FRAMES) + INDICES in batch):
            found[key] = column
    return found


def _frames_of(name: str, batch: Mapping[str, Any]) -> str:
    """The key of the frames of column `name`: its own, or those of the column of which it is the next observation."""
    if name + FRAMES in batch:
        return name + FRAMES
    for key in batch:
        if key.endswith(FRAMES) and is_after(key.removesuffix(FRAMES), name):
            return key
    raise InvalidValueError(f"stacked: expected frames of {name!r} among the columns, got {list(batch)}")


def _refuse_as_many_steps(name: str, frames: Any, indices: Any, batch: Mapping[str, Any]) -> None:
    """Raises InvalidValueError if the last axis that both have may be that of steps, cut to as many as frames."""
    num_lead = _num_lead(frames, indices)
    is_of_steps = all(key in batch and len(batch[key].shape) == num_lead for key in (MASK, IS_FIRST, NUMBER))
    if is_of_steps and 1 < num_lead == len(indices) - 1:
        raise InvalidValueError(
            f"stacked: {name!r}: expected more or fewer steps than frames, got {indices[num_lead - 1]} of both, which "
            f"cannot be told apart; make the rows whole, then cut off steps"
        )


def _rows(name: str, frames: Any, indices: Any, axis: int) -> Any:
    """Rows [*lead, ..., stack, ...] with the stack moved to `axis`, or without it if it is of one frame."""
    num_lead = _num_lead(frames.shape, indices.shape)
    num_dims = len(indices.shape) + len(frames.shape) - num_lead - 1
    stack, row_dims = indices.shape[-1], num_dims - len(indices.shape) + 1
    if stack > 1 and not -row_dims <= axis < row_dims:
        raise InvalidValueError(f"axis: expected one of the {row_dims} axes of a row of {name!r}, got {axis}")
    package = type(frames).__module__.partition(".")[0]
    gather = {"tensorflow": _gathered_by_tensorflow, "torch": _gathered_by_torch}.get(package, _gathered)
    rows = gather(frames, indices, num_lead)
    at = len(indices.shape) - 1
    if stack == 1:
        return rows.reshape(rows.shape[:at] + rows.shape[at + 1 :]) if package != "tensorflow" else _squeezed(rows, at)
    return rows if axis % row_dims == 0 else _moved(package, rows, at, at + axis % row_dims)


def _num_lead(frames: Any, indices: Any) -> int:
    """How many first axes both have. The axis of steps is none of them: a window has room for more or fewer frames."""
    num = 0
    for length, other in zip(frames, indices[:-1], strict=False):
        if length != other:
            break
        num += 1
    return num


def _gathered(frames: Any, indices: Any, num_lead: int) -> Any:
    """With NumPy, or JAX, whose arrays have the same methods."""
    lead, num_frames = frames.shape[:num_lead], frames.shape[num_lead]
    num, rest = math.prod(lead), indices.shape[num_lead:]
    starts = np.arange(num, dtype=np.int32).reshape(-1, *(1 for _ in rest)) * num_frames
    places = indices.reshape(num, *rest) + starts
    flat = frames.reshape(num * num_frames, *frames.shape[num_lead + 1 :])
    return flat[places].reshape(*lead, *rest, *flat.shape[1:])


def _gathered_by_torch(frames: Any, indices: Any, num_lead: int) -> Any:
    import torch

    lead, num_frames = frames.shape[:num_lead], frames.shape[num_lead]
    num, rest = math.prod(lead), indices.shape[num_lead:]
    starts = torch.arange(num, device=indices.device).reshape(-1, *(1 for _ in rest)) * num_frames
    places = (indices.reshape(num, *rest) + starts).reshape(-1)
    flat = frames.reshape(num * num_frames, *frames.shape[num_lead + 1 :])
    return flat.index_select(0, places).reshape(*lead, *rest, *flat.shape[1:])


def _gathered_by_tensorflow(frames: Any, indices: Any, num_lead: int) -> Any:
    import tensorflow as tf

    return tf.gather(frames, indices, axis=num_lead, batch_dims=num_lead)


def _squeezed(rows: Any, axis: int) -> Any:
    import tensorflow as tf

    return tf.squeeze(rows, axis)


def _moved(package: str, rows: Any, axis: int, to: int) -> Any:
    if package == "torch":
        return rows.movedim(axis, to)
    order = [at for at in range(len(rows.shape)) if at != axis]
    order.insert(to, axis)
    if package == "tensorflow":
        import tensorflow as tf

        return tf.transpose(rows, order)
    return rows.transpose(order)
