"""Every ring of this process: a fork waits for their locks, a new one leaves room for pages they have yet to take."""

from __future__ import annotations

from collections.abc import Sequence

from really._utils.forks import HeldWhileForking
from really.data.frames import Sharing, field_nbytes, frame_nbytes, sharings_of
from really.errors import NotEnoughMemoryError
from really.replay._ring import Ring, row_stride
from really.replay.arguments import MAX_BYTES, MAX_ROWS, row_nbytes
from really.replay.columns import Spec, spec_of

# A child has none of the readers that puts would have to wait for.
_rings: HeldWhileForking[Ring] = HeldWhileForking(in_child=Ring.keep_from)


def add(ring: Ring) -> None:
    """Has a fork wait until nobody is in the ring, and counts what it has promised."""
    _rings.add(ring)


def nbytes(ring: Ring, num_rows: int) -> int:
    """Bytes that so many rows of the ring take; of frames, those of rows that share as they may."""
    return int(num_rows * (ring.stride + frame_nbytes(spec_of(ring), sharings_of(ring))))


def needed(what: str, num_rows: int, spec: Spec, shared: Sequence[Sharing]) -> int:
    """`nbytes` of a ring yet to be made; raises NotEnoughMemoryError, naming `what`, where no address tells so many."""
    stride = MAX_BYTES if row_nbytes(spec) > MAX_ROWS else row_stride(field_nbytes(spec, shared))
    total = int(num_rows * (stride + frame_nbytes(spec, shared)))
    if total >= MAX_BYTES:
        raise NotEnoughMemoryError(f"{what}: rows of {row_nbytes(spec):,} bytes are more than an address can tell")
    return total


def promised() -> int:
    """Bytes of memory that rings have yet to take."""
    return sum(max(0, nbytes(ring, ring.capacity - len(ring))) for ring in _rings if ring.storage is None)
