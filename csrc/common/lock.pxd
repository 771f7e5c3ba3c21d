"""The lock of a ring and of a sum tree.

REALLY_UNLOCKED builds a lock that never closes; the test of threads must then fail.
"""

from cpython.pythread cimport (
    NOWAIT_LOCK,
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)

cdef extern from *:
    """
    #ifdef REALLY_UNLOCKED
    enum { REALLY_LOCKS = 0 };
    #else
    enum { REALLY_LOCKS = 1 };
    #endif
    """
    enum:
        REALLY_LOCKS


cdef inline void acquire(PyThread_type_lock lock) noexcept:
    """Takes the lock. Waits without the GIL if another thread has it, which may need the GIL before it releases."""
    if REALLY_LOCKS and not PyThread_acquire_lock(lock, NOWAIT_LOCK):
        with nogil:
            PyThread_acquire_lock(lock, WAIT_LOCK)


cdef inline void release(PyThread_type_lock lock) noexcept:
    if REALLY_LOCKS:
        PyThread_release_lock(lock)
