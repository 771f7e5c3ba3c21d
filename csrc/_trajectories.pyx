"""`TrajectoryIndex`: which row follows which row of one agent, and which rows a draw may start from.

`really.replay.trajectories` is its only user. Reading order: segments.pxd (streams of agents and their segments),
row_set.pxd and starts.pxd (which rows a draw may choose), windows.pxd (steps from a row on), goals.pxd (steps of the
episode of a row), then this file, which makes them a Python class. It has no lock: its user has one.
"""

cimport cython
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport INT64_MIN, int64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from bounded_random cimport as_part
from goals cimport EPISODE, FINAL, FUTURE, goal_row
from row_set cimport allocate_row_set, free_row_set, has_row, row_set_nbytes
from segments cimport (
    ENDED,
    NO_ROWS,
    REMOVED,
    Segment,
    Trajectories,
    allocate_trajectories,
    append_row,
    begins_episode,
    forget_all,
    free_trajectories,
    has_room,
    is_row,
    last_number,
    number_at,
    place_of_row,
    release_if_empty,
    segment_at,
    segment_of_row,
    slot_of,
)
from starts cimport EPISODES, STEPS, WINDOWS, Starts, bar, evict_before, list_starts, mark_after_append, to_starts
from window_batch cimport TrajectoryParts
from windows cimport Window, fill_window, step_on

cnp.import_array()

RULES = {"windows": WINDOWS, "episodes": EPISODES, "steps": STEPS}
"""Name -> which rows are starts (starts.pxd)."""
STRATEGIES = {"future": FUTURE, "final": FINAL, "episode": EPISODE}
"""Name -> which steps of an episode give goals (goals.pxd)."""


def write_rows(cnp.ndarray to not None, cnp.ndarray places not None, cnp.ndarray values not None):
    """`to[places] = values` for int64 places [n] in range, in less time if no value needs conversion."""
    cdef Py_ssize_t i, num = cnp.PyArray_SIZE(places), nbytes
    cdef const int64_t* rows = <const int64_t*>cnp.PyArray_DATA(places)
    cdef char* start = <char*>cnp.PyArray_DATA(to)
    cdef const char* value = <const char*>cnp.PyArray_DATA(values)
    if not cnp.PyArray_ISCARRAY(to) or not cnp.PyArray_ISCARRAY_RO(values) or not has_rows_of(to, values, num):
        to[places] = values
        return
    nbytes = cnp.PyArray_NBYTES(values) // num
    for i in range(num):
        memcpy(start + rows[i] * nbytes, value + i * nbytes, nbytes)


cdef bint has_rows_of(cnp.ndarray to, cnp.ndarray values, Py_ssize_t num) except -1:
    """Whether `values` are `num` rows of the dtype and shape of the rows of `to`, and not nothing."""
    cdef int axis
    if not cnp.PyArray_EquivTypes(to.dtype, values.dtype) or cnp.PyArray_NDIM(to) != cnp.PyArray_NDIM(values):
        return False
    if cnp.PyArray_NDIM(to) == 0 or cnp.PyArray_DIM(values, 0) != num or cnp.PyArray_SIZE(values) == 0:
        return False
    for axis in range(1, cnp.PyArray_NDIM(to)):
        if cnp.PyArray_DIM(to, axis) != cnp.PyArray_DIM(values, axis):
            return False
    return True


@cython.final
cdef class TrajectoryIndex:
    """Streams, segments and starts of the newest `capacity` rows, known by their numbers.

    The caller checks arguments, and appends each row once, in order.

    Args:
        capacity: rows held at most.
        rule: of `RULES`.
        least: steps that a window needs.
        least_from_first: steps that a window needs from an episode's first step on: 1, or `least`.
        joins: whether windows go on in the agent's next episode.
        bars: whether rows may be barred from being starts.
    """

    cdef Trajectories rows
    cdef Starts starts
    cdef TrajectoryParts addresses
    cdef readonly object parts  # a capsule of `addresses`, with which a ring makes windows itself

    def __cinit__(
        self, int64_t capacity, int rule, int64_t least, int64_t least_from_first, bint joins, bint bars=False
    ):
        self.addresses.rows, self.addresses.starts = &self.rows, &self.starts
        self.parts = PyCapsule_New(&self.addresses, "really.trajectories", NULL)
        self.starts.rule, self.starts.joins, self.starts.log_from = rule, joins, INT64_MIN
        self.starts.least, self.starts.least_from_first = least, least_from_first
        if not allocate_trajectories(&self.rows, capacity) or not allocate_row_set(&self.starts.rows, capacity):
            raise MemoryError("the index of trajectories: the system gave no memory")
        if bars and not allocate_row_set(&self.starts.barred, capacity):
            raise MemoryError("the index of trajectories: the system gave no memory")
        self.starts.bars = bars

    def __dealloc__(self):
        free_trajectories(&self.rows)
        free_row_set(&self.starts.rows)
        if self.starts.bars:
            free_row_set(&self.starts.barred)
        free(self.starts.log)

    @property
    def oldest(self):
        """Number of the oldest row."""
        return self.rows.oldest

    @property
    def newest(self):
        """Number of the row to come."""
        return self.rows.newest

    @property
    def num_starts(self):
        """How many rows are starts."""
        return self.starts.rows.num

    # In -----------------------------------------------------------------------------------------------------------

    def clear(self, int64_t oldest):
        """Forgets all rows; the next one is `oldest`."""
        forget_all(&self.rows, oldest)
        memset(self.starts.rows.words, 0, row_set_nbytes(&self.starts.rows))
        self.starts.rows.num = self.starts.num_logged = 0

    def evict_before(self, int64_t oldest):
        """Forgets the rows before this number."""
        if oldest > self.rows.oldest:
            evict_before(&self.starts, &self.rows, oldest)

    def take_empty_streams(self, int64_t num):
        """Those of the first `num` streams that have no rows, int64 [n]: they may be other agents' from now on."""
        cdef cnp.npy_intp[1] dims
        cdef int64_t i, num_empty = 0
        dims[0] = num
        cdef cnp.ndarray found = cnp.PyArray_EMPTY(1, dims, cnp.NPY_INT64, 0)
        for i in range(num):
            if i >= self.rows.num_streams or release_if_empty(&self.rows.streams[i]):
                (<int64_t*>cnp.PyArray_DATA(found))[num_empty] = i
                num_empty += 1
        return found[:num_empty]

    def previous(self, const int64_t[::1] streams):
        """For each row to come, whose streams these are, the number of the row before it in its stream, or -1."""
        cdef Py_ssize_t i, num = streams.shape[0]
        cdef cnp.npy_intp[1] dims
        dims[0] = num
        cdef cnp.ndarray found = cnp.PyArray_EMPTY(1, dims, cnp.NPY_INT64, 0)
        cdef int64_t* before = <int64_t*>cnp.PyArray_DATA(found)
        for i in range(num):
            if not has_room(&self.rows, streams[i]):
                raise MemoryError("the index of trajectories: the system gave no memory")
            self.rows.streams[streams[i]].newest = last_number(&self.rows, streams[i])
        for i in range(num):
            before[i] = self.rows.streams[streams[i]].newest
            self.rows.streams[streams[i]].newest = self.rows.newest + i
        return found

    def append(
        self, const int64_t[::1] streams, const cnp.npy_bool[::1] ends, const cnp.npy_bool[::1] follows,
        const cnp.npy_bool[::1] removed, const cnp.npy_bool[::1] barred=None,
    ):
        """Appends rows: the stream of each, whether an episode ends with it, whether it follows the row before it in
        its stream, and whether it is removed. With `bars`, `barred` says which rows are never starts."""
        cdef Py_ssize_t i
        if self.starts.bars and (barred is None or barred.shape[0] != streams.shape[0]):
            raise ValueError("barred: expected a flag for each row")
        cdef Segment* segment
        for i in range(streams.shape[0]):
            if self.starts.bars:
                bar(&self.starts, &self.rows, self.rows.newest, barred[i])
            segment = append_row(&self.rows, streams[i], ends[i], follows[i], removed[i], self.starts.joins)
            if segment == NULL:
                raise MemoryError("the index of trajectories: the system gave no memory")
            mark_after_append(&self.starts, &self.rows, segment)

    def take_log(self, int64_t log_from):
        """Numbers of the rows that became starts, or are no longer, since the last call: int64 [n].

        Only rows before the last call's `log_from` are logged, and rows that were evicted meanwhile may be among them.
        Returns None if the system had no memory for one.
        """
        cdef cnp.npy_intp[1] dims
        cdef bint is_incomplete = self.starts.log_is_incomplete
        self.starts.log_from, self.starts.log_is_incomplete = log_from, False
        dims[0] = self.starts.num_logged
        cdef cnp.ndarray log = cnp.PyArray_EMPTY(1, dims, cnp.NPY_INT64, 0)
        if self.starts.num_logged > 0:
            memcpy(cnp.PyArray_DATA(log), self.starts.log, self.starts.num_logged * sizeof(int64_t))
        self.starts.num_logged = 0
        return None if is_incomplete else log

    # Out ----------------------------------------------------------------------------------------------------------

    def starts_of_ranks(self, cnp.ndarray ranks not None):
        """Numbers of the starts of these ranks, in place: int64 from 0 to before `num_starts`, C-contiguous."""
        to_starts(&self.starts, &self.rows, <int64_t*>cnp.PyArray_DATA(ranks), cnp.PyArray_SIZE(ranks))
        return ranks

    def all_starts(self):
        """Numbers of all starts, int64 [num_starts], ascending."""
        cdef cnp.npy_intp[1] dims
        dims[0] = self.starts.rows.num
        cdef cnp.ndarray found = cnp.PyArray_EMPTY(1, dims, cnp.NPY_INT64, 0)
        list_starts(&self.starts, &self.rows, <int64_t*>cnp.PyArray_DATA(found))
        return found

    def are_starts(self, const int64_t[::1] numbers):
        """Whether the rows of these numbers are held and are starts, bool [n]."""
        cdef cnp.npy_intp[1] dims
        cdef Py_ssize_t i
        dims[0] = numbers.shape[0]
        cdef cnp.ndarray found = cnp.PyArray_EMPTY(1, dims, cnp.NPY_BOOL, 0)
        cdef cnp.npy_bool* flags = <cnp.npy_bool*>cnp.PyArray_DATA(found)
        for i in range(numbers.shape[0]):
            flags[i] = is_row(&self.rows, numbers[i]) and has_row(
                &self.starts.rows, slot_of(&self.rows, numbers[i])
            )
        return found

    def windows(self, const int64_t[::1] starts, Py_ssize_t length, Py_ssize_t burn_in):
        """The windows of `length` steps from these rows on, or None if one of the rows is not held.

        Returns [n, length] each: int64 numbers with -1 for padding, float32 mask, float32 flags of first steps; and
        how many steps are padding.
        """
        cdef cnp.npy_intp[2] dims
        cdef Py_ssize_t i, num, num_padded = 0
        cdef Window window
        dims[0], dims[1] = starts.shape[0], length
        cdef cnp.ndarray numbers = cnp.PyArray_EMPTY(2, dims, cnp.NPY_INT64, 0)
        cdef cnp.ndarray mask = cnp.PyArray_EMPTY(2, dims, cnp.NPY_FLOAT32, 0)
        cdef cnp.ndarray is_first = cnp.PyArray_EMPTY(2, dims, cnp.NPY_FLOAT32, 0)
        for i in range(starts.shape[0]):
            window.numbers = <int64_t*>cnp.PyArray_DATA(numbers) + i * length
            window.mask = <float*>cnp.PyArray_DATA(mask) + i * length
            window.is_first = <float*>cnp.PyArray_DATA(is_first) + i * length
            num = fill_window(&self.rows, starts[i], length, burn_in, self.starts.joins, window)
            if num == 0:
                return None
            num_padded += length - num
        return numbers, mask, is_first, num_padded

    def step_on(self, const int64_t[::1] numbers, const int64_t[::1] by):
        """Numbers of the rows so many steps on (or back) in the same segments, int64 [n]; -1 where none is held."""
        cdef cnp.npy_intp[1] dims
        cdef Py_ssize_t i
        dims[0] = numbers.shape[0]
        cdef cnp.ndarray found = cnp.PyArray_EMPTY(1, dims, cnp.NPY_INT64, 0)
        cdef int64_t* rows = <int64_t*>cnp.PyArray_DATA(found)
        for i in range(numbers.shape[0]):
            rows[i] = step_on(&self.rows, numbers[i], by[i])
        return found

    def steps_around(self, const int64_t[::1] numbers):
        """How many steps of the same segment are held before and after each of these rows, int64 [2, n]; -1 for rows
        that are not held."""
        cdef cnp.npy_intp[2] dims
        cdef Py_ssize_t i, num = numbers.shape[0]
        cdef const Segment* segment
        dims[0], dims[1] = 2, num
        cdef cnp.ndarray found = cnp.PyArray_EMPTY(2, dims, cnp.NPY_INT64, 0)
        cdef int64_t* steps = <int64_t*>cnp.PyArray_DATA(found)
        for i in range(num):
            steps[i] = steps[num + i] = -1
            if is_row(&self.rows, numbers[i]):
                segment = segment_of_row(&self.rows, numbers[i])
                steps[i] = place_of_row(&self.rows, numbers[i]) - max(
                    segment.begin, self.rows.streams[segment.stream].first
                )
                steps[num + i] = segment.end - 1 - place_of_row(&self.rows, numbers[i])
        return found

    def goal_rows(self, const int64_t[::1] numbers, const int64_t[::1] drawn, double k, int strategy):
        """Chooses k in k + 1 of the rows [n], and a step of the episode of each, by 2 n random numbers below 2^53.

        Returns int64 [m] each: places of the chosen rows, and numbers of the rows of the steps; and bool [n], which are
        chosen. Returns None if a chosen row is not held.
        """
        cdef cnp.npy_intp[1] dims
        cdef Py_ssize_t i, num = numbers.shape[0], num_chosen = 0
        dims[0] = num
        cdef cnp.ndarray places = cnp.PyArray_EMPTY(1, dims, cnp.NPY_INT64, 0)
        cdef cnp.ndarray found = cnp.PyArray_EMPTY(1, dims, cnp.NPY_INT64, 0)
        cdef cnp.ndarray flags = cnp.PyArray_EMPTY(1, dims, cnp.NPY_BOOL, 0)
        cdef cnp.npy_bool* are_chosen = <cnp.npy_bool*>cnp.PyArray_DATA(flags)
        cdef int64_t* chosen = <int64_t*>cnp.PyArray_DATA(places)
        cdef int64_t* steps = <int64_t*>cnp.PyArray_DATA(found)
        for i in range(num):  # without a branch, which would be mispredicted
            chosen[num_chosen] = i
            are_chosen[i] = as_part(drawn[i]) * (k + 1) < k
            num_chosen += are_chosen[i]
        for i in range(num_chosen):
            steps[i] = goal_row(&self.rows, numbers[chosen[i]], strategy, as_part(drawn[num + chosen[i]]))
            if steps[i] < 0:
                return None
        return places[:num_chosen], found[:num_chosen], flags

    def sum_segments(self, const double[::1] values):
        """The sum of each segment of `segments`, float64 [n]; `values` are of the rows `oldest` to before `newest`."""
        cdef cnp.npy_intp[1] dims
        cdef int64_t i, place, num = 0
        cdef const Segment* segment
        cdef double total
        dims[0] = self.rows.next_segment - self.rows.first_segment
        cdef cnp.ndarray sums = cnp.PyArray_EMPTY(1, dims, cnp.NPY_FLOAT64, 0)
        for i in range(self.rows.first_segment, self.rows.next_segment):
            segment = segment_at(&self.rows, i)
            if segment.flags & (NO_ROWS | REMOVED):
                continue
            total = 0
            for place in range(max(segment.begin, self.rows.streams[segment.stream].first), segment.end):
                total += values[number_at(&self.rows.streams[segment.stream], place) - self.rows.oldest]
            (<double*>cnp.PyArray_DATA(sums))[num] = total
            num += 1
        return sums[:num]

    def segments(self):
        """The segments that have rows, int64 [n, 6], in the order in which the index began them: numbers of the first
        and of the last row held, how many rows are held, stream, whether the episode's first row is held, whether it
        ended.

        Removed rows are in none.
        """
        cdef cnp.npy_intp[2] dims
        cdef int64_t i, first, num = 0
        cdef const Segment* segment
        cdef int64_t* row
        dims[0], dims[1] = self.rows.next_segment - self.rows.first_segment, 6
        cdef cnp.ndarray found = cnp.PyArray_EMPTY(2, dims, cnp.NPY_INT64, 0)
        for i in range(self.rows.first_segment, self.rows.next_segment):
            segment = segment_at(&self.rows, i)
            if segment.flags & (NO_ROWS | REMOVED):
                continue
            first = max(segment.begin, self.rows.streams[segment.stream].first)
            row = <int64_t*>cnp.PyArray_DATA(found) + 6 * num
            row[0] = number_at(&self.rows.streams[segment.stream], first)
            row[1] = number_at(&self.rows.streams[segment.stream], segment.end - 1)
            row[2], row[3] = segment.end - first, segment.stream
            row[4] = first == segment.begin and begins_episode(&self.rows, segment)
            row[5] = segment.flags & ENDED != 0
            num += 1
        return found[:num]
