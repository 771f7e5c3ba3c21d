"""Frames to rows: what a record has the numbers of is copied out, or numbered anew for those who send it on."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy

from frame_store cimport FrameStore, frame_at, whole_number, zeros
from matching cimport MAX_STACK, Sharing
from interleave cimport is_quick, put_together, really_weave4
from memory cimport really_lines_free, really_stream_end
from row_copy cimport OUT_OF_CACHE, REALLY_ASKED, REALLY_ROWS, prefetch_lines, really_copy_rows

cdef enum:
    GROUP = 1 << 19  # bytes; frames of rows side by side, which the second column finds in the second cache


cdef struct RowFrames:
    const char* frames[2 * MAX_STACK]  # of a row, [column, stack]


cdef inline void unshare(
    const Sharing* sharing, uint32_t** numbers, Py_ssize_t num_rows, char** columns
) noexcept nogil:
    """Copies the frames of each row to `columns[column]` [num_rows, ...]."""
    cdef Py_ssize_t row_nbytes = sharing.stack * sharing.store.nbytes
    cdef bint streams = num_rows * row_nbytes * sharing.num_columns >= OUT_OF_CACHE
    cdef RowFrames stacks[2][REALLY_ROWS]
    cdef Py_ssize_t group = rows_side_by_side(sharing)
    cdef Py_ssize_t first = 0, num = find_frames(sharing, numbers, 0, min(group, num_rows), stacks[0])
    cdef Py_ssize_t num_ahead
    cdef int half = 0
    while num > 0:
        num_ahead = min(group, num_rows - first - num)
        find_frames(sharing, numbers, first + num, num_ahead, stacks[1 - half])
        copy_rows(sharing, stacks[half], first, <int>num, columns, streams)
        first += num
        num = num_ahead
        half = 1 - half
    if streams:
        really_stream_end()


cdef inline Py_ssize_t rows_side_by_side(const Sharing* sharing) noexcept nogil:
    # Where frames are woven, those of one row are read side by side already.
    if is_quick(sharing.stack, sharing.outer, sharing.inner):
        return 2
    if sharing.outer != 1:
        return 1
    return max(min(GROUP // ((sharing.stack + 1) * sharing.store.nbytes), <Py_ssize_t>REALLY_ROWS), <Py_ssize_t>1)


cdef inline Py_ssize_t find_frames(
    const Sharing* sharing, uint32_t** numbers, Py_ssize_t first, Py_ssize_t num, RowFrames* stacks
) noexcept nogil:
    """Where the frames of rows `first` to `first + num` are; asks for their starts. Returns `num`."""
    cdef const char** row
    cdef Py_ssize_t i, reach = min(sharing.store.nbytes, <Py_ssize_t>REALLY_ASKED)
    cdef int c, j
    for i in range(num):
        row = stacks[i].frames
        for c in range(sharing.num_columns):
            for j in range(sharing.stack):
                row[j] = frame_at(&sharing.store, numbers[c][(first + i) * sharing.stack + j])
                # The processor sees by itself how frames that stand side by side go on, unless they are read in turns.
                if c == 1 and j + 1 < sharing.stack and row[j] == row[j + 1 - sharing.stack]:
                    continue
                if sharing.outer != 1 or j == 0 or row[j] != row[j - 1] + sharing.store.nbytes:
                    prefetch_lines(row[j], reach)
            row += sharing.stack
    return num


cdef inline void copy_rows(
    const Sharing* sharing, RowFrames* stacks, Py_ssize_t first, int num, char** columns, bint streams
) noexcept nogil:
    """The first column of a few rows, then the second: what they share comes from memory once."""
    cdef Py_ssize_t row_nbytes = sharing.stack * sharing.store.nbytes
    cdef char* rows[2]
    cdef int c
    rows[0] = rows[1] = NULL
    for c in range(sharing.num_columns):
        rows[c] = columns[c] + first * row_nbytes
    if is_quick(sharing.stack, sharing.outer, sharing.inner):
        weave_rows(sharing, stacks, num, rows, streams)
        return
    for c in range(sharing.num_columns):
        if sharing.outer == 1:
            copy_stacks(sharing, stacks, c * sharing.stack, num, rows[c], streams)
        else:
            put_together(rows[c], stacks[0].frames + c * sharing.stack, sharing.stack, sharing.outer, sharing.inner)


cdef inline void copy_stacks(
    const Sharing* sharing, RowFrames* stacks, int at, int num, char* rows, bint streams
) noexcept nogil:
    """The stacks of a few rows side by side, from frame `at` of each on; what is one piece in all of them at once."""
    cdef const char* pieces[REALLY_ROWS]
    cdef Py_ssize_t nbytes = sharing.store.nbytes
    cdef int i, length, j = 0
    while j < sharing.stack:
        length = 1
        while j + length < sharing.stack and all_go_on(sharing, stacks, at + j + length, num):
            length += 1
        for i in range(num):
            pieces[i] = stacks[i].frames[at + j]
        really_copy_rows(rows + j * nbytes, sharing.stack * nbytes, pieces, length * nbytes, num, streams)
        j += length


cdef inline bint all_go_on(const Sharing* sharing, RowFrames* stacks, int at, int num) noexcept nogil:
    """Whether frame `at` of each row stands behind the one before."""
    cdef int i
    for i in range(num):
        if stacks[i].frames[at] != stacks[i].frames[at - 1] + sharing.store.nbytes:
            return False
    return True


cdef inline void weave_rows(
    const Sharing* sharing, RowFrames* stacks, int num, char** rows, bint streams
) noexcept nogil:
    """RowFrames of four of a row or two; the second column's are put together with the first's where they are one frame on."""
    cdef const char* fives[2][5]
    cdef Py_ssize_t nbytes = 4 * sharing.store.nbytes
    cdef int c, i, num_fives = 0
    for i in range(num if sharing.num_columns == 2 else 0):
        num_fives += are_five(stacks[i].frames, fives[i])
    if num_fives == num:
        really_weave4(rows[0], rows[1], &fives[0][0], num, sharing.outer, streams)
        return
    for i in range(num):
        for c in range(sharing.num_columns):
            really_weave4(rows[c] + i * nbytes, NULL, stacks[i].frames + 4 * c, 1, sharing.outer, streams)


cdef inline bint are_five(const char** frames, const char** five) noexcept nogil:
    """Whether frames [column, 4] are five, the second column's one on; if so `five` has them."""
    memcpy(five, frames, 4 * sizeof(char*))
    five[4] = frames[7]
    return frames[4] == frames[1] and frames[5] == frames[2] and frames[6] == frames[3]


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
