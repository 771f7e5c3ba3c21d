"""What a runner sends: columns as one Arrow record batch over the same memory, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from really.data.arrow_columns import ArrowColumns

if TYPE_CHECKING:
    import pyarrow as pa

    RecordBatch = pa.RecordBatch


def to_record_batch(columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Columns `[row, ...]` as one Arrow record batch over the same memory. Booleans are packed, hence copied.

    Rows of one axis become fixed-size lists, rows of more axes fixed-shape tensors. `arrow_frames.arrays` makes the
    fields of a `FrameColumn`.
    """
    import pyarrow as pa

    from really.data import arrow_frames

    shared = arrow_frames.arrays(columns)
    plain = {name: values for name, values in columns.items() if name not in shared}
    arrays = {name: _to_arrow(np.ascontiguousarray(values)) for name, values in plain.items()}
    fields = [pa.field(name, array.type) for name, array in arrays.items()] + [field for field, _ in shared.values()]
    return pa.record_batch([*arrays.values(), *(array for _, array in shared.values())], schema=pa.schema(fields))


def from_record_batch(batch: pa.RecordBatch) -> dict[str, Any]:
    """The columns of a record batch, `[row, ...]`, as read-only views of its memory. Booleans are copies.

    Columns that share frames become `FrameColumn`s.
    """
    columns = ArrowColumns(batch)
    return {name: columns[name] for name in columns}


def _to_arrow(values: NDArray[Any]) -> pa.Array:
    import pyarrow as pa

    flat = pa.array(values.reshape(-1))
    if values.ndim == 1:
        return flat
    width = math.prod(values.shape[1:])
    # from_buffers also makes lists of length 0, of which from_arrays cannot count the rows.
    lists = pa.FixedSizeListArray.from_buffers(pa.list_(flat.type, width), len(values), [None], children=[flat])
    if values.ndim == 2:
        return lists
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(flat.type, values.shape[1:]), lists)
