"""Rows in groups, such as those of one task, from which samplers draw."""

from libc.math cimport nextafter
from libc.stdint cimport int64_t

from bounded_random cimport as_part

cdef struct Groups:  # each group is a ring of its own in `rows`
    const int64_t* first  # [group], place of the oldest row in its ring
    const int64_t* counts  # [group], rows
    const int64_t* base  # [group], where its ring begins
    const int64_t* sizes  # [group], of its ring, a power of two
    const int64_t* rows  # numbers


cdef inline int64_t row_in_group(const Groups* groups, int64_t group, int64_t place) noexcept nogil:
    """Number of the row at this place of a group; place 0 is its oldest row."""
    return groups.rows[groups.base[group] + ((groups.first[group] + place) & (groups.sizes[group] - 1))]


cdef inline Py_ssize_t part_of(const double* ends, Py_ssize_t num, double value) noexcept nogil:
    """How many of the ascending `ends` are at most the value."""
    cdef Py_ssize_t low = 0, middle
    while low < num:
        middle = (low + num) // 2
        if ends[middle] <= value:
            low = middle + 1
        else:
            num = middle
    return low


cdef inline void draw_of_strata(
    const Groups* groups, const int64_t* strata, const double* ends, Py_ssize_t num_ends, double start,
    const int64_t* drawn, Py_ssize_t num, int64_t* out
) noexcept nogil:
    """Draws `num` rows: the places of a comb, from `start` / num on, choose their strata, and `drawn` the rows."""
    cdef Py_ssize_t i
    cdef int64_t group
    for i in range(num):
        group = strata[part_of(ends, num_ends, (i + start) / num)]
        out[i] = row_in_group(groups, group, <int64_t>(as_part(drawn[i]) * groups.counts[group]))


cdef inline void draw_by_weight(
    const Groups* groups, const double* weights, const double* ends, Py_ssize_t num_groups, const int64_t* drawn,
    Py_ssize_t num, int64_t* out
) noexcept nogil:
    """Draws `num` rows by the weight that each row of a group has; `ends` are the sums of the groups' weights."""
    cdef Py_ssize_t i
    cdef int64_t group, place
    cdef double total = ends[num_groups - 1], wanted
    for i in range(num):
        wanted = min(as_part(drawn[i]) * total, nextafter(total, 0.0))
        group = part_of(ends, num_groups, wanted)
        place = <int64_t>(groups.counts[group] - (ends[group] - wanted) / weights[group])
        out[i] = row_in_group(groups, group, max(min(place, groups.counts[group] - 1), <int64_t>0))
