"""Streams and segments: which row follows which row of one agent, in whatever chunks they came.

A stream is all rows of one agent, by their numbers, in order. A segment is a part of a stream in which each row follows
the row before it within one episode. It ends where the episode ends, where a row is removed, and where the next row's
state is not the one that the row before led to, because rows between them are lost.

Everything here follows from the rows that are held, so that it is the same after a buffer is saved and read.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from memory cimport really_pages_release, really_pages_reserve, really_prefetch_l2

cdef enum Flags:  # of a segment
    STARTS = 1  # its first row begins an episode: the row before it is held and ends one
    ORIGIN = 2  # its first row is the agent's first one; it begins an episode as long as no row was evicted
    ENDED = 4  # its last row ends an episode
    JOINED = 8  # it goes on where the segment before it in the stream ended
    REMOVED = 16  # its one row is removed
    NO_ROWS = 32  # all of its rows are evicted
    CONSECUTIVE = 64  # the numbers of its rows are consecutive: no other agent's row came between

cdef struct Segment:
    int64_t stream
    int64_t begin  # place in the stream of its first row, held or not
    int64_t end  # place after its last row
    int64_t flags

cdef struct Stream:  # of one agent
    int64_t* numbers  # [room], number of the row at place p at p % room
    int64_t room  # a power of two, or 0
    int64_t first  # place of the oldest row held
    int64_t end  # place of the row to come
    int64_t run_begin  # place from which on the rows can be in one window with the newest
    int64_t newest  # scratch: number of the newest row, counting rows that are not appended yet

cdef struct RowPlace:  # on one cache line, since starts are anywhere
    uint32_t segment  # modulo 2**32
    uint32_t step  # rows before it in its segment

cdef struct Trajectories:
    int64_t capacity
    int64_t oldest  # number of the oldest row held
    int64_t newest  # number of the row to come
    int64_t origin  # number of a row in slot 0, held or not, so that the oldest row is at most `capacity` - 1 behind it
    RowPlace* places  # [capacity], of the row in each slot
    Segment* segments  # [segment_room], segment i at i % segment_room
    int64_t segment_room  # a power of two
    int64_t first_segment
    int64_t next_segment
    Stream* streams  # [num_streams]
    int64_t num_streams


cdef inline bint allocate_trajectories(Trajectories* rows, int64_t capacity) noexcept nogil:
    """Returns False if there is no memory."""
    rows.capacity, rows.segment_room = capacity, 64
    rows.places = <RowPlace*>really_pages_reserve(capacity * sizeof(RowPlace))
    rows.segments = <Segment*>calloc(rows.segment_room, sizeof(Segment))
    return rows.places != NULL and rows.segments != NULL


cdef inline void free_trajectories(Trajectories* rows) noexcept nogil:
    cdef int64_t i
    for i in range(rows.num_streams):
        free(rows.streams[i].numbers)
    free(rows.streams)
    free(rows.segments)
    really_pages_release(rows.places, rows.capacity * sizeof(RowPlace))


cdef inline bint is_row(const Trajectories* rows, int64_t number) noexcept nogil:
    return rows.oldest <= number < rows.newest


cdef inline int64_t slot_of(const Trajectories* rows, int64_t number) noexcept nogil:
    """The slot of a row that is held, or of the row to come, without a division."""
    cdef int64_t slot = number - rows.origin
    return slot if slot < rows.capacity else slot - rows.capacity


cdef inline Segment* segment_at(const Trajectories* rows, int64_t segment) noexcept nogil:
    return &rows.segments[segment & (rows.segment_room - 1)]


cdef inline Segment* segment_of_row(const Trajectories* rows, int64_t number) noexcept nogil:
    cdef uint32_t after = rows.places[slot_of(rows, number)].segment - <uint32_t>rows.first_segment
    return segment_at(rows, rows.first_segment + after)


cdef inline void prefetch_row(const Trajectories* rows, int64_t number) noexcept nogil:
    """Prefetches what `segment_of_row` and `place_of_row` read of the row, held or not."""
    if is_row(rows, number):
        really_prefetch_l2(<const char*>&rows.places[slot_of(rows, number)])


cdef inline int64_t place_of_row(const Trajectories* rows, int64_t number) noexcept nogil:
    """The row's place in its stream."""
    return segment_of_row(rows, number).begin + rows.places[slot_of(rows, number)].step


cdef inline const int64_t* number_place(const Stream* stream, int64_t place) noexcept nogil:
    return &stream.numbers[place & (stream.room - 1)]


cdef inline int64_t number_at(const Stream* stream, int64_t place) noexcept nogil:
    return number_place(stream, place)[0]


cdef inline bint begins_episode(const Trajectories* rows, const Segment* segment) noexcept nogil:
    """Whether the first row of the segment is known to be the first one of an episode."""
    return segment.flags & STARTS or (segment.flags & ORIGIN and rows.oldest == 0)


cdef inline int64_t last_number(const Trajectories* rows, int64_t stream) noexcept nogil:
    """Number of the stream's newest row; -1 if none is held."""
    if stream >= rows.num_streams or rows.streams[stream].first == rows.streams[stream].end:
        return -1
    return number_at(&rows.streams[stream], rows.streams[stream].end - 1)


cdef inline int64_t end_of_run(const Trajectories* rows, const Segment* segment, bint joins, int64_t most) noexcept nogil:
    """Place after the last row that a window from this segment on can have; with `joins`, episodes that follow are
    looked at as long as the place is below `most`."""
    cdef const Stream* stream = &rows.streams[segment.stream]
    cdef int64_t end = segment.end
    while joins and end < most and end < stream.end:
        segment = segment_of_row(rows, number_at(stream, end))
        if not segment.flags & JOINED:
            break
        end = segment.end
    return end


cdef inline Segment* append_row(
    Trajectories* rows, int64_t stream_number, bint ends, bint follows, bint removed, bint joins
) noexcept nogil:
    """Appends row `newest` to its stream. Returns its segment, or NULL if there is no memory."""
    cdef Stream* stream
    cdef Segment* segment
    cdef int64_t before, number = rows.newest
    if not has_room(rows, stream_number):
        return NULL
    stream = &rows.streams[stream_number]
    before = -1 if stream.first == stream.end else number_at(stream, stream.end - 1)
    segment = NULL if before < 0 else segment_of_row(rows, before)
    if segment == NULL or segment.flags & (ENDED | REMOVED) or removed or not follows:
        segment = new_segment(rows, stream_number, segment, removed)
        if not (joins and segment.flags & JOINED):
            stream.run_begin = stream.end
    elif before != number - 1:
        segment.flags &= ~<int64_t>CONSECUTIVE
    rows.places[slot_of(rows, number)].segment = <uint32_t>(rows.next_segment - 1)
    if before >= 0 and segment.begin < stream.end:
        rows.places[slot_of(rows, number)].segment = rows.places[slot_of(rows, before)].segment
    rows.places[slot_of(rows, number)].step = <uint32_t>(stream.end - segment.begin)
    stream.numbers[stream.end & (stream.room - 1)] = number
    stream.end += 1
    segment.end = stream.end
    segment.flags |= ENDED if ends else 0
    rows.newest += 1
    return segment


cdef inline Segment* new_segment(
    Trajectories* rows, int64_t stream, const Segment* before, bint removed
) noexcept nogil:
    """A segment at the end of the stream, whose newest segment is `before`, or NULL. `has_room` has made room."""
    cdef Segment* segment = segment_at(rows, rows.next_segment)
    cdef int64_t flags = CONSECUTIVE | (REMOVED if removed else 0)
    if before == NULL:
        flags |= ORIGIN if rows.oldest == 0 else 0
    elif before.flags & ENDED:
        flags |= STARTS
        flags |= 0 if removed or before.flags & REMOVED else JOINED
    segment.stream, segment.begin, segment.flags = stream, rows.streams[stream].end, flags
    rows.next_segment += 1
    return segment


cdef inline bint has_room(Trajectories* rows, int64_t stream) noexcept nogil:
    """Makes room for one more row of the stream, and for a segment. Returns False if there is no memory."""
    return (
        (stream < rows.num_streams or add_streams(rows, stream))
        and (rows.streams[stream].end - rows.streams[stream].first < rows.streams[stream].room
             or grow_stream(&rows.streams[stream]))
        and (rows.next_segment - rows.first_segment < rows.segment_room or make_room_for_segments(rows))
    )


cdef inline bint add_streams(Trajectories* rows, int64_t stream) noexcept nogil:
    cdef int64_t num = max(2 * rows.num_streams, stream + 1)
    cdef Stream* streams = <Stream*>calloc(num, sizeof(Stream))
    if streams == NULL:
        return False
    if rows.num_streams > 0:
        memcpy(streams, rows.streams, rows.num_streams * sizeof(Stream))
    free(rows.streams)
    rows.streams, rows.num_streams = streams, num
    return True


cdef inline bint grow_stream(Stream* stream) noexcept nogil:
    cdef int64_t room = max(2 * stream.room, <int64_t>64), place
    cdef int64_t* numbers = <int64_t*>calloc(room, sizeof(int64_t))
    if numbers == NULL:
        return False
    for place in range(stream.first, stream.end):
        numbers[place & (room - 1)] = number_at(stream, place)
    free(stream.numbers)
    stream.numbers, stream.room = numbers, room
    return True


cdef inline bint make_room_for_segments(Trajectories* rows) noexcept nogil:
    """Drops the segments without rows behind one that has some, or doubles the room. Returns False without memory.

    The first segment with rows may be of an agent whose episode never ends. To drop the others takes a look at every
    row, so the room grows to a quarter of the rows first, and always if fewer than half of the segments can be dropped.
    """
    if 4 * rows.segment_room >= rows.newest - rows.oldest and 2 * num_with_rows(rows) <= rows.segment_room:
        drop_segments_without_rows(rows)
        return True
    return grow_segments(rows)


cdef inline int64_t num_with_rows(const Trajectories* rows) noexcept nogil:
    cdef int64_t i, num = 0
    for i in range(rows.first_segment, rows.next_segment):
        num += not segment_at(rows, i).flags & NO_ROWS
    return num


cdef inline void drop_segments_without_rows(Trajectories* rows) noexcept nogil:
    """Renumbers the segments that have rows, in their order."""
    cdef int64_t i, place, next_segment = rows.first_segment
    cdef const Segment* segment
    cdef const Stream* stream
    for i in range(rows.first_segment, rows.next_segment):
        segment = segment_at(rows, i)
        if segment.flags & NO_ROWS:
            continue
        if i > next_segment:
            stream = &rows.streams[segment.stream]
            for place in range(max(segment.begin, stream.first), segment.end):
                rows.places[slot_of(rows, number_at(stream, place))].segment = <uint32_t>next_segment
            segment_at(rows, next_segment)[0] = segment[0]
        next_segment += 1
    rows.next_segment = next_segment


cdef inline bint grow_segments(Trajectories* rows) noexcept nogil:
    cdef int64_t room = 2 * rows.segment_room, i
    cdef Segment* segments = <Segment*>calloc(room, sizeof(Segment))
    if segments == NULL:
        return False
    for i in range(rows.first_segment, rows.next_segment):
        segments[i & (room - 1)] = segment_at(rows, i)[0]
    free(rows.segments)
    rows.segments, rows.segment_room = segments, room
    return True


cdef inline bint release_if_empty(Stream* stream) noexcept nogil:
    """Releases the memory of a stream without rows, which may be another agent's then. Returns whether it has none."""
    if stream.first < stream.end:
        return False
    free(stream.numbers)
    stream.numbers, stream.room = NULL, 0
    return True


cdef inline Segment* evict_oldest(Trajectories* rows) noexcept nogil:
    """Evicts row `oldest`. Returns the segment that so loses the row before its first one, or NULL."""
    cdef Segment* segment = segment_of_row(rows, rows.oldest)
    cdef Segment* after = NULL
    cdef Stream* stream = &rows.streams[segment.stream]
    stream.first += 1
    rows.oldest += 1
    if rows.oldest - rows.origin == rows.capacity:
        rows.origin = rows.oldest
    if stream.first == segment.end:
        segment.flags |= NO_ROWS
        if stream.first < stream.end:
            after = segment_of_row(rows, number_at(stream, stream.first))
    while rows.first_segment < rows.next_segment and segment_at(rows, rows.first_segment).flags & NO_ROWS:
        rows.first_segment += 1
    return after


cdef inline void forget_all(Trajectories* rows, int64_t oldest) noexcept nogil:
    """Drops all rows; the next one is `oldest`."""
    cdef int64_t i
    for i in range(rows.num_streams):
        rows.streams[i].first = rows.streams[i].end
    rows.first_segment = rows.next_segment
    rows.oldest = rows.newest = oldest
    rows.origin = oldest - oldest % rows.capacity
