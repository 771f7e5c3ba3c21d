"""Which rows a tree holds, and in which slots: row `number` is in slot number % capacity while it is held."""

from libc.stdint cimport int64_t

from sums cimport Sums, put_range, set_range

cdef struct Window:
    int64_t capacity
    int64_t oldest  # number of the oldest row held
    int64_t newest  # number of the next row
    int64_t lap_start  # number of slot 0's row in the lap of the next row
    double* hidden  # [capacity], values of the rows that `hide_from` hides


cdef inline void set_bounds(Window* window, int64_t oldest, int64_t newest) noexcept nogil:
    window.oldest, window.newest = oldest, newest
    window.lap_start = newest - newest % window.capacity


cdef inline int64_t slot_of_row(const Window* window, int64_t number) noexcept nogil:
    """Slot of a row that is held."""
    cdef int64_t slot = number - window.lap_start
    return slot if slot >= 0 else slot + window.capacity


cdef inline int64_t row_in_slot(const Window* window, int64_t slot) noexcept nogil:
    cdef int64_t number = window.lap_start + slot
    return number if number < window.newest else number - window.capacity


cdef inline void admit(Window* window, Sums* tree, int64_t first, int64_t end) noexcept nogil:
    """Makes room for the rows from `first` to before `end`, whose values are set afterwards; evicts the oldest.

    Rows before `first` that were not added get value 0.
    """
    if end > window.newest:
        # The slots of the others get new values at once.
        drop_before(window, tree, min(end, first) - window.capacity)
        set_bounds(window, max(window.oldest, end - window.capacity), end)


cdef inline void drop_before(Window* window, Sums* tree, int64_t oldest) noexcept nogil:
    """Removes the rows before `oldest` for good."""
    if oldest > window.oldest:
        set_rows(window, tree, window.oldest, min(oldest, window.newest), 0.0)
        set_bounds(window, oldest, max(oldest, window.newest))


cdef inline void hide_from(Window* window, Sums* tree, int64_t newest) noexcept nogil:
    """Hides the rows from `newest` on from a draw, until `show_from`."""
    cdef int64_t number, first = max(newest, window.oldest)
    for number in range(first, window.newest):
        window.hidden[number - first] = tree.sums[0][slot_of_row(window, number)]
    set_rows(window, tree, first, window.newest, 0.0)


cdef inline void show_from(Window* window, Sums* tree, int64_t newest) noexcept nogil:
    """Gives the rows that `hide_from` hides their values back."""
    cdef int64_t first = max(newest, window.oldest)
    put_rows(window, tree, first, window.newest, window.hidden)


cdef inline void set_rows(Window* window, Sums* tree, int64_t first, int64_t end, double value) noexcept nogil:
    """Sets the rows from `first` to before `end` to one value."""
    cdef int64_t slot, num_behind
    if first < end:
        slot = slot_of_row(window, first)
        num_behind = min(end - first, window.capacity - slot)
        set_range(tree, slot, slot + num_behind, value)
        set_range(tree, 0, end - first - num_behind, value)


cdef inline void put_rows(Window* window, Sums* tree, int64_t first, int64_t end, const double* values) noexcept nogil:
    """Sets the rows from `first` to before `end` to these values."""
    cdef int64_t slot, num_behind
    if first < end:
        slot = slot_of_row(window, first)
        num_behind = min(end - first, window.capacity - slot)
        put_range(tree, slot, slot + num_behind, values)
        put_range(tree, 0, end - first - num_behind, values + num_behind)
