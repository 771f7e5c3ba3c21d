"""Goals of hindsight: the step of a row's episode after which its goal is achieved."""

from libc.stdint cimport int64_t

from segments cimport Segment, Stream, Trajectories, is_row, number_at, place_of_row, segment_of_row

cdef enum Strategy:
    FUTURE = 0  # any step from the row's own on
    FINAL = 1  # the last step
    EPISODE = 2  # any step


cdef inline int64_t goal_row(
    const Trajectories* rows, int64_t number, int strategy, double part
) noexcept nogil:
    """Number of the row of that step, of which `part`, from 0 to below 1, chooses one; -1 if the row is not held."""
    cdef const Segment* segment
    cdef const Stream* stream
    cdef int64_t first, place
    if not is_row(rows, number):
        return -1
    segment, place = segment_of_row(rows, number), place_of_row(rows, number)
    stream = &rows.streams[segment.stream]
    first = max(segment.begin, stream.first)
    if strategy == FUTURE:
        place += <int64_t>((segment.end - place) * part)
    elif strategy == EPISODE:
        place = first + <int64_t>((segment.end - first) * part)
    else:
        place = segment.end - 1
    return number_at(stream, place)
