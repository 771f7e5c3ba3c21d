"""Every ring of this process: a fork waits for their locks, a new one leaves room for pages they have yet to take."""

from __future__ import annotations

from really._ring import Ring
from really.columns import spec_of
from really.forks import HeldWhileForking
from really.frames import frame_nbytes, sharings_of

# A child has none of the readers that puts would have to wait for.
_rings: HeldWhileForking[Ring] = HeldWhileForking(in_child=Ring.keep_from)


def add(ring: Ring) -> None:
    """Has a fork wait until nobody is in the ring, and counts what it has promised."""
    _rings.add(ring)


def nbytes(ring: Ring, num_rows: int) -> int:
    """Bytes that so many rows of the ring take; of frames, those of rows that share as they may."""
    return int(num_rows * (ring.stride + frame_nbytes(spec_of(ring), sharings_of(ring))))


def promised() -> int:
    """Bytes of memory that rings have yet to take."""
    return sum(max(0, nbytes(ring, ring.capacity - len(ring))) for ring in _rings if ring.storage is None)
