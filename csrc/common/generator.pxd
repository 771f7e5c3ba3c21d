"""The state of the generator from which a ring or a sum tree draws."""

from cpython.pythread cimport PyThread_type_lock

from lock cimport acquire, release


cdef inline dict copied_state(PyThread_type_lock lock, bit_generator):
    """The state of a generator, while no thread draws. No interrupt comes between taking and releasing the lock."""
    acquire(lock)
    try:
        return dict(bit_generator.state)
    finally:
        release(lock)
