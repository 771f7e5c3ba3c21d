"""Frames to rows: what a record has the numbers of is copied out, or numbered anew for those who send it on."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy

from frame_store cimport FrameStore, frame_at, whole_number, zeros
from frames cimport MAX_STACK, Sharing
from interleave cimport is_quick, put_together, really_weave4
from memory cimport REALLY_LINE, really_lines_free, really_prefetch, really_stream, really_stream_end

cdef enum:
    START = 1024  # bytes of the next row's frames that are asked for ahead
    AHEAD = 2048  # bytes of a frame that are on their way while earlier ones are copied
    WOVEN_AHEAD = 1024  # the same of each of four or five frames that are read in turns
    STREAM_FROM = 1 << 23  # bytes; a batch this long leaves other data their place in the cache


cdef inline void unshare(
    const Sharing* sharing, uint32_t** numbers, Py_ssize_t num_rows, char** columns
) noexcept nogil:
    """Copies the frames of each row to `columns[column]` [num_rows, ...]."""
    cdef Py_ssize_t row_nbytes = sharing.stack * sharing.store.nbytes
    cdef bint streams = num_rows * row_nbytes * sharing.num_columns >= STREAM_FROM
    cdef const char* frames[2][2 * MAX_STACK]
    cdef char* rows[2]
    cdef Py_ssize_t i
    cdef int c, half = 0
    rows[1] = NULL
    if num_rows > 0:
        find_frames(sharing, numbers, 0, frames[0])
    for i in range(num_rows):
        if i + 1 < num_rows:
            find_frames(sharing, numbers, i + 1, frames[1 - half])
        for c in range(sharing.num_columns):
            rows[c] = columns[c] + i * row_nbytes
        copy_row(sharing, frames[half], rows, streams)
        half = 1 - half
    if streams:
        really_stream_end()


cdef inline void find_frames(
    const Sharing* sharing, uint32_t** numbers, Py_ssize_t i, const char** frames
) noexcept nogil:
    """Where the frames of row i are, [column, stack]; asks for their starts."""
    cdef int c, j
    for c in range(sharing.num_columns):
        for j in range(sharing.stack):
            frames[j] = frame_at(&sharing.store, numbers[c][i * sharing.stack + j])
            # The processor sees by itself how frames that stand side by side go on, unless they are read in turns.
            if c == 1 and j + 1 < sharing.stack and frames[j] == frames[j + 1 - sharing.stack]:
                continue
            if sharing.outer != 1 or j == 0 or frames[j] != frames[j - 1] + sharing.store.nbytes:
                prefetch(frames[j], min(sharing.store.nbytes, <Py_ssize_t>START))
        frames += sharing.stack


cdef inline void prefetch(const char* start, Py_ssize_t nbytes) noexcept nogil:
    cdef Py_ssize_t at = 0
    while at < nbytes:
        really_prefetch(start + at)
        at += REALLY_LINE


cdef inline void copy_row(const Sharing* sharing, const char** frames, char** rows, bint streams) noexcept nogil:
    """A row of each column, one behind the other: what they share comes from memory once."""
    cdef int c
    if is_quick(sharing.stack, sharing.outer, sharing.inner):
        weave_row(sharing, frames, rows, streams)
        return
    for c in range(sharing.num_columns):
        if sharing.outer == 1:
            copy_stack(sharing, frames + c * sharing.stack, rows[c], streams)
        else:
            put_together(rows[c], frames + c * sharing.stack, sharing.stack, sharing.outer, sharing.inner)


cdef inline void copy_stack(const Sharing* sharing, const char** frames, char* row, bint streams) noexcept nogil:
    cdef int num, j = 0
    cdef Py_ssize_t nbytes = sharing.store.nbytes
    while j < sharing.stack:
        num = 1
        while j + num < sharing.stack and frames[j + num] == frames[j] + num * nbytes:
            num += 1
        if streams:
            really_stream(row + j * nbytes, frames[j], num * nbytes, AHEAD)
        else:
            memcpy(row + j * nbytes, frames[j], num * nbytes)
        j += num


cdef inline void weave_row(const Sharing* sharing, const char** frames, char** rows, bint streams) noexcept nogil:
    """Stacks of four; the second column's is put together with the first's where it is one frame on."""
    cdef const char* five[5]
    cdef Py_ssize_t num = sharing.outer
    if sharing.num_columns == 1:
        really_weave4(rows[0], NULL, frames, num, WOVEN_AHEAD, streams)
    elif frames[4] == frames[1] and frames[5] == frames[2] and frames[6] == frames[3]:
        memcpy(five, frames, 4 * sizeof(char*))
        five[4] = frames[7]
        really_weave4(rows[0], rows[1], five, num, WOVEN_AHEAD, streams)
    else:
        really_weave4(rows[0], NULL, frames, num, WOVEN_AHEAD, streams)
        really_weave4(rows[1], NULL, frames + 4, num, WOVEN_AHEAD, streams)


cdef inline Py_ssize_t number_frames(
    const Sharing* sharing, const uint32_t* first, const uint32_t* last, Py_ssize_t num_rows,
    int* first_out, int* last_out, int64_t* order,
) noexcept nogil:
    """Numbers the frames of rows anew, from 0 on as rows need them; `order` [2 * num_rows * stack] has the old numbers.

    Returns how many there are, -1 when there is no memory.
    """
    cdef const FrameStore* store = &sharing.store
    cdef int64_t least = store.next, most = 0
    cdef Py_ssize_t i, j, count = 0
    for i in range(num_rows * sharing.stack):
        least = min(least, min(whole_number(store, first[i]), whole_number(store, last[i])))
        most = max(most, max(whole_number(store, first[i]), whole_number(store, last[i])))
    cdef int* found = <int*>zeros((most - least + 1) * sizeof(int) + 1) if num_rows > 0 else <int*>zeros(1)
    if found == NULL:
        return -1
    for i in range(num_rows):
        for j in range(i * sharing.stack, (i + 1) * sharing.stack):
            first_out[j] = number_anew(whole_number(store, first[j]), least, found, order, &count)
        for j in range(i * sharing.stack, (i + 1) * sharing.stack):
            last_out[j] = number_anew(whole_number(store, last[j]), least, found, order, &count)
    really_lines_free(found)
    return count


cdef inline int number_anew(
    int64_t number, int64_t least, int* found, int64_t* order, Py_ssize_t* count
) noexcept nogil:
    if found[number - least] == 0:
        order[count[0]] = number
        count[0] += 1
        found[number - least] = <int>count[0]
    return found[number - least] - 1
