"""Whether a row continues an earlier one: its state is, bit for bit, the state that the earlier row led to."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp

from frame_store cimport find_frame
from interleave cimport interleave
from matching cimport MAX_STACK, Sharing
from record cimport Field, Records, oldest_row, oldest_slot, row_at

cdef struct StatePair:
    Py_ssize_t state  # fields
    Py_ssize_t state_new
    int sharing  # which sharing stores the frames of the state; -1 if records hold its rows
    int sharing_new  # likewise of the next state
    Py_ssize_t nbytes  # of a row of each


cdef inline bint continues(
    const Records* records, const Sharing* sharings, const StatePair* pairs, Py_ssize_t num_pairs,
    int64_t before, int64_t number, char* scratch,
) noexcept nogil:
    """Whether row `number` continues row `before`; both are held. `scratch` has room for two rows of any pair."""
    cdef int64_t oldest = oldest_slot(records), first = oldest_row(records)
    cdef const char* row = row_at(records, oldest, number - first)
    cdef const char* led = row_at(records, oldest, before - first)
    cdef Py_ssize_t i
    for i in range(num_pairs):
        if not same_value(records, sharings, &pairs[i], led, row, scratch):
            return False
    return True


cdef inline bint same_value(
    const Records* records, const Sharing* sharings, const StatePair* pair, const char* led, const char* row,
    char* scratch,
) noexcept nogil:
    cdef Field field = records.fields[pair.state]
    led += records.fields[pair.state_new].offset
    row += field.offset
    if pair.sharing != pair.sharing_new:
        led = whole_row(sharings, pair.sharing_new, led, scratch)
        row = whole_row(sharings, pair.sharing, row, scratch + pair.nbytes)
        return led != NULL and row != NULL and memcmp(led, row, pair.nbytes) == 0
    if memcmp(led, row, field.nbytes) == 0:
        return True
    return pair.sharing >= 0 and same_frames(&sharings[pair.sharing], <const uint32_t*>led, <const uint32_t*>row)


cdef inline const char* whole_row(
    const Sharing* sharings, int sharing, const char* value, char* scratch
) noexcept nogil:
    """The row of which a record has this value: the value itself, or frames put together in `scratch`.

    Returns NULL if a frame has no block, so that the numbers are damaged.
    """
    cdef const char* frames[MAX_STACK]
    cdef const Sharing* its
    cdef int j
    if sharing < 0:
        return value
    its = &sharings[sharing]
    for j in range(its.stack):
        frames[j] = find_frame(&its.store, (<const uint32_t*>value)[j])
        if frames[j] == NULL:
            return NULL
    interleave(scratch, frames, its.stack, its.outer, its.inner)
    return scratch


cdef inline bint same_frames(const Sharing* sharing, const uint32_t* led, const uint32_t* row) noexcept nogil:
    """Whether frames of different numbers have the same bytes, because they were stored twice."""
    cdef const char* one
    cdef const char* other
    cdef int j
    for j in range(sharing.stack):
        if led[j] == row[j]:
            continue
        one, other = find_frame(&sharing.store, led[j]), find_frame(&sharing.store, row[j])
        if one == NULL or other == NULL or memcmp(one, other, sharing.store.nbytes) != 0:
            return False
    return True
