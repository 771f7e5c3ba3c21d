"""Rows in groups, such as those of one task, from which samplers draw."""

from libc.math cimport nextafter
from libc.stdint cimport int64_t

from bounded_random cimport DRAW_BLOCK, as_part

cdef struct Groups:  # each group is a ring of its own in `rows`
    const int64_t* first  # [group], place of the oldest row in its ring
    const int64_t* counts  # [group], rows
    const int64_t* base  # [group], where its ring begins
    const int64_t* sizes  # [group], of its ring, a power of two
    const int64_t* rows  # numbers


cdef inline int64_t row_in_group(const Groups* groups, int64_t group, int64_t place) noexcept nogil:
    """Number of the row at this place of a group; place 0 is its oldest row."""
    return groups.rows[groups.base[group] + ((groups.first[group] + place) & (groups.sizes[group] - 1))]


cdef inline void find_parts(
    const double* ends, Py_ssize_t num_ends, const double* values, int64_t* parts, Py_ssize_t num
) noexcept nogil:
    """For each value, how many of the ascending `ends` are at most it.

    A binary search for all values at once: steps for one value depend on each other, those for different values do not.
    """
    cdef Py_ssize_t half, i
    for i in range(num):
        parts[i] = 0
    while num_ends > 0:
        half = (num_ends + 1) // 2
        for i in range(num):
            parts[i] += half * (ends[parts[i] + half - 1] <= values[i])
        num_ends -= half


cdef inline void draw_of_strata(
    const Groups* groups, const int64_t* strata, const double* ends, Py_ssize_t num_ends, double start,
    const int64_t* drawn, Py_ssize_t num, int64_t* out
) noexcept nogil:
    """Draws `num` rows: the places of a comb, from `start` / num on, choose their strata, and `drawn` the rows."""
    cdef double[DRAW_BLOCK] places
    cdef int64_t[DRAW_BLOCK] parts
    cdef Py_ssize_t first = 0, size, i
    cdef int64_t group
    while first < num:
        size = min(num - first, <Py_ssize_t>DRAW_BLOCK)
        for i in range(size):
            places[i] = (first + i + start) / num
        find_parts(ends, num_ends, places, parts, size)
        for i in range(size):
            group = strata[parts[i]]
            out[first + i] = row_in_group(groups, group, <int64_t>(as_part(drawn[first + i]) * groups.counts[group]))
        first += size


cdef inline void draw_by_weight(
    const Groups* groups, const double* weights, const double* ends, Py_ssize_t num_groups, const int64_t* drawn,
    Py_ssize_t num, int64_t* out
) noexcept nogil:
    """Draws `num` rows by the weight that each row of a group has; `ends` are the sums of the groups' weights."""
    cdef double total = ends[num_groups - 1], most = nextafter(total, 0.0)
    cdef double[DRAW_BLOCK] wanted
    cdef int64_t[DRAW_BLOCK] parts
    cdef Py_ssize_t first = 0, size, i
    cdef int64_t group, place
    while first < num:
        size = min(num - first, <Py_ssize_t>DRAW_BLOCK)
        for i in range(size):
            wanted[i] = min(as_part(drawn[first + i]) * total, most)
        find_parts(ends, num_groups, wanted, parts, size)
        for i in range(size):
            group = parts[i]
            place = <int64_t>(groups.counts[group] - (ends[group] - wanted[i]) / weights[group])
            out[first + i] = row_in_group(groups, group, max(min(place, groups.counts[group] - 1), <int64_t>0))
        first += size
