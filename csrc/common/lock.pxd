"""The lock of a ring and of a sum tree. The thread that takes it releases it.

REALLY_UNLOCKED builds a lock that never closes; the test of threads must then fail.
"""

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

cdef extern from "Python.h":
    bint PyGC_Disable() noexcept  # whether it was enabled
    bint PyGC_Enable() noexcept

cdef extern from "lock.h" nogil:
    ctypedef struct Lock "ReallyLock":
        pass
    Lock* new_lock "really_lock_new"() noexcept  # NULL if the system has no memory
    void free_lock "really_lock_free"(Lock* lock) noexcept
    bint really_lock_try(Lock* lock) noexcept
    void really_lock_wait(Lock* lock) noexcept
    void really_lock_release(Lock* lock) noexcept


cdef inline void acquire(Lock* lock) noexcept:
    """Takes the lock. Waits without the GIL if another thread has it, which may need the GIL before it releases."""
    if REALLY_LOCKS and not really_lock_try(lock):
        with nogil:
            really_lock_wait(lock)


cdef inline void release(Lock* lock) noexcept:
    if REALLY_LOCKS:
        really_lock_release(lock)


cdef inline bint acquire_without_gc(Lock* lock) noexcept:
    """`acquire` for lines that make Python objects; returns what `release_with_gc` takes.

    Python 3.11 collects garbage as it makes objects. A finalizer that uses the ring would wait for its own thread.
    """
    acquire(lock)
    return PyGC_Disable()


cdef inline void release_with_gc(Lock* lock, bint was_enabled) noexcept:
    """`release`, after which Python collects garbage again if it did before."""
    release(lock)
    if was_enabled:
        PyGC_Enable()
