"""Every ring of this process: a fork waits for their locks, a new one leaves room for pages they have yet to take."""

from __future__ import annotations

import os
import weakref

from really._ring import Ring
from really.columns import spec_of
from really.frames import frame_nbytes, sharings_of

_rings: weakref.WeakSet[Ring] = weakref.WeakSet()
_held_for_fork: list[Ring] = []


def add(ring: Ring) -> None:
    """Has a fork wait until nobody is in the ring, and counts what it has promised."""
    _rings.add(ring)


def nbytes(ring: Ring, num_rows: int) -> int:
    """Bytes that so many rows of the ring take; of frames, those of rows that share as they may."""
    return int(num_rows * (ring.stride + frame_nbytes(spec_of(ring), sharings_of(ring))))


def promised() -> int:
    """Bytes of memory that rings have yet to take."""
    return sum(max(0, nbytes(ring, ring.capacity - len(ring))) for ring in _rings if ring.storage is None)


def _before_fork() -> None:
    _held_for_fork.extend(_rings)
    for ring in _held_for_fork:
        ring.acquire()


def _after_fork() -> None:
    for ring in _held_for_fork:
        ring.release()
    _held_for_fork.clear()


def _begin_in_child() -> None:
    rings = list(_held_for_fork)
    _after_fork()
    for ring in rings:
        ring.keep_from()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_begin_in_child)
