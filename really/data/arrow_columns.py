"""Arrow record batches and tables as NumPy columns: views of Arrow's memory, but for booleans, which are unpacked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.frames import FrameColumn
from really.errors import InvalidTypeError, InvalidValueError


class ArrowColumns(dict[str, Any]):
    """Key -> Arrow array of one chunk. A lookup of a key converts the array to NumPy.

    Columns that share frames are `FrameColumn`s from the start.
    """

    def __init__(self, batch: Any) -> None:
        from really.data import arrow_frames

        shared = arrow_frames.columns_of(batch)
        names = zip(different_names(batch.schema), batch.columns, strict=True)
        super().__init__({name: array for name, array in names if not name.startswith(arrow_frames.PREFIX)} | shared)

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return value if isinstance(value, FrameColumn) else as_rows(key, value)


def chunks(data: Any) -> list[Any]:
    """A RecordBatch or Table as one `ArrowColumns` per chunk. An empty Table gives one without rows, for its schema."""
    import pyarrow as pa

    if isinstance(data, pa.RecordBatch):
        return [ArrowColumns(data)]
    if isinstance(data, pa.Table):
        batches = data.to_batches() or [empty_batch(data.schema)]
        return [chunk for batch in batches for chunk in chunks(batch)]
    hint = "; read_all() makes a table of it" if isinstance(data, pa.RecordBatchReader) else ""
    raise InvalidTypeError(f"put: expected an Arrow RecordBatch or Table, got {type(data).__name__}{hint}")


def table_of(frame: Any) -> Any:
    """A frame of pandas or Polars, or what else gives an Arrow stream, as a Table; an index of pandas is left out.

    Raises InvalidTypeError if Arrow has no type for a column.
    """
    import pyarrow as pa

    try:
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"put: expected columns of numbers, or of lists of one length, got {type(frame).__name__}: {error}"
        ) from error
    return table.select([name for name in table.column_names if not name.startswith("__index_level_")])


def different_names(schema: Any) -> list[str]:
    """The names of the columns. Raises InvalidValueError if a name comes twice."""
    names: list[str] = schema.names
    if len(set(names)) < len(names):
        raise InvalidValueError(f"put: expected columns of different names, got {names}")
    return names


def as_rows(key: str, array: Any, row_length: int = 1) -> NDArray[Any]:
    """Rows [n, ...] of a primitive, boolean, fixed-shape-tensor, or (nested) list array.

    The one decoder of Arrow columns: of runners' messages, of puts, and of files. Lists have a fixed size, or one
    length in all rows, as pandas, Polars and DuckDB write them.

    Args:
        key: the column's name, for messages.
        array: the column, or the values of its lists.
        row_length: number of elements of the array that are one row of the column, for messages.

    Raises:
        InvalidTypeError: it has no numbers of fixed width.
        InvalidValueError: it has nulls, lists of several lengths, or lists that may have any length and no row.
    """
    import pyarrow as pa

    if isinstance(array, pa.ExtensionArray):
        if not isinstance(array, pa.FixedShapeTensorArray):
            raise InvalidTypeError(f"put: key {key!r}: expected numbers, got Arrow type {array.type}")
        return _tensor_rows(key, array)
    if array.null_count:
        raise InvalidValueError(
            f"put: key {key!r}: expected no missing values, got {array.null_count} nulls, the first at "
            f"row {array.is_null().index(True).as_py() // row_length}"
        )
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        values = as_rows(key, array.values.slice(array.offset * width, len(array) * width), row_length * width)
        return values.reshape(len(array), width, *values.shape[1:])
    if is_list(array.type):
        width = _list_length(key, array)
        values = as_rows(key, array.flatten(), row_length * width)
        return values.reshape(len(array), width, *values.shape[1:])
    if pa.types.is_boolean(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.bool_)
    if pa.types.is_date(array.type):  # days are int32 in Arrow and int64 in NumPy
        return np.asarray(array.to_numpy(zero_copy_only=False))
    if pa.types.is_primitive(array.type) and not pa.types.is_time(array.type) and not pa.types.is_interval(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=True))
    hints = {pa.types.is_decimal: "cast it to a float", pa.types.is_dictionary: "give its indices"}
    hint = next((f"; {cure}" for is_of, cure in hints.items() if is_of(array.type)), "")
    raise InvalidTypeError(f"put: key {key!r}: expected numbers of fixed width, got Arrow type {array.type}{hint}")


def is_list(kind: Any) -> bool:
    """Whether this is an Arrow type of lists that may have any length."""
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _list_length(key: str, array: Any) -> int:
    """The length that all lists of an array without nulls have."""
    if not len(array):
        raise InvalidValueError(
            f"put: key {key!r}: expected rows that tell the length of their lists, got none of {array.type}"
        )
    lengths = np.diff(array.offsets)
    if (lengths != lengths[0]).any():
        row = int((lengths != lengths[0]).argmax())
        raise InvalidValueError(
            f"put: key {key!r}: expected lists of one length, got {lengths[0]} at row 0 and {lengths[row]} at row {row}"
        )
    return int(lengths[0])


def empty_batch(schema: Any) -> Any:
    """A record batch without rows."""
    import pyarrow as pa

    return pa.record_batch([_empty(field.type) for field in schema], schema=schema)


def _empty(kind: Any) -> Any:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array([], kind.storage_type))
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays([_empty(part.type) for part in kind], fields=list(kind))
    return pa.array([], kind)


def _tensor_rows(key: str, array: Any) -> NDArray[Any]:
    flat = as_rows(key, array.storage)
    order = array.type.permutation or range(len(array.type.shape))
    rows = flat.reshape(len(array), *array.type.shape)
    return rows.transpose(0, *(1 + axis for axis in order))
