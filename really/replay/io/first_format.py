"""Saved buffers of the first format: their checksums, and the options that their descriptions may lack."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from really.data.frames import FrameColumn

if TYPE_CHECKING:
    import pyarrow as pa

FIRST_FORMAT = "really-buffer-1"
DEFAULTS: Mapping[str, Any] = {
    "dedup": True,
    "stack": None,
    "max_bytes": None,
    "alpha": None,
    "eps": None,
    "priorities": None,
    "n_step": 1,
    "gamma": None,
}


def first_fingerprint(schema: pa.Schema, text: bytes) -> int:
    """CRC-32 of the description, and of names and values of the fields' metadata."""
    check = zlib.crc32(text)
    for field in schema:
        for part in (field.name.encode(), *sorted((field.metadata or {}).values())):
            check = zlib.crc32(part, check)
    return check


def first_crc32(columns: Mapping[str, Any]) -> int:
    """CRC-32 of the rows of a batch, wherever it is in the file."""
    check = 0
    frames: Any = None
    for key in sorted(columns):
        column = columns[key]
        if isinstance(column, FrameColumn):
            if column.frames is not frames:
                frames = column.frames
                check = _crc32_of(frames, check)
            column = column.indices
        check = _crc32_of(column, check)
    return check


def _crc32_of(column: Any, check: int) -> int:
    raw = np.ascontiguousarray(column).reshape(-1).view(np.uint8)
    if column.dtype == np.bool_:
        raw = (raw != 0).view(np.uint8)  # Arrow has one bit a boolean: any byte but 0 comes back as 1
    return zlib.crc32(cast(Any, raw), check)
