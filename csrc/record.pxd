"""The ring as plain structs: one record a row, all keys of a row side by side, records in one aligned block."""

from libc.stdint cimport int64_t

from memory cimport REALLY_LINE

cdef enum:
    BIG_FIELD = 1024  # bytes; a field from here on starts on a cache line, so that it can be streamed

cdef struct Field:
    Py_ssize_t offset  # of the key's bytes inside a record
    Py_ssize_t nbytes

cdef struct Column:
    const char* data
    Py_ssize_t stride  # bytes from one row to the next; 0 and negative ones happen

cdef struct Records:
    char* rows  # [capacity] records
    Py_ssize_t stride  # bytes from one record to the next
    Py_ssize_t num_fields
    Field* fields  # [num_fields]
    int64_t capacity
    int64_t size  # rows held
    int64_t next  # slot that the next row goes to


cdef inline int64_t oldest_slot(const Records* records) noexcept nogil:
    """Where age 0 stands."""
    cdef int64_t slot = records.next - records.size
    return slot if slot >= 0 else slot + records.capacity


cdef inline int64_t slot_of(const Records* records, int64_t oldest, int64_t age) noexcept nogil:
    cdef int64_t slot = oldest + age
    return slot if slot < records.capacity else slot - records.capacity


cdef inline Py_ssize_t round_up(Py_ssize_t nbytes, Py_ssize_t multiple) noexcept nogil:
    return (nbytes + multiple - 1) // multiple * multiple


cdef inline Py_ssize_t lay_out(Field* fields, Py_ssize_t num_fields) noexcept nogil:
    """Sets every field's offset from its nbytes; returns the stride.

    Rows up to half a cache line take the power of two that holds them, so that none straddles two lines;
    longer rows take whole lines, so that each costs the fewest cache misses.
    """
    cdef Py_ssize_t i, end = 0, stride = 1
    for i in range(num_fields):
        if fields[i].nbytes >= BIG_FIELD:
            end = round_up(end, REALLY_LINE)
        fields[i].offset = end
        end += fields[i].nbytes
    while stride < end and stride < REALLY_LINE:
        stride *= 2
    return stride if end <= stride else round_up(end, REALLY_LINE)
