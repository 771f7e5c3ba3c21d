"""Starts: the rows that a draw may choose, so that each of them is equally likely.

A start is a row from which a window of enough steps goes on, or the first row of a whole episode, or any row of one.
Barred rows are never starts. A set of bits holds the starts, and follows each row that is put, evicted or loses the row
before it.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from row_set cimport RowSet, add_row, discard_row, has_row, list_slots, row_set_nbytes, to_slots
from segments cimport (
    ENDED,
    ORIGIN,
    REMOVED,
    STARTS,
    JOINED,
    Segment,
    Stream,
    Trajectories,
    begins_episode,
    end_of_run,
    evict_oldest,
    forget_all,
    number_at,
    segment_of_row,
    slot_of,
)

cdef enum Rule:
    WINDOWS = 0  # rows from which a window has `least` steps, or `least_from_first` from an episode's first row on
    EPISODES = 1  # first rows of whole episodes
    STEPS = 2  # all rows of whole episodes

cdef struct Starts:
    RowSet rows  # slots
    bint bars  # whether rows may be barred; if not, the next is unused
    RowSet barred  # slots of rows that are no starts, whatever follows them
    int rule
    int64_t least
    int64_t least_from_first  # 1 or `least`
    bint joins  # windows go on in the next episode
    int64_t log_from  # rows before this number that become starts, or are no longer, are logged
    int64_t* log  # [log_room], their numbers
    int64_t num_logged
    int64_t log_room
    bint log_is_incomplete


cdef inline void log_change(Starts* starts, int64_t number) noexcept nogil:
    """Logs a row that became a start or is none any more. Without memory for that, the log is incomplete."""
    cdef int64_t* log
    if number >= starts.log_from:
        return
    if starts.num_logged == starts.log_room:
        log = <int64_t*>realloc(starts.log, (2 * starts.log_room + 64) * sizeof(int64_t))
        if log == NULL:
            starts.log_is_incomplete = True
            return
        starts.log, starts.log_room = log, 2 * starts.log_room + 64
    starts.log[starts.num_logged] = number
    starts.num_logged += 1


cdef inline void mark(Starts* starts, const Trajectories* rows, const Segment* segment, int64_t place) noexcept nogil:
    """Makes the row at this place of the segment's stream a start, if it is held and not barred."""
    cdef int64_t number
    if place < rows.streams[segment.stream].first:
        return
    number = number_at(&rows.streams[segment.stream], place)
    if starts.bars and has_row(&starts.barred, slot_of(rows, number)):
        return
    if add_row(&starts.rows, slot_of(rows, number)):
        log_change(starts, number)


cdef inline void unmark(Starts* starts, const Trajectories* rows, const Segment* segment, int64_t place) noexcept nogil:
    cdef int64_t number
    if place < rows.streams[segment.stream].first:
        return
    number = number_at(&rows.streams[segment.stream], place)
    if discard_row(&starts.rows, slot_of(rows, number)):
        log_change(starts, number)


cdef inline void bar(Starts* starts, const Trajectories* rows, int64_t number, bint is_barred) noexcept nogil:
    """Records whether the next row is barred."""
    if is_barred:
        add_row(&starts.barred, slot_of(rows, number))
    else:
        discard_row(&starts.barred, slot_of(rows, number))


cdef inline void mark_after_append(Starts* starts, const Trajectories* rows, const Segment* segment) noexcept nogil:
    """Marks the rows that become starts with the newest row of this segment."""
    cdef int64_t newest = segment.end - 1, place
    cdef const Stream* stream = &rows.streams[segment.stream]
    if segment.flags & REMOVED:
        return
    if starts.rule == WINDOWS:
        place = newest - (starts.least - 1)
        if place >= stream.run_begin:
            mark(starts, rows, segment, place)
        if newest - (starts.least_from_first - 1) == segment.begin and begins_episode(rows, segment):
            mark_up_to_first_step(starts, rows, segment)
    elif segment.flags & ENDED and begins_episode(rows, segment) and segment.begin >= stream.first:
        for place in range(segment.begin, segment.end if starts.rule == STEPS else segment.begin + 1):
            mark(starts, rows, segment, place)


cdef inline void mark_up_to_first_step(
    Starts* starts, const Trajectories* rows, const Segment* segment
) noexcept nogil:
    """Marks the first row of the segment, with which an episode begins, and rows whose windows go on up to it.

    Such rows of earlier segments are starts already, because of the first row of the segment before.
    """
    cdef int64_t place, first = segment.begin
    if starts.joins and segment.flags & JOINED:
        first = segment_of_row(rows, number_at(&rows.streams[segment.stream], first - 1)).begin
    for place in range(max(first, segment.end - starts.least), segment.begin + 1):
        mark(starts, rows, segment, place)


cdef inline void unmark_without_start(Starts* starts, const Trajectories* rows, const Segment* segment) noexcept nogil:
    """Unmarks the rows that are starts only because the segment begins an episode, which is no longer known."""
    cdef int64_t place, least_end = segment.begin + starts.least
    if starts.rule == WINDOWS:
        if starts.least_from_first < starts.least and segment.end < least_end and segment.end == end_of_run(
            rows, segment, starts.joins, least_end
        ):
            unmark(starts, rows, segment, segment.begin)
        return
    for place in range(max(segment.begin, rows.streams[segment.stream].first), segment.end):
        unmark(starts, rows, segment, place)


cdef inline void lose_start(Starts* starts, Trajectories* rows, Segment* segment) noexcept nogil:
    segment.flags &= ~<int64_t>(STARTS | ORIGIN | JOINED)
    unmark_without_start(starts, rows, segment)


cdef inline void evict_before(Starts* starts, Trajectories* rows, int64_t oldest) noexcept nogil:
    """Evicts the rows before this number."""
    cdef Segment* segment
    cdef Segment* after
    if oldest >= rows.newest:
        forget_all(rows, oldest)
        memset(starts.rows.words, 0, row_set_nbytes(&starts.rows))
        starts.rows.num = 0
        return
    if rows.oldest == 0 and oldest > 0:
        lose_origins(starts, rows)
    while rows.oldest < oldest:
        segment = segment_of_row(rows, rows.oldest)
        discard_row(&starts.rows, slot_of(rows, rows.oldest))
        if starts.rule == STEPS and segment.flags & ENDED and rows.streams[segment.stream].first == segment.begin:
            unmark_without_start(starts, rows, segment)
        after = evict_oldest(rows)
        if after != NULL:
            lose_start(starts, rows, after)


cdef inline void lose_origins(Starts* starts, Trajectories* rows) noexcept nogil:
    """With the first eviction it is no longer known that the agents' first rows begin episodes."""
    cdef int64_t i
    cdef Segment* segment
    for i in range(rows.num_streams):
        if rows.streams[i].first < rows.streams[i].end:
            segment = segment_of_row(rows, number_at(&rows.streams[i], rows.streams[i].first))
            if segment.flags & ORIGIN:
                lose_start(starts, rows, segment)


cdef inline void to_starts(const Starts* starts, const Trajectories* rows, int64_t* ranks, Py_ssize_t num) noexcept nogil:
    """Replaces ranks, from 0 to before `starts.rows.num`, by the numbers of the starts that have them."""
    cdef Py_ssize_t i
    to_slots(&starts.rows, ranks, num)
    for i in range(num):
        ranks[i] = number_in_slot(rows, ranks[i])


cdef inline void list_starts(const Starts* starts, const Trajectories* rows, int64_t* numbers) noexcept nogil:
    """Writes the numbers of all starts, ascending."""
    cdef Py_ssize_t i
    list_slots(&starts.rows, slot_of(rows, rows.oldest), numbers)
    for i in range(starts.rows.num):
        numbers[i] = number_in_slot(rows, numbers[i])


cdef inline int64_t number_in_slot(const Trajectories* rows, int64_t slot) noexcept nogil:
    cdef int64_t number = rows.origin + slot
    return number if number >= rows.oldest else number + rows.capacity
