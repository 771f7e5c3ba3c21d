"""Frames compressed for a network, where a trial on some of them says that it pays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CODEC = "lz4_raw"
TRIED = 16
"""Frames, spread over a message, that the trial compresses."""
LEAST_RATIO = 3.0
"""Frames are compressed if the trial makes them so many times smaller; else it takes longer than sending them."""
SMALLEST = 1 << 16
"""Bytes of frames that are sent as they are."""


class Packed(NamedTuple):
    """An array, compressed."""

    data: Any
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""
        return len(self.data)


def packed(frames: NDArray[Any]) -> NDArray[Any] | Packed:
    """Frames [frame, ...], compressed if that makes them much smaller."""
    import pyarrow as pa

    if frames.nbytes < SMALLEST or not pa.Codec.is_available(CODEC):
        return frames
    tried = np.ascontiguousarray(frames[:: max(1, len(frames) // TRIED)])
    if tried.nbytes < LEAST_RATIO * len(pa.compress(_bytes_of(tried), codec=CODEC, asbytes=False)):
        return frames
    return Packed(pa.compress(_bytes_of(frames), codec=CODEC, asbytes=False), frames.dtype, frames.shape)


def unpacked(sent: NDArray[Any] | Packed) -> NDArray[Any]:
    """The frames that `packed` was given."""
    import pyarrow as pa

    if not isinstance(sent, Packed):
        return sent
    nbytes = int(np.prod(sent.shape, dtype=np.int64)) * sent.dtype.itemsize
    data = pa.decompress(sent.data, decompressed_size=nbytes, codec=CODEC)
    return np.frombuffer(data, sent.dtype).reshape(sent.shape)


def _bytes_of(frames: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(frames).reshape(-1).view(np.uint8)
