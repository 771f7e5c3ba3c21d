"""Locks that stop Python's garbage collection while a thread holds them, and the pause that they share.

Python 3.11 collects garbage at any line that makes an object. A finalizer that runs then, in the thread that holds a
lock, would wait for ever if it needs the same lock.
"""

cimport cython

import threading

cdef extern from "Python.h":
    bint PyGC_Disable() noexcept  # whether it was enabled
    bint PyGC_Enable() noexcept

cdef Py_ssize_t num_pauses = 0  # of all threads; the GIL guards it
cdef bint collects = False  # whether Python collected garbage before the first of them
cdef bint is_paused_for_fork = False


cdef void pause() noexcept:
    global num_pauses, collects
    if num_pauses == 0:
        collects = PyGC_Disable()
    num_pauses += 1


cdef void resume() noexcept:
    global num_pauses
    if num_pauses > 0:
        num_pauses -= 1
        if num_pauses == 0 and collects:
            PyGC_Enable()


def pause_for_fork():
    """Stops garbage collection until `resume_after_fork`; does nothing if it is called again before that."""
    global is_paused_for_fork
    if not is_paused_for_fork:
        pause()
        is_paused_for_fork = True


def resume_after_fork(bint is_child):
    """Ends the pause, if there is one. A child has no other thread, so all pauses end there."""
    global is_paused_for_fork, num_pauses
    if is_paused_for_fork:
        is_paused_for_fork = False
        if is_child:
            num_pauses = 1
        resume()


@cython.final
cdef class Lock:
    """A lock for use in a `with`. Python collects no garbage while a thread holds it, so it is for short blocks.

    An interrupt comes before the lock is taken or inside the block.
    """

    cdef object lock, take, give

    def __cinit__(self):
        self.lock = threading.Lock()
        self.take, self.give = self.lock.acquire, self.lock.release

    def locked(self):
        """Whether a thread holds it."""
        return self.lock.locked()

    def __enter__(self):
        self.take()
        pause()

    def __exit__(self, *error):
        resume()
        self.give()
