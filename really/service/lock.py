"""The lock of a sharded buffer, which a fork of the process holds as it holds those of rings."""

from __future__ import annotations

import threading

from really._utils.forks import LockedGroup, Order


class BufferLock:
    """A lock that a thread may take again, for use in a `with`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_forking = False
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def acquire(self) -> None:
        """Takes the lock for a fork, unless it is taken already."""
        if not self._is_forking:
            self._lock.acquire()
            self._is_forking = True

    def release(self) -> None:
        """Releases the lock that `acquire` took, if it did."""
        if self._is_forking:
            self._is_forking = False
            self._lock.release()


_locks: LockedGroup[BufferLock] = LockedGroup(Order.SHARDED)
