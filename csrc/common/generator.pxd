"""The state of the generator from which a ring or a sum tree draws."""

from lock cimport Lock, acquire_without_gc, release_with_gc


cdef inline dict copied_state(Lock* lock, bit_generator):
    """The state of a generator, while no thread draws. No interrupt comes between taking and releasing the lock."""
    cdef bint collects = acquire_without_gc(lock)
    try:
        return dict(bit_generator.state)
    finally:
        release_with_gc(lock, collects)
