"""Windows: consecutive steps of one agent from a start on, shorter ones padded and masked."""

from libc.stdint cimport int64_t
from libc.string cimport memset

from memory cimport really_prefetch_l2
from segments cimport (
    CONSECUTIVE,
    Segment,
    Stream,
    Trajectories,
    begins_episode,
    end_of_run,
    is_row,
    number_at,
    number_place,
    place_of_row,
    segment_of_row,
)

cdef struct Window:  # addresses of the values of one window, [length] each
    int64_t* numbers  # -1 behind the last step
    float* mask  # 1 for steps to learn from
    float* is_first  # 1 for the first step of an episode


cdef inline Py_ssize_t fill_window(
    const Trajectories* rows, int64_t start, Py_ssize_t length, Py_ssize_t burn_in, bint joins, Window window
) noexcept nogil:
    """Writes the window from row `start` on. Returns how many steps it has, 0 if that row is not held.

    The first `burn_in` steps are not learned from, unless an episode has begun in the window: the recurrent state is
    then known.
    """
    cdef const Segment* segment
    cdef const Stream* stream
    cdef int64_t first
    cdef bint begins
    cdef Py_ssize_t i = 0, j, stop, num, known_from = burn_in
    if not is_row(rows, start):
        return 0
    segment, first = segment_of_row(rows, start), place_of_row(rows, start)
    stream = &rows.streams[segment.stream]
    num = min(end_of_run(rows, segment, joins, first + length) - first, length)
    memset(window.is_first, 0, length * sizeof(float))
    list_numbers(stream, segment, first, start, num, window.numbers)
    while i < num:
        stop = min(segment.end - first, num)
        begins = first + i == segment.begin and begins_episode(rows, segment)
        known_from = min(known_from, i) if begins else known_from
        window.is_first[i] = begins
        i = stop
        if i < num:
            segment = segment_of_row(rows, window.numbers[i])
    for j in range(min(known_from, num)):
        window.mask[j] = 0
    for j in range(min(known_from, num), num):
        window.mask[j] = 1
    for j in range(num, length):
        window.numbers[j], window.mask[j] = -1, 0
    return num


cdef inline void prefetch_last_number(const Trajectories* rows, int64_t start, Py_ssize_t length) noexcept nogil:
    """Prefetches the number of a window's last row in the segment of its first one, which `list_numbers` may read."""
    cdef const Segment* segment
    cdef int64_t end
    if not is_row(rows, start):
        return
    segment, end = segment_of_row(rows, start), place_of_row(rows, start) + length
    if segment.flags & CONSECUTIVE == 0 or end > segment.end:
        really_prefetch_l2(number_place(&rows.streams[segment.stream], min(end, segment.end) - 1))


cdef inline void list_numbers(
    const Stream* stream, const Segment* segment, int64_t first, int64_t number, Py_ssize_t num, int64_t* numbers
) noexcept nogil:
    """Writes the numbers of the rows at `num` places of the stream, which are ascending. The first of these places is
    in the segment, and `number` is its row."""
    cdef Py_ssize_t j
    if (segment.flags & CONSECUTIVE and first + num <= segment.end) or (
        number_at(stream, first + num - 1) - number == num - 1
    ):
        for j in range(num):
            numbers[j] = number + j
        return
    for j in range(num):
        numbers[j] = number_at(stream, first + j)


cdef inline int64_t step_on(const Trajectories* rows, int64_t number, int64_t by) noexcept nogil:
    """Number of the row so many steps on in the same segment, or back; -1 if none is held there."""
    cdef const Segment* segment
    cdef int64_t place
    if not is_row(rows, number):
        return -1
    segment, place = segment_of_row(rows, number), place_of_row(rows, number) + by
    if not max(segment.begin, rows.streams[segment.stream].first) <= place < segment.end:
        return -1
    return number_at(&rows.streams[segment.stream], place)
