"""The ring as plain structs: one record a row, all keys of a row side by side, records in one aligned block."""

from libc.stdint cimport int64_t

from memory cimport REALLY_LINE

cdef enum:
    BIG_FIELD = 512  # bytes; a field from here on starts on a cache line and is streamed there by itself

    STAGE = 2048  # bytes of short records, or of one record's seams, that are put together at a time

cdef struct Field:
    Py_ssize_t offset  # of the key's bytes inside a record
    Py_ssize_t nbytes
    Py_ssize_t staged  # where in the stage the bytes go that have no cache line to themselves

cdef struct Seam:  # cache lines of a record that are written in parts: no big field has them to itself
    Py_ssize_t offset
    Py_ssize_t nbytes

cdef struct Column:
    const char* data
    Py_ssize_t stride  # bytes from one row to the next; 0 and negative ones happen

cdef struct Cursor:
    int64_t num_put  # rows put since the ring began: the number of the row to come; one store of it commits a put
    int64_t first  # number of the oldest row since the last clear
    int64_t num_begun  # where there is a spare, rows of higher numbers have not been begun to be written

cdef struct Records:
    char* data  # [num_slots] records; row number r is in slot r % num_slots
    Py_ssize_t stride  # bytes from one record to the next
    Py_ssize_t num_fields
    Field* fields  # [num_fields]
    Py_ssize_t num_seams
    Seam* seams  # [num_seams], at most num_fields + 1
    Py_ssize_t seams_nbytes  # of all seams together
    char* stage  # [STAGE] bytes on cache lines: where rows are put together
    int64_t capacity  # rows held at most
    int64_t num_slots  # capacity, and a spare that takes new rows before they are committed, if any
    Cursor* cursor  # where it outlives the process, if the records do


cdef inline int64_t oldest_row(const Records* records) noexcept nogil:
    """Number of the oldest row held."""
    return max(records.cursor.first, records.cursor.num_put - records.capacity)


cdef inline int64_t num_held(const Records* records) noexcept nogil:
    return records.cursor.num_put - oldest_row(records)


cdef inline int64_t oldest_slot(const Records* records) noexcept nogil:
    """Where age 0 stands."""
    return oldest_row(records) % records.num_slots


cdef inline int64_t slot_of(const Records* records, int64_t oldest, int64_t age) noexcept nogil:
    cdef int64_t slot = oldest + age
    return slot if slot < records.num_slots else slot - records.num_slots


cdef inline const char* row_at(const Records* records, int64_t oldest, int64_t age) noexcept nogil:
    """Where the row of this age stands; `oldest` is the slot of age 0."""
    return records.data + slot_of(records, oldest, age) * records.stride


cdef inline Py_ssize_t round_up(Py_ssize_t nbytes, Py_ssize_t multiple) noexcept nogil:
    return (nbytes + multiple - 1) // multiple * multiple


cdef inline void lay_out(Records* records) noexcept nogil:
    """Places the fields, whose nbytes are set, in a record: offsets, stride, seams.

    Rows up to half a cache line take the power of two that holds them, so that none straddles two lines;
    longer rows take whole lines, so that each costs the fewest cache misses.
    """
    cdef Py_ssize_t i, end = 0, shared_from = 0
    cdef Field* field
    records.num_seams = records.seams_nbytes = 0
    for i in range(records.num_fields):
        field = &records.fields[i]
        if field.nbytes >= BIG_FIELD:
            end = round_up(end, REALLY_LINE)
            add_seam(records, shared_from, end)
            shared_from = end + field.nbytes // REALLY_LINE * REALLY_LINE
        field.offset = end
        field.staged = records.seams_nbytes + max(end - shared_from, <Py_ssize_t>0)
        end += field.nbytes
    records.stride = 1
    while records.stride < min(end, <Py_ssize_t>REALLY_LINE):
        records.stride *= 2
    if end > records.stride:
        records.stride = round_up(end, REALLY_LINE)
    add_seam(records, shared_from, records.stride)


cdef inline void add_seam(Records* records, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    if start < end:
        records.seams[records.num_seams].offset = start
        records.seams[records.num_seams].nbytes = end - start
        records.num_seams += 1
        records.seams_nbytes += end - start
