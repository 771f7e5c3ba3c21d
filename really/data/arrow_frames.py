"""Columns that share frames as Arrow arrays, and back: the form in runners' messages and in checkpoints.

A row is a fixed-size list of int32 indices. One more column has the frames, as a list of their bytes; its first row has
all frames of the record batch. The metadata of a field name that column, the axis of the stack, and the dtype and shape
of a frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from really._utils.file_formats import json_object
from really.data.frames import FrameColumn, Sharing, frame_shape, keys_by_frames
from really.data.schema import Spec, dtype_from_json, dtype_to_json, shape_from_json
from really.errors import InvalidValueError

FRAMES = b"really.frames"
PREFIX = "really.frames."


def fields(spec: Spec, sharings: Sequence[Sharing]) -> list[pa.Field]:
    """The fields of the columns that share frames, and the fields of their frames."""
    names, found = list(spec), []
    for sharing in sharings:
        keys = [names[at] for at in sharing.columns]
        dtype, shape = spec[keys[0]]
        found += _fields(keys, dtype, frame_shape(shape, sharing), sharing.stack, sharing.axis)
    return found


def arrays(columns: Mapping[str, Any]) -> dict[str, tuple[pa.Field, pa.Array]]:
    """Name -> (field, array) for each `FrameColumn` among the columns [row, ...], and for their frames."""
    found: dict[str, tuple[pa.Field, pa.Array]] = {}
    for keys in keys_by_frames(columns):
        first = columns[keys[0]]
        kinds = _fields(keys, first.dtype, first.frames.shape[1:], *first.stack)
        values = [_lists(columns[key].indices) for key in keys]
        values.append(_in_first_row(first.frames, len(first), kinds[-1].type))
        found |= {kind.name: (kind, value) for kind, value in zip(kinds, values, strict=True)}
    return found


def columns_of(batch: pa.RecordBatch) -> dict[str, FrameColumn]:
    """Key -> `FrameColumn` over the batch's own memory, for each column of a record batch that shares frames.

    Raises:
        InvalidValueError: the frames are missing, or do not fit the metadata.
    """
    found: dict[str, FrameColumn] = {}
    frames: dict[str, NDArray[Any]] = {}
    for at, field in enumerate(batch.schema):
        if FRAMES not in (field.metadata or {}):
            continue
        about = json_object(field.metadata[FRAMES])
        name = about["column"]
        if name not in frames:
            frames[name] = _frames_of(batch, name, about)
        found[field.name] = FrameColumn(frames[name], _indices_of(batch.column(at)), about["axis"])
    return found


def _fields(keys: Sequence[str], dtype: np.dtype[Any], frame: tuple[int, ...], stack: int, axis: int) -> list[pa.Field]:
    column = PREFIX + keys[0]
    kind = dtype_to_json(dtype)
    about = {FRAMES: json.dumps({"column": column, "axis": axis, "dtype": kind, "shape": frame})}
    nbytes = dtype.itemsize * math.prod(frame)
    return [
        *(pa.field(key, pa.list_(pa.int32(), stack), nullable=False, metadata=about) for key in keys),
        pa.field(column, pa.list_(pa.field("frame", pa.binary(nbytes), nullable=False)), nullable=False),
    ]


def _lists(indices: NDArray[np.int32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(indices.reshape(-1)), indices.shape[1])


def _in_first_row(frames: NDArray[Any], num_rows: int, kind: pa.DataType) -> pa.Array:
    raw = pa.py_buffer(frames.reshape(-1).view(np.uint8))
    values = pa.Array.from_buffers(kind.value_type, len(frames), [None, raw])
    offsets = np.full(num_rows + 1, len(frames), np.int32)
    offsets[0] = 0
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind)


def _indices_of(lists: pa.Array) -> NDArray[np.int32]:
    stack = lists.type.list_size
    flat = lists.values.slice(lists.offset * stack, len(lists) * stack)
    indices: NDArray[np.int32] = flat.to_numpy(zero_copy_only=True).reshape(len(lists), stack)
    return indices


def _frames_of(batch: pa.RecordBatch, name: str, about: Mapping[str, Any]) -> NDArray[Any]:
    dtype, shape = dtype_from_json(about["dtype"]), shape_from_json(about["shape"])
    if name not in batch.schema.names:
        raise InvalidValueError(f"expected column {name!r} with the frames of others, got {batch.schema.names}")
    values = batch.column(name).values
    if values.type.byte_width != dtype.itemsize * math.prod(shape):
        raise InvalidValueError(f"column {name!r}: expected frames {dtype} of shape {shape}, got {values.type}")
    raw = np.frombuffer(values.buffers()[1], np.uint8, len(values) * values.type.byte_width)
    return raw.view(dtype).reshape(len(values), *shape)
