"""Rows that were removed before they were evicted: draws and indices by age go on as if they had never been put.

A row that is left has a rank, its age among the rows that are left. Until a row is removed, nothing here takes time.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from numpy.random cimport bitgen_t

from bounded_random cimport DRAW_BLOCK, draw
from row_set cimport (
    WORD,
    RowSet,
    add_row,
    allocate_row_set,
    discard_row,
    free_row_set,
    has_row,
    rank_of_slot,
    row_set_nbytes,
    to_slots,
)

cdef extern from "left_rows.h" nogil:
    size_t really_keep_left(
        const uint64_t* words, int64_t oldest, int64_t to_wrap, const int64_t* ages, size_t num, int64_t* left,
        size_t most
    ) noexcept

cdef enum:
    LEFT_BLOCK = 4 * DRAW_BLOCK  # ages drawn at a time

cdef struct Removed:
    bint any  # whether a row that is held is removed; if not, the rest is unused
    int64_t capacity
    int64_t oldest  # numbers of the rows that `left` knows: from this one
    int64_t newest  # to before this one
    RowSet left  # slots number % capacity of the rows that are held and not removed


cdef inline void free_removed(Removed* removed) noexcept nogil:
    if removed.left.words != NULL:
        free_row_set(&removed.left)


cdef inline void forget_removed(Removed* removed) noexcept nogil:
    """Makes all rows rows that are left."""
    removed.any = False


cdef inline void follow_rows(Removed* removed, int64_t oldest, int64_t newest) noexcept nogil:
    """Takes in the rows that were put and evicted; those held are from `oldest` to before `newest`."""
    cdef int64_t number
    if oldest >= removed.newest or oldest < removed.oldest or newest < removed.newest:
        removed.any = False
        return
    for number in range(removed.oldest, oldest):
        discard_row(&removed.left, number % removed.capacity)
    for number in range(removed.newest, newest):
        add_row(&removed.left, number % removed.capacity)
    removed.oldest, removed.newest = oldest, newest
    removed.any = removed.left.num < newest - oldest


cdef inline bint start_removing(Removed* removed, int64_t capacity, int64_t oldest, int64_t newest) noexcept nogil:
    """Makes `left` the set of all rows held, unless a row is removed already. Returns False if there is no memory."""
    cdef int64_t number
    if removed.any:
        return True
    if removed.left.words == NULL:
        if not allocate_row_set(&removed.left, capacity):
            return False
        removed.capacity = capacity
    memset(removed.left.words, 0, row_set_nbytes(&removed.left))
    removed.left.num = 0
    for number in range(oldest, newest):
        add_row(&removed.left, number % capacity)
    removed.oldest, removed.newest = oldest, newest
    return True


cdef inline int64_t remove_rows(Removed* removed, const int64_t* numbers, Py_ssize_t num) noexcept nogil:
    """Removes those of the rows that are left, after `start_removing`; returns how many."""
    cdef Py_ssize_t i
    cdef int64_t num_removed = 0
    for i in range(num):
        if removed.oldest <= numbers[i] < removed.newest:
            num_removed += discard_row(&removed.left, numbers[i] % removed.capacity)
    removed.any = removed.left.num < removed.newest - removed.oldest
    return num_removed


cdef inline bint is_removed(const Removed* removed, int64_t number) noexcept nogil:
    """Whether a row that is held is removed."""
    return removed.any and not has_row(&removed.left, number % removed.capacity)


cdef inline void draw_left(bitgen_t* source, const Removed* removed, int64_t* ages, Py_ssize_t num) noexcept nogil:
    """Uniform ages of rows that are left."""
    cdef Py_ssize_t filled = 0
    while filled < num:
        filled += draw_some_left(source, removed, ages + filled, num - filled)


cdef inline Py_ssize_t draw_some_left(
    bitgen_t* source, const Removed* removed, int64_t* ages, Py_ssize_t most
) noexcept nogil:
    """The next of at most `most` uniform ages of rows that are left; returns how many, perhaps none.

    Draws ages of all rows and drops those of removed rows: rejection sampling, which is exact.
    """
    cdef int64_t oldest = removed.oldest % removed.capacity
    cdef int64_t[LEFT_BLOCK] drawn
    cdef Py_ssize_t num = min(most + most // 8 + 8, <Py_ssize_t>LEFT_BLOCK)  # some more, so that few are missing then
    drawn[0] = 0  # a compiler that does not see that `draw` writes what is read would warn
    draw(source, removed.newest - removed.oldest, drawn, num)
    return really_keep_left(removed.left.words, oldest, removed.capacity - oldest, drawn, num, ages, most)


cdef inline void to_ages(const Removed* removed, int64_t* ranks, Py_ssize_t num) noexcept nogil:
    """Replaces ranks by ages."""
    cdef int64_t oldest = removed.oldest % removed.capacity
    cdef int64_t before = rank_of_slot(&removed.left, oldest)  # rows left in slots before that of the oldest row
    cdef Py_ssize_t i
    for i in range(num):
        ranks[i] += before if ranks[i] + before < removed.left.num else before - removed.left.num
    to_slots(&removed.left, ranks, num)
    for i in range(num):
        ranks[i] += -oldest if ranks[i] >= oldest else removed.capacity - oldest


cdef inline void to_ranks(const Removed* removed, int64_t* ages, Py_ssize_t num) noexcept nogil:
    """Replaces the ages of rows that are left by their ranks."""
    cdef int64_t before = rank_of_slot(&removed.left, removed.oldest % removed.capacity), rank
    cdef Py_ssize_t i
    for i in range(num):
        rank = rank_of_slot(&removed.left, (removed.oldest + ages[i]) % removed.capacity) - before
        ages[i] = rank if rank >= 0 else rank + removed.left.num
