"""Rows as records: a row's fields lie next to each other in one record, and all records in one aligned block."""

from libc.stdint cimport int64_t

from memory cimport REALLY_CACHE_LINE, round_up

cdef enum:
    BIG_FIELD = 512  # bytes; a field this long starts on a cache line and is streamed there by itself
    STAGE = 2048  # bytes of short records, or of one record's seams, that are assembled before they are streamed

cdef struct Field:
    Py_ssize_t offset  # in the record
    Py_ssize_t nbytes
    Py_ssize_t staged  # offset in the stage of the bytes that share a cache line with other fields

cdef struct Seam:  # cache lines of a record that several fields share
    Py_ssize_t offset
    Py_ssize_t nbytes

cdef struct Column:  # values of one field, row by row
    const char* data
    Py_ssize_t stride  # bytes from one row to the next; can be 0 or negative

cdef struct Cursor:  # which rows are held; the layout is part of the format on disk
    int64_t num_put  # rows put so far, which is the number of the next row; a store of it commits a put
    int64_t first  # number of the first row after the last clear
    int64_t num_begun  # with spare slots: no put has ever started to write rows with this number or a higher one
    int64_t kept_from  # number of the first row that a checkpoint needs; INT64_MAX if there is none

cdef struct Records:
    char* data  # [num_slots] records; row number r is in slot r % num_slots
    Py_ssize_t stride  # bytes from one record to the next
    Py_ssize_t num_fields
    Field* fields  # [num_fields]
    Py_ssize_t num_seams
    Seam* seams  # [num_seams], at most num_fields + 1
    Py_ssize_t seams_nbytes  # of all seams together
    char* stage  # [STAGE] bytes on cache lines, in which records are assembled
    int64_t capacity  # rows held at most
    int64_t num_slots  # capacity, plus spare slots for rows that are not committed yet
    Cursor* cursor  # in the mapped page if the records are on disk


cdef inline int64_t oldest_row(const Records* records) noexcept nogil:
    """Number of the oldest row held."""
    return max(records.cursor.first, records.cursor.num_put - records.capacity)


cdef inline int64_t oldest_intact(const Records* records, int64_t num_rows) noexcept nogil:
    """Number of the oldest row that no put has started to overwrite, once `num_rows` more rows are put."""
    return max(records.cursor.num_begun, records.cursor.num_put + num_rows) - records.num_slots


cdef inline int64_t oldest_kept(const Records* records, int64_t num_rows) noexcept nogil:
    """Number of the oldest row whose frames are kept, once `num_rows` more rows are put: the oldest row held, or an
    older one that a checkpoint needs."""
    cdef int64_t held = max(records.cursor.first, records.cursor.num_put + num_rows - records.capacity)
    return min(held, max(records.cursor.kept_from, oldest_intact(records, num_rows)))


cdef inline int64_t num_skipped(const Records* records, int64_t num_rows) noexcept nogil:
    """How many of the rows of a put are numbered without being written: of more rows than fit, all but the newest.

    With spare slots every row is written, piece by piece: a kill must not leave numbers of rows that never were.
    """
    return max(num_rows - records.capacity, <int64_t>0) if records.num_slots == records.capacity else 0


cdef inline int64_t num_held(const Records* records) noexcept nogil:
    return records.cursor.num_put - oldest_row(records)


cdef inline int64_t oldest_slot(const Records* records) noexcept nogil:
    """Slot of the row of age 0."""
    return oldest_row(records) % records.num_slots


cdef inline int64_t slot_of(const Records* records, int64_t oldest, int64_t age) noexcept nogil:
    cdef int64_t slot = oldest + age
    return slot if slot < records.num_slots else slot - records.num_slots


cdef inline const char* row_at(const Records* records, int64_t oldest, int64_t age) noexcept nogil:
    """Address of the row of this age; `oldest` is the slot of age 0."""
    return records.data + slot_of(records, oldest, age) * records.stride


cdef inline void lay_out(Records* records) noexcept nogil:
    """Sets the offsets of the fields, whose nbytes are set, the stride and the seams.

    The stride of a row up to half a cache line is a power of two, so that no row straddles two lines. Longer rows take
    whole lines, so that each costs the fewest cache misses.
    """
    cdef Py_ssize_t i, end = 0, shared_from = 0
    cdef Field* field
    records.num_seams = records.seams_nbytes = 0
    for i in range(records.num_fields):
        field = &records.fields[i]
        if field.nbytes >= BIG_FIELD:
            end = round_up(end, REALLY_CACHE_LINE)
            add_seam(records, shared_from, end)
            shared_from = end + field.nbytes // REALLY_CACHE_LINE * REALLY_CACHE_LINE
        field.offset = end
        field.staged = records.seams_nbytes + max(end - shared_from, <Py_ssize_t>0)
        end += field.nbytes
    records.stride = 1
    while records.stride < min(end, <Py_ssize_t>REALLY_CACHE_LINE):
        records.stride *= 2
    if end > records.stride:
        records.stride = round_up(end, REALLY_CACHE_LINE)
    add_seam(records, shared_from, records.stride)


cdef inline void add_seam(Records* records, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    if start < end:
        records.seams[records.num_seams].offset = start
        records.seams[records.num_seams].nbytes = end - start
        records.num_seams += 1
        records.seams_nbytes += end - start


cdef inline bint all_held(const Records* records, const int64_t* ages, Py_ssize_t num) noexcept nogil:
    """Whether rows of all these ages are held."""
    cdef Py_ssize_t i
    cdef int64_t held = num_held(records)
    for i in range(num):
        if ages[i] < 0 or ages[i] >= held:
            return False
    return True


cdef inline bint none_below(const int64_t* ages, Py_ssize_t num, int64_t first) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(num):
        if ages[i] < first:
            return False
    return True


cdef inline void subtract(int64_t* numbers, Py_ssize_t num, int64_t origin) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(num):
        numbers[i] -= origin
