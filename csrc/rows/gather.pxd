"""Records to columns: copies rows, chosen by age, and prefetches their cache lines ahead of the copy."""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from bounded_random cimport DRAW_BLOCK, draw
from memory cimport REALLY_CACHE_LINE, really_prefetch_l2, really_advise_willneed, really_copy_short, really_stream_fence
from numpy.random cimport bitgen_t
from record cimport BIG_FIELD, Field, Records, num_held, oldest_slot, row_at, slot_of
from removed cimport Removed, draw_left
from row_copy cimport REALLY_ROW_GROUP, is_past_the_cache, prefetch_lines, really_copy_rows, really_row_ahead

cdef enum:
    BLOCK = DRAW_BLOCK  # rows whose cache lines are prefetched at a time
    NARROW = 2048  # bytes; records up to here are prefetched whole, of longer ones a group is copied in parallel


cdef inline void gather(
    const Records* records, int64_t* ages, Py_ssize_t num_rows, char** columns, bitgen_t* source,
    const Removed* removed,
) noexcept nogil:
    """Copies the rows of these ages to columns, `columns[field][row]`.

    `source`, unless NULL, draws the ages, those of rows that are not `removed`, which may be NULL.
    """
    cdef bint streams = is_past_the_cache(batch_nbytes(records, num_rows))
    if source != NULL and removed != NULL:  # before the copy: a second draw in its loop slows the first
        draw_left(source, removed, ages, num_rows)
        source = NULL
    if records.stride <= NARROW and not (streams and records.stride > BIG_FIELD):
        gather_narrow(records, ages, num_rows, columns, source)
        return
    if source != NULL:
        draw(source, num_held(records), ages, num_rows)
    gather_wide(records, ages, num_rows, columns, streams)


cdef inline Py_ssize_t batch_nbytes(const Records* records, Py_ssize_t num_rows) noexcept nogil:
    cdef Py_ssize_t k, nbytes = 0
    for k in range(records.num_fields):
        nbytes += records.fields[k].nbytes
    return num_rows * nbytes


cdef inline void prefetch_rows_from_disk(
    const Records* records, const int64_t* ages, Py_ssize_t num_rows
) noexcept nogil:
    """Tells the system at once that all these rows are needed, so that the disk reads them in parallel."""
    cdef int64_t oldest = oldest_slot(records)
    cdef Py_ssize_t i
    for i in range(num_rows):
        really_advise_willneed(row_at(records, oldest, ages[i]), records.stride)


cdef inline void gather_narrow(
    const Records* records, int64_t* ages, Py_ssize_t num_rows, char** columns, bitgen_t* source
) noexcept nogil:
    # Prefetches one block of rows while the block before it is copied.
    cdef const char* rows[2][BLOCK]
    cdef int64_t oldest = oldest_slot(records)
    cdef Py_ssize_t first = 0, num = next_block(records, oldest, ages, num_rows, rows[0], source)
    cdef Py_ssize_t i, num_ahead, half = 0
    while num > 0:
        num_ahead = next_block(
            records, oldest, ages + first + num, num_rows - first - num, rows[1 - half], source
        )
        for i in range(records.num_fields):
            copy_field(records.fields[i], rows[half], num, columns[i] + first * records.fields[i].nbytes)
        first += num
        num = num_ahead
        half = 1 - half


cdef inline Py_ssize_t next_block(
    const Records* records, int64_t oldest, int64_t* ages, Py_ssize_t num_left, const char** rows, bitgen_t* source
) noexcept nogil:
    """Draws the ages of the next block unless `source` is NULL, and locates its rows; returns their number."""
    cdef Py_ssize_t num = min(num_left, <Py_ssize_t>BLOCK)
    if source != NULL:
        draw(source, num_held(records), ages, num)
    return locate_rows(records, oldest, ages, num, rows, records.stride)


cdef inline Py_ssize_t locate_rows(
    const Records* records, int64_t oldest, const int64_t* ages, Py_ssize_t num, const char** rows, Py_ssize_t reach
) noexcept nogil:
    """Finds the addresses of `num` rows and prefetches `reach` bytes of each; returns `num`."""
    cdef Py_ssize_t i
    if reach == REALLY_CACHE_LINE:  # a loop over one line would take as long as the rest
        for i in range(num):
            rows[i] = line_at(records, oldest, ages[i])
            really_prefetch_l2(rows[i])
        return num
    for i in range(num):
        rows[i] = row_at(records, oldest, ages[i])
        prefetch_lines(rows[i], reach)
    return num


cdef inline const char* line_at(const Records* records, int64_t oldest, int64_t age) noexcept nogil:
    """`row_at` for rows of one cache line."""
    return records.data + slot_of(records, oldest, age) * REALLY_CACHE_LINE


cdef inline void copy_field(Field field, const char** rows, Py_ssize_t num, char* column) noexcept nogil:
    # With a constant size the compiler makes each copy one load and one store.
    cdef Py_ssize_t i
    if field.nbytes == 4:
        copy_sized(field, rows, num, column, 4)
    elif field.nbytes == 8:
        copy_sized(field, rows, num, column, 8)
    elif field.nbytes == 16:
        copy_sized(field, rows, num, column, 16)
    elif field.nbytes == 1:
        copy_sized(field, rows, num, column, 1)
    elif field.nbytes == 2:
        copy_sized(field, rows, num, column, 2)
    elif field.nbytes == 12:
        copy_sized(field, rows, num, column, 12)
    elif field.nbytes == 32:
        copy_sized(field, rows, num, column, 32)
    else:
        for i in range(num):
            really_copy_short(column + i * field.nbytes, rows[i] + field.offset, field.nbytes)


cdef inline void copy_sized(
    Field field, const char** rows, Py_ssize_t num, char* column, Py_ssize_t nbytes
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(num):
        memcpy(column + i * nbytes, rows[i] + field.offset, nbytes)


cdef inline void gather_wide(
    const Records* records, const int64_t* ages, Py_ssize_t num_rows, char** columns, bint streams
) noexcept nogil:
    cdef const char* rows[2][REALLY_ROW_GROUP]
    cdef int64_t oldest = oldest_slot(records)
    cdef Py_ssize_t most = REALLY_ROW_GROUP, reach = min(records.stride, <Py_ssize_t>really_row_ahead())
    cdef Py_ssize_t first = 0, num = locate_rows(records, oldest, ages, min(num_rows, most), rows[0], reach)
    cdef Py_ssize_t num_ahead, half = 0
    while num > 0:
        num_ahead = min(num_rows - first - num, most)
        locate_rows(records, oldest, ages + first + num, num_ahead, rows[1 - half], reach)
        copy_row_group(records, rows[half], <int>num, first, columns, streams)
        first += num
        num = num_ahead
        half = 1 - half
    if streams:
        really_stream_fence()


cdef inline void copy_row_group(
    const Records* records, const char** rows, int num, Py_ssize_t first, char** columns, bint streams
) noexcept nogil:
    """Copies a group of rows in parallel, field by field. Moves the addresses in `rows` to the last field."""
    cdef Py_ssize_t k, done = 0
    cdef Field field
    cdef int i
    for k in range(records.num_fields):
        field = records.fields[k]
        for i in range(num):
            rows[i] += field.offset - done
        done = field.offset
        really_copy_rows(
            columns[k] + first * field.nbytes, field.nbytes, rows, field.nbytes, num,
            streams and field.nbytes >= BIG_FIELD, k + 1 < records.num_fields,
        )
