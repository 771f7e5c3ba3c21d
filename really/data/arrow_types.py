"""Columns of any dtype as Arrow arrays, and back: the form in files.

| dtype of a row | Arrow type |
| --- | --- |
| bool, integers, float16, 32, 64 | the type of the same name |
| datetime64, timedelta64 in s, ms, us, ns | timestamp, duration (NaT is the smallest integer, not a null) |
| complex64, complex128 | struct of re and im |
| others of fixed width (text, bytes, long double, structured, ml_dtypes) | fixed_size_binary of its bytes |
| with a shape | fixed-shape tensor of the type; complex: struct of two tensors; bytes: those of the row |
| of no bytes (an axis of length 0) | null |

The metadata of each field have its NumPy dtype and shape, so that a reader need not guess them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from really.data import arrow_columns
from really.data.schema import Spec, dtype_from_json, dtype_to_json, is_extension, shape_from_json
from really.errors import InvalidValueError, one_of

DTYPE, SHAPE = b"really.dtype", b"really.shape"
TIME_UNITS = ("s", "ms", "us", "ns")
FLOAT16 = ("float16", "float32")


def schema_of(spec: Spec, float16: str = "float16", metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """The Arrow schema of rows of `spec`.

    Args:
        spec: key -> (dtype, shape of one row).
        float16: "float32" writes float16 as float32, for readers without float16.
        metadata: metadata of the schema.

    Raises:
        InvalidValueError: `float16` is neither "float16" nor "float32".
    """
    if float16 not in FLOAT16:
        raise InvalidValueError(one_of("float16", float16, FLOAT16))
    fields = []
    for key, (dtype, shape) in spec.items():
        about = {DTYPE: json.dumps(dtype_to_json(dtype)), SHAPE: json.dumps(shape)}
        written = np.dtype(float16) if dtype == np.float16 else dtype
        kind = _type_of(written, shape)
        fields.append(pa.field(key, kind, nullable=pa.types.is_null(kind), metadata=about))
    return pa.schema(fields, metadata=dict(metadata) if metadata else None)


def to_batch(columns: Mapping[str, NDArray[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """C-contiguous columns [n, ...] as a record batch of `schema` over the same memory.

    Booleans (packed), complex numbers (split) and float16 written as float32 are copied.
    """
    arrays = [_to_array(columns[field.name], field.type) for field in schema]
    return pa.record_batch(arrays, schema=schema)


class FileColumns(dict[str, Any]):
    """Key -> Arrow field and array. A lookup of a key gives rows [n, ...], as a view if NumPy has the same layout.

    A lookup raises InvalidValueError or InvalidTypeError if the column has nulls or a type that no buffer can have.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        super().__init__(
            zip(arrow_columns.different_names(batch.schema), zip(batch.schema, batch.columns, strict=True), strict=True)
        )

    def __getitem__(self, key: str) -> NDArray[Any]:
        return _from_array(*super().__getitem__(key))


def no_rows(schema: pa.Schema) -> FileColumns:
    """Columns [0, ...] with the dtypes and row shapes of `schema`."""
    return FileColumns(arrow_columns.empty_batch(schema))


def _type_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> pa.DataType:
    if dtype.itemsize * math.prod(shape) == 0:
        return pa.null()
    if dtype.kind == "c" and dtype.itemsize <= 16:
        part = _type_of(np.dtype(f"f{dtype.itemsize // 2}"), shape)
        return pa.struct([pa.field("re", part, nullable=False), pa.field("im", part, nullable=False)])
    if not _is_arrow(dtype):
        return pa.binary(dtype.itemsize * math.prod(shape))
    scalar = pa.from_numpy_dtype(dtype)
    return pa.fixed_shape_tensor(scalar, shape) if shape else scalar


def _is_arrow(dtype: np.dtype[Any]) -> bool:
    if is_extension(dtype):
        return False
    if dtype.kind in "mM":
        return np.datetime_data(dtype) in {(unit, 1) for unit in TIME_UNITS}
    return dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8)


def _to_array(rows: NDArray[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_null(kind):
        return pa.nulls(len(rows))
    if pa.types.is_struct(kind):
        parts = [np.ascontiguousarray(rows.real), np.ascontiguousarray(rows.imag)]
        return pa.StructArray.from_arrays(
            [_to_array(part, field.type) for part, field in zip(parts, kind, strict=True)], fields=list(kind)
        )
    if pa.types.is_fixed_size_binary(kind):
        return pa.Array.from_buffers(kind, len(rows), [None, _bytes_of(rows)])
    if isinstance(kind, pa.FixedShapeTensorType):
        flat = _to_array(rows.reshape(-1), kind.value_type)
        storage = pa.FixedSizeListArray.from_arrays(flat, type=kind.storage_type)
        return pa.ExtensionArray.from_storage(kind, storage)
    if pa.types.is_boolean(kind):
        return pa.array(rows)
    if rows.dtype == np.float16 and pa.types.is_float32(kind):
        rows = rows.astype(np.float32)
    return pa.Array.from_buffers(kind, len(rows), [None, _bytes_of(rows)])


def _bytes_of(rows: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))


def _from_array(field: pa.Field, array: pa.Array) -> NDArray[Any]:
    about = field.metadata or {}
    kind = field.type
    if DTYPE in about and SHAPE in about:
        dtype, shape = _described(field.name, about)
        if pa.types.is_null(kind) and math.prod(shape) * dtype.itemsize == 0:
            return np.empty((len(array), *shape), dtype)
        if pa.types.is_fixed_size_binary(kind) and kind.byte_width == math.prod(shape) * dtype.itemsize:
            return _from_bytes(array, dtype, shape)
        if dtype == np.float16 and not pa.types.is_struct(kind):
            return arrow_columns.as_rows(field.name, array).astype(np.float16)
    if pa.types.is_struct(kind) and [part.name for part in kind] == ["re", "im"]:
        return _from_struct(field.name, array)
    return arrow_columns.as_rows(field.name, array)


def check_metadata(schema: pa.Schema) -> None:
    """Raises InvalidValueError if the metadata of a field names no dtype and shape."""
    for field in schema:
        about = field.metadata or {}
        if DTYPE in about and SHAPE in about:
            _described(field.name, about)


def _described(key: str, about: Mapping[bytes, bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    try:
        return dtype_from_json(json.loads(about[DTYPE])), shape_from_json(json.loads(about[SHAPE]))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidValueError(
            f"key {key!r}: expected metadata that names dtype and shape, got {about[DTYPE]!r} and {about[SHAPE]!r}"
        ) from error


def _from_bytes(array: pa.Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    nbytes = array.type.byte_width
    raw = np.frombuffer(array.buffers()[1], np.uint8, len(array) * nbytes, array.offset * nbytes)
    return raw.view(dtype).reshape(len(array), *shape)


def _from_struct(key: str, array: pa.StructArray) -> NDArray[Any]:
    if array.null_count:
        raise InvalidValueError(f"key {key!r}: expected no missing values, got {array.null_count} nulls")
    re, im = (arrow_columns.as_rows(f"{key}.{name}", array.field(name)) for name in ("re", "im"))
    rows = np.empty(re.shape, np.result_type(re.dtype, np.complex64))
    rows.real, rows.imag = re, im
    return rows
