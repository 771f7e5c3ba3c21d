"""Columns to records: rows are assembled in the first-level cache and streamed to memory in whole cache lines.

REALLY_EARLY_COMMIT commits rows before they are written; the test of killed processes must then fail.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from cpu cimport really_cache_nbytes
from memory cimport (
    REALLY_CACHE_LINE,
    really_copy_short,
    really_store_release,
    really_stream_copy,
    really_stream_fence,
    really_stream_lines,
)
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
    AHEAD = 1024  # bytes by which a field of at most a page is prefetched ahead of its copy
    AHEAD_IN_CACHE = 2048  # the same for a put that may be in the third level: AVX2 copies it a tenth faster
    PAGE = 4096
    CACHE_PER_AHEAD = 1024  # of a longer field: 512 bytes ahead suit 512 kB of second-level cache, 1,024 suit 1 MB


cdef inline void append(Records* records, const Column* columns, int64_t num_rows, int64_t skipped) noexcept nogil:
    """Appends `num_rows` rows, at most as many as fit without spare slots, and evicts the oldest.

    Their numbers come after `skipped` numbers of rows that are not written.
    With spare slots, rows are committed in pieces that fit in them: the slot of a row that is held is never written
    before the rows that evict it are committed. Without, all rows are committed together.
    """
    cdef int64_t spare = records.num_slots - records.capacity
    cdef int64_t num, first = 0, row = records.cursor.num_put + skipped
    while first < num_rows:
        num = min(num_rows - first, spare) if spare > 0 else num_rows - first
        if spare > 0:
            really_store_release(&records.cursor.num_begun, max(records.cursor.num_begun, row + num))
            really_stream_fence()  # or streaming stores could overtake it
        if REALLY_COMMITS_EARLY:
            really_store_release(&records.cursor.num_put, row + num)
        write_rows(records, columns, first, num, row)
        really_store_release(&records.cursor.num_put, row + num)
        first += num
        row += num


cdef inline void write_rows(
    const Records* records, const Column* columns, int64_t first, int64_t num_rows, int64_t row
) noexcept nogil:
    """Writes rows `first` to `first + num_rows` of the columns to the slots of the row numbers from `row` on."""
    cdef int64_t slot = row % records.num_slots
    cdef int64_t num = min(num_rows, records.num_slots - slot)
    scatter(records, columns, first, num, records.data + slot * records.stride)
    scatter(records, columns, first + num, num_rows - num, records.data)


cdef inline void scatter(
    const Records* records, const Column* columns, int64_t first, int64_t num_rows, char* rows
) noexcept nogil:
    """Writes rows `first` to `first + num_rows` of the columns to consecutive records from `rows` on."""
    cdef bint streams = (
        records.stride % REALLY_CACHE_LINE == 0
        and <size_t>(records.num_slots * records.stride) >= 4 * really_cache_nbytes  # it does not stay in the cache
        and records.seams_nbytes <= STAGE
        and num_rows * records.stride >= 1024
    )
    if not streams:
        fill(records, columns, first, num_rows, rows)
        return
    if records.seams_nbytes == records.stride:
        scatter_staged(records, columns, first, num_rows, rows)
    else:
        scatter_streamed(records, columns, first, num_rows, rows)
    really_stream_fence()  # before the commit


cdef inline void scatter_staged(
    const Records* records, const Column* columns, int64_t first, int64_t num_rows, char* rows
) noexcept nogil:
    cdef int64_t num, num_staged = STAGE // records.stride
    cdef int64_t done = 0
    while done < num_rows:
        num = min(num_staged, num_rows - done)
        fill(records, columns, first + done, num, records.stage)
        really_stream_lines(rows + done * records.stride, records.stage, num * records.stride, 0)
        done += num


cdef inline void scatter_streamed(
    const Records* records, const Column* columns, int64_t first, int64_t num_rows, char* rows
) noexcept nogil:
    # The processor first reads a line that is written in parts. Assembled in the stage, it is streamed like the others.
    cdef bint is_cached = <size_t>(num_rows * records.stride) < 16 * really_cache_nbytes
    cdef int64_t i
    cdef Py_ssize_t k
    for i in range(num_rows):
        for k in range(records.num_fields):
            write_field(
                records, k, columns[k].data + (first + i) * columns[k].stride, rows + i * records.stride, is_cached
            )
        stream_seams(records, rows + i * records.stride)


cdef inline void write_field(
    const Records* records, Py_ssize_t k, const char* source, char* row, bint is_cached
) noexcept nogil:
    """Streams the whole lines of a big field to the row, and copies everything else to the stage."""
    cdef Field field = records.fields[k]
    cdef Py_ssize_t line_nbytes = 0
    if field.nbytes >= BIG_FIELD:
        line_nbytes = field.nbytes // REALLY_CACHE_LINE * REALLY_CACHE_LINE
    if line_nbytes > 0:
        really_stream_copy(row + field.offset, source, line_nbytes, ahead_by(field.nbytes, is_cached))
    if field.nbytes > line_nbytes:
        really_copy_short(records.stage + field.staged, source + line_nbytes, field.nbytes - line_nbytes)


cdef inline size_t ahead_by(Py_ssize_t nbytes, bint is_cached) noexcept nogil:
    if is_cached:
        return AHEAD_IN_CACHE
    return AHEAD if nbytes <= PAGE else really_cache_nbytes / CACHE_PER_AHEAD


cdef inline void stream_seams(const Records* records, char* row) noexcept nogil:
    cdef Py_ssize_t k
    cdef const char* staged = records.stage
    for k in range(records.num_seams):
        really_stream_lines(row + records.seams[k].offset, staged, records.seams[k].nbytes, 0)
        staged += records.seams[k].nbytes


cdef inline void fill(
    const Records* records, const Column* columns, int64_t first, int64_t num_rows, char* rows
) noexcept nogil:
    cdef Py_ssize_t k
    cdef Column column
    cdef char* to
    if num_rows == 1:
        fill_one(records, columns, first, rows)
        return
    for k in range(records.num_fields):
        column = columns[k]
        column.data += first * column.stride
        to = rows + records.fields[k].offset
        if records.stride == REALLY_CACHE_LINE:
            fill_field(column, records.fields[k].nbytes, num_rows, to, REALLY_CACHE_LINE)
        else:
            fill_field(column, records.fields[k].nbytes, num_rows, to, records.stride)


cdef inline void fill_one(const Records* records, const Column* columns, int64_t row, char* to) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(records.num_fields):
        really_copy_short(
            to + records.fields[k].offset, columns[k].data + row * columns[k].stride, records.fields[k].nbytes
        )


cdef inline void fill_field(
    Column column, Py_ssize_t nbytes, int64_t num, char* to, Py_ssize_t stride
) noexcept nogil:
    # With a constant size the compiler makes each copy one load and one store.
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
