"""CRC-32 of the rows of a file, column by column, and of its schema: whatever the batches, the sum is the same."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from really.data.frames import FrameColumn
from really.errors import ReallyError

if TYPE_CHECKING:
    import pyarrow as pa

CHECK = b"really.crc32"
OWN = b"really."
SECONDS = np.dtype("datetime64[s]")


def fingerprint(schema: pa.Schema, start: int = 0) -> int:
    """CRC-32 of what fields say: name, type, nulls, and keys and values of the metadata that this package writes."""
    fields = [
        (
            field.name,
            _stored_type(field),
            field.nullable,
            [part for part in _metadata(field) if part[0].startswith(OWN)],
        )
        for field in schema
    ]
    return zlib.crc32(repr(fields).encode(), start)


def _stored_type(field: pa.Field) -> str:
    """The type that Parquet stores: it has no seconds, and keeps them as milliseconds."""
    return str(field.type).replace("timestamp[s", "timestamp[ms")


def crc32_of(rows: NDArray[Any], start: int) -> int:
    """CRC-32 of the bytes of an array. Booleans count as 1 or 0 and seconds as milliseconds, as files store them."""
    return raw_crc32(rows.astype("datetime64[ms]") if rows.dtype == SECONDS else rows, start)


def raw_crc32(rows: NDArray[Any], start: int) -> int:
    """`crc32_of` with seconds as they are."""
    raw = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    if rows.dtype == np.bool_:
        raw = (raw != 0).view(np.uint8)
    return zlib.crc32(cast(Any, raw), start)


def crc32_of_columns(
    columns: Mapping[str, Any], start: int, of_array: Callable[[NDArray[Any], int], int] = crc32_of
) -> int:
    """CRC-32 of columns by name; frames that successive columns share count once."""
    check = start
    frames: NDArray[Any] | None = None
    for key in sorted(columns):
        column = columns[key]
        if isinstance(column, FrameColumn):
            if column.frames is not frames:
                frames = column.frames
                check = of_array(frames, check)
            column = column.indices
        check = of_array(column, check)
    return check


class Checksum:
    """The CRC-32 of each column of the batches that pass.

    Args:
        schema: that of the batches.
        is_own: whether this package wrote the columns. If it did not, a column that no buffer can have is left out.
    """

    def __init__(self, schema: pa.Schema, *, is_own: bool = True) -> None:
        self._fields, self._is_own = fingerprint(schema), is_own
        self._columns = dict.fromkeys(schema.names, 0)

    def updated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Counts the rows of this batch, and returns it; raises a ReallyError if no buffer can have an own column."""
        from really.data.arrow_types import FileColumns

        columns = FileColumns(batch)
        for name, check in self._columns.items():
            try:
                self._columns[name] = crc32_of(columns[name], check)
            except ReallyError:
                if self._is_own:
                    raise
        return batch

    def text(self) -> bytes:
        """All sums as text."""
        return str(zlib.crc32(repr([*self._columns.values()]).encode(), self._fields)).encode()


def _metadata(field: pa.Field) -> list[tuple[bytes, bytes]]:
    return sorted((field.metadata or {}).items())
