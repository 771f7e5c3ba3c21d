"""Frame numbers to rows: copies the frames of each row, or renumbers the frames for a message."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy

from frame_store cimport FrameStore, find_frame, frame_at, full_number, is_stored, zeroed_new
from matching cimport MAX_STACK, Sharing
from interleave cimport frames_pass_the_cache, has_fast_path, interleave, really_interleave4
from memory cimport really_aligned_free, really_stream_fence
from row_copy cimport REALLY_ROW_GROUP, prefetch_lines, really_copy_rows, really_row_ahead

cdef enum:
    MISSING = -2
    LOCATED = 256  # rows of one frame that are located before they are copied
    GROUP = 1 << 19  # bytes of the frames of a group of rows: the second column finds them in the L2 cache


cdef struct RowFrames:  # addresses of the frames of one row
    const char* frames[2 * MAX_STACK]  # [column, stack]


cdef inline bint reconstruct(
    const Sharing* sharing, uint32_t** numbers, Py_ssize_t num_rows, char** columns
) noexcept nogil:
    """Copies the frames of each row to `columns[column]` [num_rows, ...]. Returns False if a frame has no block."""
    cdef Py_ssize_t nbytes = num_rows * sharing.stack * sharing.store.nbytes * sharing.num_columns
    cdef bint streams = frames_pass_the_cache(sharing.stack, sharing.outer, sharing.inner, nbytes)
    if sharing.stack == 1 and sharing.outer == 1:
        return reconstruct_lone(sharing, numbers, num_rows, columns, streams)
    return reconstruct_stacks(sharing, numbers, num_rows, columns, streams)


cdef inline bint reconstruct_lone(
    const Sharing* sharing, uint32_t** numbers, Py_ssize_t num_rows, char** columns, bint streams
) noexcept nogil:
    """`reconstruct` for stacks of one frame.

    Many are located before they are copied: after each copy, the next number would come from beyond the L2 cache. The
    copy of one column prefetches the other where that one follows it in memory.
    """
    cdef const char* frames[2][LOCATED + REALLY_ROW_GROUP]
    cdef Py_ssize_t nbytes = sharing.store.nbytes, first = 0, num, i, group
    cdef bint in_pairs
    cdef int c
    while first < num_rows:
        num = min(num_rows - first, <Py_ssize_t>LOCATED)
        for c in range(sharing.num_columns):
            if not locate_lone(&sharing.store, numbers[c] + first, num, frames[c]):
                return False
        prefetch_group(&frames[0][0], nbytes)
        i = 0
        while i < num:
            group = min(num - i, <Py_ssize_t>REALLY_ROW_GROUP)
            if i + REALLY_ROW_GROUP < num:
                prefetch_group(&frames[0][i + REALLY_ROW_GROUP], nbytes)
            in_pairs = sharing.num_columns == 2 and are_pairs(&frames[0][i], &frames[1][i], nbytes, group)
            if sharing.num_columns == 2 and not in_pairs:
                prefetch_group(&frames[1][i], nbytes)
            for c in range(sharing.num_columns):
                really_copy_rows(
                    columns[c] + (first + i) * nbytes, nbytes, &frames[c][i], nbytes, <int>group, streams,
                    in_pairs and c == 0,
                )
            i += group
        first += num
    if streams:
        really_stream_fence()
    return True


cdef inline bint are_pairs(
    const char** first, const char** second, Py_ssize_t nbytes, Py_ssize_t num
) noexcept nogil:
    """Whether each second frame follows the first one in memory."""
    cdef Py_ssize_t i
    for i in range(num):
        if second[i] != first[i] + nbytes:
            return False
    return True


cdef inline void prefetch_group(const char** frames, Py_ssize_t nbytes) noexcept nogil:
    """Prefetches the start of each frame of a group, which is copied after the group before it."""
    cdef Py_ssize_t i, reach = min(nbytes, <Py_ssize_t>really_row_ahead())
    for i in range(REALLY_ROW_GROUP):
        prefetch_lines(frames[i], reach)


cdef inline bint locate_lone(
    const FrameStore* store, const uint32_t* numbers, Py_ssize_t num, const char** frames
) noexcept nogil:
    """Finds the frames of a column. Behind them comes the last one again, for a last group.

    Returns False if a frame has no block, so that the numbers are damaged.
    """
    cdef Py_ssize_t i
    for i in range(num):
        frames[i] = find_frame(store, numbers[i])
        if frames[i] == NULL:
            return False
    for i in range(num, num + REALLY_ROW_GROUP):
        frames[i] = frames[num - 1]
    return True


cdef inline bint reconstruct_stacks(
    const Sharing* sharing, uint32_t** numbers, Py_ssize_t num_rows, char** columns, bint streams
) noexcept nogil:
    """`reconstruct` for any stacks."""
    cdef RowFrames stacks[2][REALLY_ROW_GROUP]
    cdef Py_ssize_t group = rows_per_group(sharing)
    cdef Py_ssize_t first = 0, num = locate_frames(sharing, numbers, 0, min(group, num_rows), stacks[0])
    cdef Py_ssize_t num_ahead
    cdef int half = 0
    while num > 0:
        num_ahead = locate_frames(
            sharing, numbers, first + num, min(group, num_rows - first - num), stacks[1 - half]
        )
        copy_rows(sharing, stacks[half], first, <int>num, columns, streams)
        first += num
        num = num_ahead
        half = 1 - half
    if streams:
        really_stream_fence()
    return num == 0


cdef inline Py_ssize_t rows_per_group(const Sharing* sharing) noexcept nogil:
    # Interleaving already reads the frames of one row in parallel.
    if has_fast_path(sharing.stack, sharing.outer, sharing.inner):
        return 2
    if sharing.outer != 1:
        return 1
    return max(min(GROUP // ((sharing.stack + 1) * sharing.store.nbytes), <Py_ssize_t>REALLY_ROW_GROUP), <Py_ssize_t>1)


cdef inline Py_ssize_t locate_frames(
    const Sharing* sharing, uint32_t** numbers, Py_ssize_t first, Py_ssize_t num, RowFrames* stacks
) noexcept nogil:
    """Locates the frames of rows `first` to `first + num` and prefetches their starts.

    Returns `num`, or -1 if a frame has no block, so that the numbers are damaged.
    """
    cdef const char** row
    cdef const uint32_t* stack
    cdef Py_ssize_t i, reach = min(sharing.store.nbytes, <Py_ssize_t>really_row_ahead())
    cdef uint32_t in_block = (<uint32_t>1 << sharing.store.shift) - 1, before = 0
    cdef const char* starts[REALLY_ROW_GROUP * 2 * MAX_STACK]
    cdef Py_ssize_t num_starts = 0
    cdef bint follows
    cdef int c, j
    for i in range(num):
        row = stacks[i].frames
        for c in range(sharing.num_columns):
            stack = numbers[c] + (first + i) * sharing.stack
            for j in range(sharing.stack):
                if c == 1 and j + 1 < sharing.stack and stack[j] == numbers[0][(first + i) * sharing.stack + j + 1]:
                    row[j] = row[j + 1 - sharing.stack]  # the first column has it, one frame on
                    before = stack[j]
                    continue
                follows = c + j > 0 and stack[j] == before + 1 and stack[j] & in_block != 0
                before = stack[j]
                row[j] = row[j - 1] + sharing.store.stride if follows else find_frame(&sharing.store, stack[j])
                if row[j] == NULL:
                    return -1
                # The hardware prefetcher follows contiguous frames, unless they are read in turn.
                if sharing.outer != 1 or not follows:
                    starts[num_starts] = row[j]
                    num_starts += 1
            row += sharing.stack
    for i in range(num_starts):
        prefetch_lines(starts[i], reach)
    return num


cdef inline void copy_rows(
    const Sharing* sharing, RowFrames* stacks, Py_ssize_t first, int num, char** columns, bint streams
) noexcept nogil:
    """Copies the first column of a group of rows, then the second: the frames they share are read from memory once."""
    cdef Py_ssize_t row_nbytes = sharing.stack * sharing.store.nbytes
    cdef char* rows[2]
    cdef int c
    rows[0] = rows[1] = NULL
    for c in range(sharing.num_columns):
        rows[c] = columns[c] + first * row_nbytes
    if has_fast_path(sharing.stack, sharing.outer, sharing.inner):
        interleave_rows(sharing, stacks, num, rows, streams)
        return
    for c in range(sharing.num_columns):
        if sharing.outer == 1:
            copy_stacks(sharing, stacks, c * sharing.stack, num, rows[c], streams, c + 1 < sharing.num_columns)
        else:
            interleave(rows[c], stacks[0].frames + c * sharing.stack, sharing.stack, sharing.outer, sharing.inner)


cdef inline void copy_stacks(
    const Sharing* sharing, RowFrames* stacks, int at, int num, char* rows, bint streams, bint goes_on
) noexcept nogil:
    """Copies a group of stacks, from frame `at` on, in parallel. Frames contiguous in all rows are one piece.

    With `goes_on` it prefetches what follows each stack in memory.
    """
    cdef const char* pieces[REALLY_ROW_GROUP]
    cdef Py_ssize_t nbytes = sharing.store.nbytes
    cdef int i, length, j = 0
    while j < sharing.stack:
        length = 1
        while j + length < sharing.stack and all_contiguous(sharing, stacks, at + j + length, num):
            length += 1
        for i in range(num):
            pieces[i] = stacks[i].frames[at + j]
        really_copy_rows(
            rows + j * nbytes, sharing.stack * nbytes, pieces, length * nbytes, num, streams,
            goes_on or j + length < sharing.stack,
        )
        j += length


cdef inline bint all_contiguous(const Sharing* sharing, RowFrames* stacks, int at, int num) noexcept nogil:
    """Whether frame `at` of each row follows the frame before it in memory."""
    cdef int i
    for i in range(num):
        if stacks[i].frames[at] != stacks[i].frames[at - 1] + sharing.store.nbytes:
            return False
    return True


cdef inline void interleave_rows(
    const Sharing* sharing, RowFrames* stacks, int num, char** rows, bint streams
) noexcept nogil:
    """Interleaves the four frames of one or two rows; if the second column is the first shifted by one frame, both are
    written in one pass."""
    cdef const char* fives[2][5]
    cdef Py_ssize_t nbytes = 4 * sharing.store.nbytes
    cdef int c, i, num_fives = 0
    for i in range(num if sharing.num_columns == 2 else 0):
        num_fives += span_five_frames(stacks[i].frames, fives[i])
    if num_fives == num:
        really_interleave4(rows[0], rows[1], &fives[0][0], num, sharing.outer, streams)
        return
    for i in range(num):
        for c in range(sharing.num_columns):
            really_interleave4(rows[c] + i * nbytes, NULL, stacks[i].frames + 4 * c, 1, sharing.outer, streams)


cdef inline bint span_five_frames(const char** frames, const char** five) noexcept nogil:
    """Whether the second column is the first shifted by one frame; then `five` has the five frames of both."""
    memcpy(five, frames, 4 * sizeof(char*))
    five[4] = frames[7]
    return frames[4] == frames[1] and frames[5] == frames[2] and frames[6] == frames[3]


cdef inline Py_ssize_t renumber_frames(
    const Sharing* sharing, const uint32_t* first, const uint32_t* last, Py_ssize_t num_rows,
    int* first_out, int* last_out, int64_t* order,
) noexcept nogil:
    """Renumbers the frames of rows from 0 on, in the order in which rows need them.

    Writes the old number of each frame to `order`, [2 * num_rows * stack]. Returns the number of frames, -1 if there is
    no memory, or MISSING if a frame is not stored, so that the numbers are damaged.
    """
    cdef const FrameStore* store = &sharing.store
    cdef int64_t least = store.next, most = 0
    cdef Py_ssize_t i, j, count = 0
    for i in range(num_rows * sharing.stack):
        if not is_stored(store, full_number(store, first[i])) or not is_stored(store, full_number(store, last[i])):
            return MISSING
        least = min(least, min(full_number(store, first[i]), full_number(store, last[i])))
        most = max(most, max(full_number(store, first[i]), full_number(store, last[i])))
    cdef int* found = <int*>zeroed_new((most - least + 1) * sizeof(int) + 1) if num_rows > 0 else <int*>zeroed_new(1)
    if found == NULL:
        return -1
    for i in range(num_rows):
        for j in range(i * sharing.stack, (i + 1) * sharing.stack):
            first_out[j] = renumber(full_number(store, first[j]), least, found, order, &count)
        for j in range(i * sharing.stack, (i + 1) * sharing.stack):
            last_out[j] = renumber(full_number(store, last[j]), least, found, order, &count)
    really_aligned_free(found)
    return count


cdef inline int renumber(
    int64_t number, int64_t least, int* found, int64_t* order, Py_ssize_t* count
) noexcept nogil:
    if found[number - least] == 0:
        order[count[0]] = number
        count[0] += 1
        found[number - least] = <int>count[0]
    return found[number - least] - 1


cdef inline void copy_frames(const Sharing* sharing, const int64_t* order, Py_ssize_t num, char* to) noexcept nogil:
    """Copies the frames with these numbers to `to`, [num] frames."""
    cdef Py_ssize_t i
    for i in range(num):
        memcpy(to + i * sharing.store.nbytes, frame_at(&sharing.store, order[i]), sharing.store.nbytes)
