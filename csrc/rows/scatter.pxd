"""Columns to records: rows are put together in the first-level cache and streamed out whole lines at a time.

REALLY_EARLY_COMMIT builds one that commits rows before they are written, on which the test of killed processes has to fail.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from memory cimport REALLY_LINE, really_commit, really_copy, really_stream, really_stream_end, really_stream_whole
from record cimport BIG_FIELD, STAGE, Column, Field, Records

cdef extern from *:
    """
    #ifdef REALLY_EARLY_COMMIT
    enum { REALLY_COMMITS_EARLY = 1 };
    #else
    enum { REALLY_COMMITS_EARLY = 0 };
    #endif
    """
    enum:
        REALLY_COMMITS_EARLY

cdef enum:
    AHEAD = 1024  # bytes of a big field that are on their way while earlier ones are copied
    STREAM_FROM = 1 << 22  # bytes; a ring this long does not stay in the cache anyway


cdef inline void append(Records* records, Column* columns, int64_t num_rows) noexcept nogil:
    """Appends `num_rows` rows, the oldest falling out; of more rows than fit the newest are kept.

    Where there is a spare, no slot of a row that is held is written before the new ones are committed, at most as
    many as the spare takes at a time; without one, all are committed together.
    """
    cdef int64_t first = max(num_rows - records.capacity, <int64_t>0)
    cdef int64_t spare = records.num_slots - records.capacity
    cdef int64_t num, row
    while first < num_rows:
        num = min(num_rows - first, spare) if spare > 0 else num_rows - first
        row = records.cursor.num_put
        if spare > 0:
            really_commit(&records.cursor.num_begun, row + num)
            really_stream_end()  # streaming stores would overtake it
        if REALLY_COMMITS_EARLY:
            really_commit(&records.cursor.num_put, row + num)
        write_rows(records, columns, first, num, row)
        really_stream_end()
        really_commit(&records.cursor.num_put, row + num)
        first += num


cdef inline void write_rows(
    const Records* records, const Column* columns, int64_t first, int64_t num_rows, int64_t row
) noexcept nogil:
    """Writes rows `first` to `first + num_rows` of the columns as those with numbers from `row` on."""
    cdef int64_t slot = row % records.num_slots
    cdef int64_t num = min(num_rows, records.num_slots - slot)
    scatter(records, columns, first, num, records.data + slot * records.stride)
    scatter(records, columns, first + num, num_rows - num, records.data)


cdef inline void scatter(
    const Records* records, const Column* columns, int64_t first, int64_t num_rows, char* rows
) noexcept nogil:
    """Writes rows `first` to `first + num_rows` of the columns to consecutive records from `rows` on."""
    cdef bint streams = (
        records.stride % REALLY_LINE == 0
        and records.num_slots * records.stride >= STREAM_FROM
        and records.seams_nbytes <= STAGE
        and num_rows * records.stride >= 1024
    )
    if not streams:
        fill(records, columns, first, num_rows, rows)
    elif records.seams_nbytes == records.stride:
        scatter_staged(records, columns, first, num_rows, rows)
    else:
        scatter_streamed(records, columns, first, num_rows, rows)


cdef inline void scatter_staged(
    const Records* records, const Column* columns, int64_t first, int64_t num_rows, char* rows
) noexcept nogil:
    cdef int64_t num, num_staged = STAGE // records.stride
    cdef int64_t done = 0
    while done < num_rows:
        num = min(num_staged, num_rows - done)
        fill(records, columns, first + done, num, records.stage)
        really_stream_whole(rows + done * records.stride, records.stage, num * records.stride, 0)
        done += num


cdef inline void scatter_streamed(
    const Records* records, const Column* columns, int64_t first, int64_t num_rows, char* rows
) noexcept nogil:
    # A line written in parts is read first, and waited for; put together in the stage it goes out like the others.
    cdef int64_t i
    cdef Py_ssize_t k
    for i in range(num_rows):
        for k in range(records.num_fields):
            put_field(records, k, columns[k].data + (first + i) * columns[k].stride, rows + i * records.stride)
        stream_seams(records, rows + i * records.stride)


cdef inline void put_field(const Records* records, Py_ssize_t k, const char* source, char* row) noexcept nogil:
    """The whole lines of a big field go to the row, everything else to its place in the stage."""
    cdef Field field = records.fields[k]
    cdef Py_ssize_t whole = field.nbytes // REALLY_LINE * REALLY_LINE if field.nbytes >= BIG_FIELD else 0
    if whole > 0:
        really_stream(row + field.offset, source, whole, AHEAD)
    if field.nbytes > whole:
        really_copy(records.stage + field.staged, source + whole, field.nbytes - whole)


cdef inline void stream_seams(const Records* records, char* row) noexcept nogil:
    cdef Py_ssize_t k
    cdef const char* staged = records.stage
    for k in range(records.num_seams):
        really_stream_whole(row + records.seams[k].offset, staged, records.seams[k].nbytes, 0)
        staged += records.seams[k].nbytes


cdef inline void fill(
    const Records* records, const Column* columns, int64_t first, int64_t num_rows, char* rows
) noexcept nogil:
    cdef Py_ssize_t k
    cdef Column column
    cdef char* to
    for k in range(records.num_fields):
        column = columns[k]
        column.data += first * column.stride
        to = rows + records.fields[k].offset
        if records.stride == REALLY_LINE:
            fill_field(column, records.fields[k].nbytes, num_rows, to, REALLY_LINE)
        else:
            fill_field(column, records.fields[k].nbytes, num_rows, to, records.stride)


cdef inline void fill_field(
    Column column, Py_ssize_t nbytes, int64_t num, char* to, Py_ssize_t stride
) noexcept nogil:
    # A size that is known when compiling makes the copy one load and one store.
    if nbytes == 4:
        fill_sized(column, 4, num, to, stride)
    elif nbytes == 8:
        fill_sized(column, 8, num, to, stride)
    elif nbytes == 16:
        fill_sized(column, 16, num, to, stride)
    elif nbytes == 1:
        fill_sized(column, 1, num, to, stride)
    elif nbytes == 2:
        fill_sized(column, 2, num, to, stride)
    elif nbytes == 12:
        fill_sized(column, 12, num, to, stride)
    elif nbytes == 32:
        fill_sized(column, 32, num, to, stride)
    else:
        fill_sized(column, nbytes, num, to, stride)


cdef inline void fill_sized(
    Column column, Py_ssize_t nbytes, int64_t num, char* to, Py_ssize_t stride
) noexcept nogil:
    cdef int64_t i
    for i in range(num):
        memcpy(to + i * stride, column.data + i * column.stride, nbytes)
