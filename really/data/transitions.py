"""Transitions as columns: which there are, with which dtype and shape; from NumPy to an Arrow record batch and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from really._utils.array_pool import ArrayPool
from really.data.frames import FrameColumn
from really.data.schema import ColumnSpec, Spec
from really.errors import InvalidTypeError, InvalidValueError, one_of

if TYPE_CHECKING:
    import pyarrow as pa

Columns = dict[str, NDArray[Any]]

# Rewards, flags and estimates are float32, as a TensorFlow learner takes them; counters are integers.
REQUESTABLE: dict[str, np.dtype[Any]] = {
    "value_estimate": np.dtype(np.float32),
    "log_prob": np.dtype(np.float32),
    "monte_carlo": np.dtype(np.float32),
    "advantage": np.dtype(np.float32),
    "truncated": np.dtype(np.float32),
    "episode_end": np.dtype(np.float32),
    "policy_version": np.dtype(np.int64),
    "agent": np.dtype(np.int32),
}
# What is only right for the policy that acted: stale rows of these are dropped unless `max_staleness` says otherwise.
ON_POLICY = frozenset({"log_prob", "monte_carlo", "advantage"})


def check_returns(returns: Iterable[str]) -> tuple[str, ...]:
    """The requested extra columns, without repeats, in the order given; unknown names are refused."""
    if isinstance(returns, str) or not isinstance(returns, Iterable):
        raise InvalidTypeError(f"returns: expected a list of names, got {returns!r} ({type(returns).__name__})")
    names = tuple(dict.fromkeys(returns))
    for name in names:
        if name not in REQUESTABLE:
            raise InvalidValueError(one_of("returns", name, REQUESTABLE))
    return names


def schema(
    leaves: Spec,
    action_shape: tuple[int, ...],
    action_dtype: np.dtype[Any],
    returns: Sequence[str] = (),
) -> Spec:
    """The columns that runners deliver: the fixed ones, then those that `returns` requests."""
    number = ColumnSpec(np.dtype(np.float32))
    return {
        **{"state" + name: leaf for name, leaf in leaves.items()},
        "action": ColumnSpec(np.dtype(action_dtype), action_shape),
        "reward": number,
        **{"state_new" + name: leaf for name, leaf in leaves.items()},
        "not_done": number,
        "terminal": number,
        **{name: ColumnSpec(REQUESTABLE[name]) for name in returns},
    }


def to_record_batch(columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Columns `[row, ...]` as one Arrow record batch over the same memory (bool is packed, hence copied).

    One-dimensional rows become fixed-size lists, rows of more axes fixed-shape tensors, a `FrameColumn` what
    `arrow_frames` makes of it.
    """
    import pyarrow as pa

    from really.data import arrow_frames

    shared = arrow_frames.arrays(columns)
    plain = {name: values for name, values in columns.items() if name not in shared}
    arrays = {name: _to_arrow(np.ascontiguousarray(values)) for name, values in plain.items()}
    fields = [pa.field(name, array.type) for name, array in arrays.items()] + [field for field, _ in shared.values()]
    return pa.record_batch([*arrays.values(), *(array for _, array in shared.values())], schema=pa.schema(fields))


def from_record_batch(batch: pa.RecordBatch) -> dict[str, Any]:
    """The columns of a record batch, `[row, ...]`, as read-only views of its memory (bool is a copy).

    Those that share frames are `FrameColumn`s.
    """
    from really.data import arrow_frames

    shared = arrow_frames.columns_of(batch)
    plain = [name for name in batch.schema.names if name not in shared and not name.startswith(arrow_frames.PREFIX)]
    return {name: _from_arrow(batch.column(name)) for name in plain} | shared


def concatenate(spec: Spec, parts: Sequence[Mapping[str, Any]], pool: ArrayPool) -> Columns:
    """The rows of all parts one after the other, in arrays `[row, ...]` of the pool that belong to the caller."""
    first = next(iter(spec))
    num_rows = sum(len(part[first]) for part in parts)
    joined = {name: pool.empty((num_rows, *column.shape), column.dtype) for name, column in spec.items()}
    for name, target in joined.items():
        start = 0
        for part in parts:
            rows = part[name]
            stop = start + len(rows)
            if isinstance(rows, FrameColumn):
                rows.write_to(target[start:stop])
            else:
                target[start:stop] = rows
            start = stop
    return joined


def _to_arrow(values: NDArray[Any]) -> pa.Array:
    import pyarrow as pa

    flat = pa.array(values.reshape(-1))
    if values.ndim == 1:
        return flat
    width = math.prod(values.shape[1:])
    lists = pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(flat.type, width))
    if values.ndim == 2:
        return lists
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(flat.type, values.shape[1:]), lists)


def _from_arrow(array: pa.Array) -> NDArray[Any]:
    import pyarrow as pa

    rows = len(array)
    shape: tuple[int, ...] = ()
    if isinstance(array, pa.FixedShapeTensorArray):
        shape, array = tuple(array.type.shape), array.storage
    elif pa.types.is_fixed_size_list(array.type):
        shape = (array.type.list_size,)
    flat = array.flatten() if pa.types.is_fixed_size_list(array.type) else array
    values: NDArray[Any] = flat.to_numpy(zero_copy_only=not pa.types.is_boolean(flat.type))
    return values.reshape(rows, *shape)
