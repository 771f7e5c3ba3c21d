"""Saved buffers of the first format: their checksums, and the options that their descriptions may lack."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from really.replay.io.checksums import crc32_of_columns, raw_crc32

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
    return crc32_of_columns(columns, 0, raw_crc32)
