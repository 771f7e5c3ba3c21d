"""Frame numbers to windows of frames: each frame that a window of rows needs is copied once, and rows name its place.

Two places have one frame if their numbers are equal. A frame that was stored twice (shared_rows.pxd) is found where
rows usually have it, by its bytes: so a window of consecutive steps needs `length + stack` frames at most.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcmp

from frame_store cimport find_frame
from matching cimport Sharing
from memory cimport really_stream_fence
from row_copy cimport REALLY_ROW_GROUP, is_past_the_cache, prefetch_lines, really_copy_rows, really_row_ahead

cdef enum:
    NOT_FOUND = -1

cdef struct Windows:  # of rows of one sharing
    int* indices[2]  # [num_windows, length, stack] of each column: places of the rows' frames among the window's
    uint32_t* numbers  # [num_windows, 2 * length * stack], of the window's frames
    Py_ssize_t* counts  # [num_windows], how many those are
    const char* zeros  # a frame of zeros
    char* frames  # [num_windows, num_places] frames; places behind a window's frames are zeros
    Py_ssize_t num_places
    Py_ssize_t num_needed  # places of the window that needs most

cdef struct Compact:  # a batch of windows
    Py_ssize_t num_windows
    Py_ssize_t length  # rows of a window
    const char* is_padding  # [num_windows, length], or NULL; rows that consist of zeros
    Windows* windows  # [num_sharings]


cdef inline bint compact_all(
    const Sharing* sharings, Py_ssize_t num, char** fields, const Compact* compact
) noexcept nogil:
    """Finds the frames of all windows by the rows' gathered numbers, `fields[key]`, and copies them if `num_places` of
    each sharing is enough. Returns False if a frame has no block."""
    cdef Py_ssize_t s
    cdef bint fits = True
    for s in range(num):
        if not find_windows(&sharings[s], fields, compact, &compact.windows[s]):
            return False
        fits = fits and compact.windows[s].num_needed <= compact.windows[s].num_places
    for s in range(num if fits else 0):
        if not copy_windows(&sharings[s], compact, &compact.windows[s]):
            return False
    return True


cdef inline bint find_windows(
    const Sharing* sharing, char** fields, const Compact* compact, Windows* windows
) noexcept nogil:
    """Sets indices, numbers and counts of all windows. Returns False if a frame has no block."""
    cdef Py_ssize_t w, t, row, count
    cdef uint32_t* numbers
    cdef bint is_padded
    windows.num_needed = 0
    for w in range(compact.num_windows):
        numbers = windows.numbers + w * 2 * compact.length * sharing.stack
        count, is_padded = 0, False
        for t in range(compact.length):
            row = w * compact.length + t
            if compact.is_padding != NULL and compact.is_padding[row]:
                is_padded = True
                name_zeros(sharing, windows, row)
            elif not find_row(sharing, fields, windows, row, t > 0, numbers, &count):
                return False
        windows.counts[w] = count
        windows.num_needed = max(windows.num_needed, count + is_padded)
    return True


cdef inline void name_zeros(const Sharing* sharing, Windows* windows, Py_ssize_t row) noexcept nogil:
    """Makes a row consist of the window's last frame, which is zeros."""
    cdef int c, j
    for c in range(sharing.num_columns):
        for j in range(sharing.stack):
            windows.indices[c][row * sharing.stack + j] = <int>windows.num_places - 1


cdef inline bint find_row(
    const Sharing* sharing, char** fields, Windows* windows, Py_ssize_t row, bint has_previous, uint32_t* numbers,
    Py_ssize_t* count,
) noexcept nogil:
    """Sets the indices of a row and adds its new frames to `numbers`. Returns False if a frame has no block."""
    cdef int stack = sharing.stack
    cdef int c, j, usual, found
    cdef uint32_t number
    for c in range(sharing.num_columns):
        for j in range(stack):
            number = (<uint32_t*>fields[sharing.keys[c]])[row * stack + j]
            usual = usual_place(sharing, windows, row, has_previous, c, j)
            found = find_number(numbers, count[0], 2 * stack, number, usual)
            if found == NOT_FOUND and usual != NOT_FOUND:
                if find_frame(&sharing.store, number) == NULL or find_frame(&sharing.store, numbers[usual]) == NULL:
                    return False
                if are_equal(sharing, number, numbers[usual]):
                    found = usual
            if found == NOT_FOUND:
                numbers[count[0]] = number
                found = <int>count[0]
                count[0] += 1
            windows.indices[c][row * stack + j] = found
    return True


cdef inline int usual_place(
    const Sharing* sharing, const Windows* windows, Py_ssize_t row, bint has_previous, int c, int j
) noexcept nogil:
    """Where the frame is if the row continues the row before it, and its next state is its state and a new frame."""
    cdef int stack = sharing.stack
    if c == 1:
        return windows.indices[0][row * stack + j + 1] if j + 1 < stack else NOT_FOUND
    if not has_previous:
        return NOT_FOUND
    if sharing.num_columns == 2:
        return windows.indices[1][(row - 1) * stack + j]
    return windows.indices[0][(row - 1) * stack + j + 1] if j + 1 < stack else NOT_FOUND


cdef inline int find_number(
    const uint32_t* numbers, Py_ssize_t count, Py_ssize_t reach, uint32_t number, int usual
) noexcept nogil:
    """The place of a number: the usual one, or one of the last `reach`, or NOT_FOUND."""
    cdef Py_ssize_t i
    if usual != NOT_FOUND and numbers[usual] == number:
        return usual
    for i in range(count - 1, max(count - reach, <Py_ssize_t>0) - 1, -1):
        if numbers[i] == number:
            return <int>i
    return NOT_FOUND


cdef inline bint are_equal(const Sharing* sharing, uint32_t number, uint32_t other) noexcept nogil:
    return memcmp(
        find_frame(&sharing.store, number), find_frame(&sharing.store, other), sharing.store.nbytes
    ) == 0


cdef inline bint copy_windows(const Sharing* sharing, const Compact* compact, const Windows* windows) noexcept nogil:
    """Copies the frames of all windows. Returns False if a frame has no block."""
    cdef const char* rows[2][REALLY_ROW_GROUP]
    cdef Py_ssize_t nbytes = sharing.store.nbytes, total = compact.num_windows * windows.num_places, first = 0
    cdef bint streams = is_past_the_cache(total * nbytes)
    cdef int half = 0
    cdef Py_ssize_t num = locate_places(sharing, compact, windows, 0, total, rows[0])
    cdef Py_ssize_t num_ahead
    while num > 0:
        num_ahead = locate_places(sharing, compact, windows, first + num, total, rows[1 - half])
        really_copy_rows(windows.frames + first * nbytes, nbytes, rows[half], nbytes, <int>num, streams, True)
        first += num
        num = num_ahead
        half = 1 - half
    if streams:
        really_stream_fence()
    return num == 0


cdef inline Py_ssize_t locate_places(
    const Sharing* sharing, const Compact* compact, const Windows* windows, Py_ssize_t first, Py_ssize_t total,
    const char** rows
) noexcept nogil:
    """Locates the frames of a group of places and prefetches their starts.

    Returns the number of places, or -1 if a frame has no block.
    """
    cdef Py_ssize_t i, place, num = min(<Py_ssize_t>REALLY_ROW_GROUP, total - first)
    cdef Py_ssize_t w = first // windows.num_places
    place = first - w * windows.num_places
    for i in range(num):
        rows[i] = windows.zeros
        if place < windows.counts[w]:
            rows[i] = find_frame(&sharing.store, windows.numbers[w * 2 * compact.length * sharing.stack + place])
            if rows[i] == NULL:
                return -1
            prefetch_lines(rows[i], min(sharing.store.nbytes, <Py_ssize_t>really_row_ahead()))
        place += 1
        if place == windows.num_places:
            place, w = 0, w + 1
    return num
