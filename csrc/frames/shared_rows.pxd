"""Rows that share frames, in and out of a ring: frames.pxd finds and keeps the frames, records keep their numbers."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from frame_store cimport FrameStore, count_rows, frame_at, give_up_dropped, num_blocks_needed, publish_next
from matching cimport FrameColumn, Sharing, share, take_back
from memory cimport really_ask
from record cimport Column, Records, num_held, oldest_slot
from scatter cimport append
from reconstruct cimport unshare

cdef struct Incoming:  # rows on their way in
    Column* columns  # [num_fields], of which those that share frames are filled in here
    FrameColumn* frames  # [num_fields], of the keys that share
    Column* piece  # [num_fields], room for a part of the columns
    uint32_t* numbers  # [num_fields, room], the frames' numbers
    Py_ssize_t room  # of a field: rows of a piece times the largest stack of all that share


cdef inline Py_ssize_t append_shared(
    Records* records, Sharing* sharings, Py_ssize_t num_sharings, int64_t max_bytes,
    const Incoming* rows, int64_t first, int64_t num_rows,
) noexcept nogil:
    """Appends rows `first` to `first + num_rows`, at most as many as are committed at once.

    Returns -1, or, with nothing done, which sharing has no room for its frames.
    """
    cdef int64_t num_dropped = max(num_held(records) + num_rows - records.capacity, <int64_t>0)
    cdef Py_ssize_t s, k
    for k in range(records.num_fields):
        rows.piece[k] = rows.columns[k]
        rows.piece[k].data += first * rows.columns[k].stride
    for s in range(num_sharings):
        if not share_keys(&sharings[s], rows, first, num_rows):
            take_all_back(sharings, s + 1)
            return s
    count_all(records, sharings, num_sharings, rows, num_dropped, num_rows, 1)
    if bytes_needed(sharings, num_sharings) > max_bytes:
        count_all(records, sharings, num_sharings, rows, num_dropped, num_rows, -1)
        take_all_back(sharings, num_sharings)
        return largest(sharings, num_sharings)
    for s in range(num_sharings):
        publish_next(&sharings[s].store)
    append(records, rows.piece, num_rows)
    for s in range(num_sharings):
        give_up_dropped(&sharings[s].store)
    return -1


cdef inline bint share_keys(
    Sharing* sharing, const Incoming* rows, int64_t first, int64_t num_rows
) noexcept nogil:
    cdef FrameColumn columns[2]
    cdef uint32_t* numbers[2]
    cdef int c
    cdef Py_ssize_t key
    cdef uint32_t* lows = rows.numbers + sharing.low_field * rows.room
    for c in range(sharing.num_columns):
        key = sharing.keys[c]
        columns[c], numbers[c] = rows.frames[key], rows.numbers + key * rows.room
        rows.piece[key].data, rows.piece[key].stride = <char*>numbers[c], sharing.stack * sizeof(uint32_t)
    rows.piece[sharing.low_field].data, rows.piece[sharing.low_field].stride = <char*>lows, sizeof(uint32_t)
    return share(sharing, columns, first, num_rows, numbers, lows)


cdef inline void count_all(
    const Records* records, Sharing* sharings, Py_ssize_t num_sharings, const Incoming* rows,
    int64_t num_dropped, int64_t num_rows, int64_t by,
) noexcept nogil:
    """Counts the oldest rows out and the new ones in; with `by` -1 the other way round."""
    cdef Py_ssize_t s
    cdef Column low
    for s in range(num_sharings):
        count_held(records, &sharings[s], num_dropped, -by)
        low = rows.piece[sharings[s].low_field]
        count_rows(&sharings[s].store, low.data, low.stride, num_rows, by)


cdef inline void count_held(
    const Records* records, Sharing* sharing, int64_t num_rows, int64_t by
) noexcept nogil:
    """Counts the oldest rows held."""
    cdef int64_t slot = oldest_slot(records)
    cdef int64_t num = min(num_rows, records.num_slots - slot)
    cdef const char* lows = records.data + records.fields[sharing.low_field].offset
    count_rows(&sharing.store, lows + slot * records.stride, records.stride, num, by)
    count_rows(&sharing.store, lows, records.stride, num_rows - num, by)


cdef inline void count_rows_held(const Records* records, Sharing* sharing) noexcept nogil:
    """Counts all rows held in, in a store that has counted none yet."""
    count_held(records, sharing, num_held(records), 1)


cdef inline void count_rows_anew(const Records* records, Sharing* sharing) noexcept nogil:
    """In a process that only reads, for which nobody counts."""
    memset(sharing.store.num_rows, 0, sharing.store.num_blocks * sizeof(int64_t))
    count_rows_held(records, sharing)


cdef inline void take_all_back(Sharing* sharings, Py_ssize_t num) noexcept nogil:
    cdef Py_ssize_t s
    for s in range(num):
        take_back(&sharings[s])


cdef inline int64_t bytes_needed(const Sharing* sharings, Py_ssize_t num) noexcept nogil:
    """Bytes of the blocks that rows need."""
    cdef int64_t nbytes = 0
    cdef Py_ssize_t s
    for s in range(num):
        nbytes += num_blocks_needed(&sharings[s].store) * sharings[s].store.block_nbytes
    return nbytes


cdef inline Py_ssize_t largest(const Sharing* sharings, Py_ssize_t num) noexcept nogil:
    """Which sharing takes the most."""
    cdef Py_ssize_t s, found = 0
    for s in range(1, num):
        if bytes_needed(&sharings[s], 1) > bytes_needed(&sharings[found], 1):
            found = s
    return found


cdef inline void unshare_all(
    const Sharing* sharings, Py_ssize_t num, char** fields, Py_ssize_t num_rows, char** columns
) noexcept nogil:
    """Copies the frames of gathered numbers, `fields[key]`, to rows, `columns[key]`."""
    cdef Py_ssize_t s
    cdef int c
    cdef uint32_t* numbers[2]
    cdef char* rows[2]
    for s in range(num):
        for c in range(sharings[s].num_columns):
            numbers[c] = <uint32_t*>fields[sharings[s].keys[c]]
            rows[c] = columns[sharings[s].keys[c]]
        unshare(&sharings[s], numbers, num_rows, rows)


cdef inline void ask_for_frames(
    const Sharing* sharings, Py_ssize_t num, char** fields, Py_ssize_t num_rows
) noexcept nogil:
    """Asks the system for the pages of all frames of gathered numbers at once."""
    cdef Py_ssize_t s, i
    for s in range(num):
        for i in range(num_rows):
            ask_for_row(&sharings[s], fields, i)


cdef inline void ask_for_row(const Sharing* sharing, char** fields, Py_ssize_t i) noexcept nogil:
    """Asks for each frame of row i once; for those that stand side by side, of one column or both, with one call."""
    cdef const FrameStore* store = &sharing.store
    cdef const uint32_t* numbers = <const uint32_t*>fields[sharing.keys[0]] + i * sharing.stack
    cdef const char* frame = frame_at(store, numbers[0])
    cdef const char* start = frame
    cdef const char* end = frame
    cdef int c, j
    for c in range(sharing.num_columns):
        numbers = <const uint32_t*>fields[sharing.keys[c]] + i * sharing.stack
        for j in range(sharing.stack):
            frame = frame_at(store, numbers[j])
            if frame == end:
                end += store.stride
            elif frame < start or frame > end:
                really_ask(start, end - start)
                start, end = frame, frame + store.stride
    really_ask(start, end - start)
