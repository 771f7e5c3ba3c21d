"""Rows of another buffer, appended piece by piece."""

from __future__ import annotations

import numpy as np

from really.errors import EmptyBufferError, InvalidValueError
from really.replay.rows import Rows

PIECE = 16 << 20
"""Bytes of rows that are copied at a time."""


def append(buffer: Rows, source: Rows) -> None:
    """Puts all rows of `source`, oldest first; puts into `source` that would drop a row not yet read wait.

    Raises:
        InvalidValueError: both are one buffer; or its columns do not fit, before any row is put.
        EmptyBufferError: `source` has never had a row, so that its columns are unknown.
    """
    if source is buffer:
        raise InvalidValueError("put: expected rows, or another buffer, got this buffer itself")
    if source.spec is None:
        raise EmptyBufferError("put: expected a buffer whose columns are known, got one that has never had a row")
    with source.open_reader(keeps=True) as reader:
        buffer.put({key: np.empty((0, *column.shape), column.dtype) for key, column in source.spec.items()})
        num = max(1, PIECE // reader.row_nbytes())
        while reader.num_left:
            buffer.put(reader.read(num))
