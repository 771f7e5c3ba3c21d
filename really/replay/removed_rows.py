"""Which rows of a buffer are removed, as text for files: a bit for each row, compressed."""

from __future__ import annotations

import base64
import binascii
import zlib

import numpy as np
from numpy.typing import NDArray

from really.errors import InvalidValueError
from really.replay._ring import Ring


def removed_rows(ring: Ring) -> NDArray[np.int64]:
    """Numbers of the rows held that are removed, int64 [n]."""
    if not ring.num_removed:
        return np.zeros(0, np.int64)
    numbers = np.arange(*ring.held_rows())
    return numbers[ring.are_removed(numbers)]


def to_text(places: NDArray[np.int64]) -> str:
    """Places of rows, int64 [n] from 0 on, as ASCII; no rows are an empty text."""
    if len(places) == 0:
        return ""
    bits = np.zeros(int(places.max()) + 1, np.bool_)
    bits[places] = True
    return base64.b85encode(zlib.compress(np.packbits(bits).tobytes(), 1)).decode()


def from_text(text: str, num_rows: int) -> NDArray[np.int64]:
    """The places that `to_text` was given, in ascending order, all below `num_rows`.

    Raises InvalidValueError for another text, before it takes more memory than so many rows need.
    """
    if text == "":
        return np.zeros(0, np.int64)
    try:
        unpacking = zlib.decompressobj()
        packed = unpacking.decompress(base64.b85decode(text), num_rows // 8 + 1)
    except (ValueError, TypeError, binascii.Error, zlib.error) as error:
        raise InvalidValueError(f"removed: expected rows as bits, compressed, got {text[:40]!r}: {error}") from error
    places = np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8))).astype(np.int64)
    if not unpacking.eof or (len(places) and places[-1] >= num_rows):
        raise InvalidValueError(f"removed: expected some of {num_rows:,} rows as bits, compressed, got {text[:40]!r}")
    return places
