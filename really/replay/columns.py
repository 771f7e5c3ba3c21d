"""Columns of a put: whatever a caller gives, as NumPy arrays of the buffer's keys, dtypes and row shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really._utils.checks import first_leaf, why_no_array
from really.data.frames import FrameColumn, Sharing, Stack, stacks_of
from really.data.schema import RECURRENT_STATE, ColumnSpec, Spec, canonical, check_axes, is_extension, normal_dtype
from really.data.transitions import REQUESTABLE
from really.errors import InvalidTypeError, InvalidValueError, did_you_mean

if TYPE_CHECKING:
    from really.replay._ring import Ring

_OPPOSITES = {"not_done": "terminal", "terminal": "not_done"}
_PYTHON_NUMBERS = (bool, int, float, complex)


def spec_of(ring: Ring) -> Spec:
    """The schema of a ring."""
    return {
        key: ColumnSpec(dtype, shape) for key, dtype, shape in zip(ring.names, ring.dtypes, ring.shapes, strict=True)
    }


class Value(NamedTuple):
    """One key's data as an array or FrameColumn; `plain` if it is made of Python numbers, which have no width."""

    array: Any
    plain: bool


def chunks(data: Any) -> list[Mapping[str, Any]]:
    """The data as mappings from key to rows, in order: a mapping is one, an Arrow table or frame one for each chunk."""
    if isinstance(data, Mapping):
        return [data]
    if type(data).__module__.partition(".")[0] == "pyarrow":
        from really.data import arrow_columns

        return arrow_columns.chunks(data)
    if hasattr(data, "__arrow_c_stream__"):
        from really.data import arrow_columns

        return arrow_columns.chunks(arrow_columns.table_of(data))
    hint = "; collect() makes a frame of it" if type(data).__name__ == "LazyFrame" else ""
    raise InvalidTypeError(
        f"put: expected a mapping from key to rows, an Arrow RecordBatch or Table, a frame of pandas or Polars, or a "
        f"buffer, got {type(data).__name__}{hint}"
    )


def select(data: Mapping[str, Any], keys: Iterable[str] | None) -> dict[str, Value]:
    """The values of `keys`, or of all keys if None. Aliases and opposites are resolved, other keys ignored."""
    for key in data:
        if not isinstance(key, str):
            raise InvalidTypeError(f"put: expected keys of type str, got {key!r} of {type(key).__name__}")
    if keys is None:
        keys = dict.fromkeys(canonical(key) for key in data)
    if not keys:
        raise InvalidValueError("put: expected at least one key, got none")
    return {key: _find(data, key) for key in keys}


def infer_spec(values: Mapping[str, Value]) -> Spec:
    """The schema of a first put: arrays keep their dtype, Python floats become float32."""
    one_row = any(value.array.ndim == 0 for value in values.values())
    return {key: _infer(key, value, one_row) for key, value in values.items()}


def fit_all(parts: Iterable[Mapping[str, Value]], spec: Spec, sharings: Sequence[Sharing] = ()) -> list[dict[str, Any]]:
    """`fit` of each part, for a ring whose columns share frames like this."""
    stacks = stacks_of(spec, sharings)
    return [fit(part, spec, stacks) for part in parts]


def fit(values: Mapping[str, Value], spec: Spec, stacks: Mapping[str, Stack] | None = None) -> dict[str, Any]:
    """Columns [n, ...] of exactly the dtypes and row shapes of `spec`, all of one length.

    A `FrameColumn` stays one if `stacks` has its stack under its key; else it becomes an array.
    """
    values = {key: _unshared(value, (stacks or {}).get(key)) for key, value in values.items()}
    columns = {key: _fit(key, value, *spec[key]) for key, value in values.items()}
    first, column = next(iter(columns.items()))
    for key, other in columns.items():
        if len(other) != len(column):
            raise InvalidValueError(
                f"put: key {key!r}: expected {len(column)} rows as at key {first!r}, got {len(other)}"
            )
    _check_row_axis(values, spec)
    return columns


def _unshared(value: Value, stack: Stack | None) -> Value:
    shared = isinstance(value.array, FrameColumn) and value.array.stack != stack
    return Value(np.asarray(value.array), value.plain) if shared else value


def _find(data: Mapping[str, Any], key: str) -> Value:
    if key in data:
        return _as_value(key, data[key])
    name = canonical(key)
    for other in data:
        if canonical(other) == name:
            return _as_value(other, data[other])
    opposite = _OPPOSITES.get(key, "")
    if opposite in data:
        return _opposite(key, opposite, _as_value(opposite, data[opposite]))
    names = [str(name) for name in data]
    is_asked_for = key in (*REQUESTABLE, RECURRENT_STATE)
    hint = f"; SampleManager(returns=[{key!r}]) delivers it" if is_asked_for else f".{did_you_mean(key, names)}"
    raise InvalidValueError(f"put: expected key {key!r}, got {', '.join(map(repr, names)) or 'none'}{hint}")


def _opposite(key: str, name: str, value: Value) -> Value:
    if value.array.dtype.kind not in "biuf":
        raise InvalidTypeError(
            f"put: key {key!r}: expected {name!r} to be numbers, as it is 1 minus them, got {value.array.dtype}"
        )
    if value.array.dtype == np.bool_:
        return Value(~value.array, value.plain)
    return Value(np.subtract(1, value.array, dtype=value.array.dtype), value.plain)


def _as_value(key: str, value: Any) -> Value:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise InvalidValueError(f"put: key {key!r}: expected no missing values, got a masked array")
    num_nulls = getattr(value, "null_count", 0)  # an attribute in Arrow, a method in Polars; both would become NaN
    num_nulls = num_nulls() if callable(num_nulls) else num_nulls
    if num_nulls:
        raise InvalidValueError(f"put: key {key!r}: expected no missing values, got {num_nulls} nulls")
    if isinstance(value, FrameColumn):
        return Value(value, plain=False)
    plain = _is_plain(value)
    try:
        array = _as_array(value)
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        raise InvalidValueError(f"put: key {key!r}: {_told(value, error)}") from error
    if array.dtype.hasobject or (array.dtype.kind in "US" and not isinstance(value, np.ndarray | np.generic)):
        got = f"{type(value).__name__} of {_leaf_names(value, array)}"
        raise InvalidTypeError(f"put: key {key!r}: expected numbers of fixed width, got {got}")
    return Value(array, plain)


def _as_array(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray | list | tuple | np.generic | int | float):
        return np.asarray(value)
    if hasattr(value, "__array__"):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    return np.asarray(value)


def _told(value: Any, error: Exception) -> str:
    """What is wrong with a value that makes no array."""
    return why_no_array(value) or f"expected rows of one shape, got {type(value).__name__}: {error}"


def _is_plain(value: Any) -> bool:
    leaf = first_leaf(value)
    return type(leaf) in _PYTHON_NUMBERS or (isinstance(leaf, list | tuple) and value is leaf)


def _leaf_names(value: Any, array: NDArray[Any]) -> str:
    leaf = first_leaf(value)
    if isinstance(leaf, np.ndarray):
        return f"dtype {leaf.dtype}"
    return " and ".join(sorted({type(element).__name__ for element in array.flat}))


def _infer(key: str, value: Value, one_row: bool) -> ColumnSpec:
    array = value.array
    dtype = array.dtype
    if value.plain and array.shape == (0,):
        raise InvalidValueError(f"put: key {key!r}: expected rows that tell dtype and shape, got none")
    if value.plain and dtype == np.float64:
        dtype = np.dtype(np.float32)
    shape = array.shape if one_row else array.shape[1:]
    check_axes("put", key, shape)
    return ColumnSpec(normal_dtype(key, dtype), shape)


def _fit(key: str, value: Value, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    array = value.array
    if value.plain and array.shape == (0,):
        return np.empty((0, *shape), dtype)
    if array.shape == shape:
        array = array[np.newaxis]
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise InvalidValueError(
            f"put: key {key!r}: expected {_text('n', shape)} or one row of {_text(shape)}, "
            f"got {_text(value.array.shape)}"
        )
    if array.dtype != dtype:
        array = _cast(key, value.plain, np.asarray(array), dtype)
    return array if isinstance(array, FrameColumn) else _with_whole_rows(array)


def _cast(key: str, plain: bool, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    whole = plain and array.dtype.kind in "iu" and dtype.kind in "iu"
    # NumPy reports no overflow of ml_dtypes, and calls any number a kind of them.
    is_exact = any(part.kind in "SUV" or is_extension(part) for part in (dtype, array.dtype))
    rule: Literal["safe", "same_kind"] = "safe" if is_exact else "same_kind"
    if not whole and not np.can_cast(array.dtype, dtype, rule):
        raise _another_dtype(key, dtype, array)
    if array.size and array.dtype.kind in "iu" and dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < bounds.min or high > bounds.max:
            wrong = low if low < bounds.min else high
            raise InvalidValueError(f"put: key {key!r}: expected values that fit {dtype}, got {wrong}")
    try:
        with np.errstate(over="raise"):
            cast = array.astype(dtype)
    except FloatingPointError as error:
        raise _beyond(key, dtype, array) from error
    except ValueError as error:  # NumPy has no such cast, although it says that it is safe
        raise _another_dtype(key, dtype, array) from error
    if dtype.kind in "mM" and not _is_same_time(cast, array):
        raise _beyond(key, dtype, array)
    return cast


def _is_same_time(cast: NDArray[Any], array: NDArray[Any]) -> bool:
    """Whether all times fit their new unit: NumPy does not report overflow. A coarser unit holds every time."""
    if array.dtype.kind == "u":
        return array.size == 0 or int(array.max()) <= np.iinfo(np.int64).max
    if array.dtype.kind not in "mM" or not np.can_cast(array.dtype, cast.dtype, "safe"):
        return True
    return bool(np.array_equal(cast.astype(array.dtype).view(np.int64), array.view(np.int64)))


def _another_dtype(key: str, dtype: np.dtype[Any], array: NDArray[Any]) -> InvalidTypeError:
    return InvalidTypeError(f"put: key {key!r}: expected {dtype} or what casts to it, got {array.dtype}")


def _beyond(key: str, dtype: np.dtype[Any], array: NDArray[Any]) -> InvalidValueError:
    return InvalidValueError(f"put: key {key!r}: expected values that fit {dtype}, got {array.dtype} beyond its range")


def _with_whole_rows(array: NDArray[Any]) -> NDArray[Any]:
    """The same values with each row's bytes in C order; the stride from row to row is free."""
    array = np.asarray(array)
    row_is_whole = array.shape[0] == 0 or array[0].flags.c_contiguous
    return array if row_is_whole else np.ascontiguousarray(array)


def _check_row_axis(values: Mapping[str, Value], spec: Spec) -> None:
    first, *others = values
    first_is_row = values[first].array.shape == spec[first][1]
    for key in others:
        if (values[key].array.shape == spec[key][1]) != first_is_row:
            raise InvalidValueError(
                f"put: key {key!r}: expected {'one row' if first_is_row else 'rows'} as at key {first!r}, "
                f"got {_text(values[key].array.shape)}"
            )


def _text(*axes: Any) -> str:
    flat = [str(axis) for part in axes for axis in (part if isinstance(part, tuple) else (part,))]
    return f"shape [{', '.join(flat)}]"
