"""Frame deduplication: large rows are stacks of frames, and a record keeps the frames' numbers instead of their bytes.

Frames are equal if their bytes are (or their addresses, in data that a runner sends). Which earlier row a new row
continues is a guess; a wrong guess costs memory, never correctness. First comes the row as far back as at one of the
last two distances between rows of a trajectory, then any trajectory that is open, found by a hash of its last frame.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from frame_store cimport (
    AHEAD,
    FrameStore,
    append_frames,
    begin_frame,
    end_stream,
    frame_at,
    free_store,
    forget_frames_from,
    init_store,
    next_frame_slot,
    store_frame,
    zeroed_new,
)
from interleave cimport (
    REALLY_SHIFTED,
    REALLY_UNRELATED,
    REALLY_REPEATED,
    has_fast_path,
    really_compare4,
    really_interleave4,
    deinterleave,
)
from share_rate cimport (
    SEARCH_ALL,
    SEARCH_NONE,
    ShareRate,
    count_searched,
    count_stored,
    init_share_rate,
    is_probed,
    probe,
    rows_alike,
    sample_hash,
)
from memory cimport (
    REALLY_COMPARE_CHUNK,
    really_aligned_free,
    really_equal,
    really_prefetch_compared,
    really_prefetch_l1,
    really_stack_continues,
    really_stream_append,
    really_stream_append_compared,
    really_stream_fence,
)

cdef enum:
    MAX_STACK = 16  # frames in a stack
    RUN_AHEAD = 1024  # bytes by which the rows of a run are prefetched ahead of their copy
    NUM_RECENT = 256  # greatest distance between two rows of a trajectory if trajectories are interleaved
    NUM_LAGS = 2  # one within a put, one to the previous put
    NUM_OPEN = 512  # open trajectories whose last row is further back
    UNSEARCHED = 64  # rows that are stored without a search at once

cdef struct Stack:  # addresses of the frames of one row
    const char* frames[MAX_STACK]

cdef struct TrajectoryTail:  # the last stack of a trajectory, which its next row continues
    int64_t row  # counted from 1; 0 if there is none
    int64_t put  # the put that brought it
    bint is_open  # no later row has continued it
    int64_t numbers[MAX_STACK]
    bint in_place  # until the end of that put, `stack` has the frames' addresses
    Stack stack
    const char* data  # address of the row until the end of that put; NULL if it came as frames

cdef struct Sharing:  # one store, the columns that share its frames, and the tails of their trajectories
    FrameStore store
    int stack  # frames in a row
    Py_ssize_t outer  # pieces of a frame in a row; 1 if the stack axis is the first
    Py_ssize_t inner  # bytes of a piece
    int num_columns  # 1, or 2: a state and the next state
    Py_ssize_t keys[2]  # fields with the numbers of the columns' frames
    Py_ssize_t oldest_field  # field with the number of the row's oldest frame
    int64_t row  # the next row, counted from 1
    int64_t put  # puts so far
    int64_t start  # number of the first frame of this put
    int64_t lags[NUM_LAGS]  # the last two distances between rows of a trajectory, the latest first
    int64_t reach  # a row shares frames at most this far back
    bint by_address  # in this put, equal frames have equal addresses, as in data that runners send
    bint in_place  # frames of this put keep their addresses until it ends: they are not de-interleaved
    int64_t num_unmatched  # rows of this put that continue no other
    TrajectoryTail* recent  # [NUM_RECENT], row r at r % NUM_RECENT
    TrajectoryTail* open_tails  # [NUM_OPEN], a ring
    uint64_t* recent_hashes  # [NUM_RECENT], of the tails' newest frames; 0 if it was not needed so far
    uint64_t* open_hashes  # [NUM_OPEN], likewise
    int64_t hashed  # rows before this one have hashes if their tails are open
    int64_t num_opened  # tails that were ever put into `open_tails`
    ShareRate rate
    char* scratch  # [2, stack] frames, for de-interleaved rows

cdef struct StackColumn:  # rows of a put: whole rows, or with `indices` frames
    const char* data
    Py_ssize_t stride  # bytes from one row to the next; with `indices` from one frame to the next
    const int* indices  # [row, stack], which frames; NULL for whole rows


cdef inline bint init_sharing(
    Sharing* sharing, int64_t capacity, int64_t num_slots, bint in_file
) noexcept nogil:
    """Allocates the tables of a sharing whose sizes are set. Returns False if there is no memory."""
    # Room for the frames of all rows kept, of the rows that one commit adds, and of those that the oldest may share.
    sharing.reach = 4096 + capacity // 16
    cdef int64_t max_frames = (num_slots + capacity) * sharing.stack * sharing.num_columns
    max_frames += sharing.reach
    sharing.row = sharing.lags[0] = sharing.lags[1] = 1
    sharing.recent = <TrajectoryTail*>zeroed_new(NUM_RECENT * sizeof(TrajectoryTail))
    sharing.open_tails = <TrajectoryTail*>zeroed_new(NUM_OPEN * sizeof(TrajectoryTail))
    sharing.recent_hashes = <uint64_t*>zeroed_new((NUM_RECENT + NUM_OPEN) * sizeof(uint64_t))
    sharing.open_hashes = sharing.recent_hashes + NUM_RECENT
    init_share_rate(&sharing.rate)
    sharing.scratch = <char*>zeroed_new(2 * sharing.stack * sharing.store.nbytes)
    return (
        init_store(&sharing.store, capacity, max_frames, in_file) and sharing.recent != NULL and sharing.open_tails != NULL
        and sharing.recent_hashes != NULL and sharing.scratch != NULL
    )


cdef inline void free_sharing(Sharing* sharing) noexcept nogil:
    free_store(&sharing.store)
    really_aligned_free(sharing.recent)
    really_aligned_free(sharing.open_tails)
    really_aligned_free(sharing.recent_hashes)
    really_aligned_free(sharing.scratch)


cdef inline void undo_put(Sharing* sharing) noexcept nogil:
    """Removes the frames of the last put, and all tails, which may name them."""
    forget_frames_from(&sharing.store, sharing.start)
    memset(sharing.recent, 0, NUM_RECENT * sizeof(TrajectoryTail))
    memset(sharing.open_tails, 0, NUM_OPEN * sizeof(TrajectoryTail))
    memset(sharing.recent_hashes, 0, (NUM_RECENT + NUM_OPEN) * sizeof(uint64_t))


cdef inline bint store_rows(
    Sharing* sharing, const StackColumn* columns, int64_t first, int64_t num_rows, uint32_t** numbers, uint32_t* oldest
) noexcept nogil:
    """Stores the new frames of rows `first` to `first + num_rows`.

    Writes the numbers of each row's frames to `numbers[column]` [num_rows, stack], and that of its oldest frame to
    `oldest`. Returns False if there is no memory for more frames; then call `undo_put`.
    """
    cdef int64_t num, i = 0
    cdef bint whole = columns[0].indices == NULL and columns[sharing.num_columns - 1].indices == NULL
    sharing.put += 1
    sharing.start = sharing.store.next
    sharing.by_address = columns[0].indices != NULL
    sharing.in_place = sharing.outer == 1 or (
        columns[0].indices != NULL and columns[sharing.num_columns - 1].indices != NULL
    )
    sharing.num_unmatched = 0
    sharing.store.caches = num_rows == 1 and sharing.rate.effort == SEARCH_ALL  # else nothing is compared
    while i < num_rows:
        num = 1
        if whole and sharing.rate.effort == SEARCH_NONE:
            num = min(min(num_rows - i, <int64_t>UNSEARCHED), rows_alike(&sharing.rate))
            if not store_unsearched(sharing, columns, first + i, num, numbers, i, oldest):
                return False
        elif not store_searched(sharing, columns, first + i, numbers, i, oldest):
            return False
        i += num
        if whole and follows_lone_frame(sharing):
            num = store_run(sharing, columns, first + i, num_rows - i, numbers, i, oldest)
            if num < 0:
                return False
            i += num
    end_stream(&sharing.store)
    really_stream_fence()
    return True


cdef inline bint store_searched(
    Sharing* sharing, const StackColumn* columns, int64_t row, uint32_t** numbers, int64_t i, uint32_t* oldest
) noexcept nogil:
    """Finds or stores the frames of row `row` of a put, which is row `i` of the numbers."""
    cdef int64_t found[2][MAX_STACK]
    cdef uint32_t* out[2]
    cdef int c
    for c in range(sharing.num_columns):
        out[c] = numbers[c] + i * sharing.stack
    if not store_row(sharing, columns, row, found):
        return False
    oldest[i] = write_numbers(sharing, found, out)
    return True


cdef inline bint follows_lone_frame(const Sharing* sharing) noexcept nogil:
    """Whether the last row is of this put and has a state and a next state of one frame each, as rows of a run do."""
    cdef const TrajectoryTail* tail
    if sharing.stack != 1 or sharing.num_columns != 2 or sharing.outer != 1 or sharing.lags[0] != 1:
        return False
    tail = tail_at_lag(sharing, 1)
    return (
        sharing.rate.effort == SEARCH_ALL and tail != NULL and tail.put == sharing.put and is_reachable(sharing, tail)
    )


cdef inline int64_t store_run(
    Sharing* sharing, const StackColumn* columns, int64_t row, int64_t num, uint32_t** numbers, int64_t i,
    uint32_t* oldest,
) noexcept nogil:
    """Stores rows from `row` on, at most `num`, while each continues the one before it and ends with a new frame.

    The next state is compared with the state after it while it is copied, so that either is read from memory once.
    Returns the number of rows, or -1 if there is no memory.
    """
    cdef FrameStore* store = &sharing.store
    cdef TrajectoryTail* tail = tail_at_lag(sharing, 1)
    cdef Py_ssize_t nbytes = store.nbytes
    cdef const char* state = columns[0].data + row * columns[0].stride
    cdef const char* after = columns[1].data + row * columns[1].stride
    cdef int64_t k = 0, before = tail.numbers[0]
    cdef bint continues = num > 0 and is_same(sharing, state, tail.data)
    while continues and k < num and sharing.rate.effort == SEARCH_ALL and memcmp(state, after, nbytes) != 0:
        tail.is_open = False
        if not begin_frame(store):
            return -1
        state += columns[0].stride
        if k + 1 < num and state != after:
            continues = really_stream_append_compared(&store.stream, after, state, nbytes, RUN_AHEAD)
        else:
            really_stream_append(&store.stream, after, nbytes, RUN_AHEAD)
        numbers[0][i + k], numbers[1][i + k], oldest[i + k] = <uint32_t>before, <uint32_t>store.next, <uint32_t>before
        before = store.next
        store.next += 1
        tail = next_tail(sharing)
        tail.row = sharing.row
        sharing.row += 1
        count_searched(&sharing.rate, True, True)
        after += columns[1].stride
        k += 1
    if k > 0:
        tail.put, tail.is_open, tail.in_place, tail.data = sharing.put, True, True, after - columns[1].stride
        tail.numbers[0], tail.stack.frames[0] = before, tail.data
    return k


cdef inline bint store_unsearched(
    Sharing* sharing, const StackColumn* columns, int64_t row, int64_t num, uint32_t** numbers, int64_t i,
    uint32_t* oldest,
) noexcept nogil:
    """Stores all frames of `num` whole rows, row by row."""
    cdef int64_t k, number = sharing.store.next
    cdef int c, j
    if not copy_whole_rows(sharing, columns, row, num):
        return False
    for k in range(num if is_probed(&sharing.rate) else 0):
        probe_row(sharing, columns, row + k)  # after the copy, which brings the row into the cache
    for k in range(i, i + num):
        oldest[k] = <uint32_t>number
        for c in range(sharing.num_columns):
            for j in range(sharing.stack):
                numbers[c][k * sharing.stack + j] = <uint32_t>number
                number += 1
    sharing.num_unmatched += num
    sharing.row += num
    count_stored(&sharing.rate, num)
    return True


cdef inline bint copy_whole_rows(
    Sharing* sharing, const StackColumn* columns, int64_t row, int64_t num
) noexcept nogil:
    """Copies the frames of rows into the store. Returns False if there is no memory."""
    cdef int64_t k
    cdef int c
    cdef const char* data
    for k in range(row, row + num):
        for c in range(sharing.num_columns):
            data = columns[c].data + k * columns[c].stride
            if sharing.outer != 1:
                deinterleave(sharing.scratch, data, sharing.stack, sharing.outer, sharing.inner)
                data = sharing.scratch
            if not append_frames(&sharing.store, data, sharing.stack):
                return False
    if sharing.outer != 1:
        end_stream(&sharing.store)  # a search would write frames in another way
    return True


cdef inline void probe_row(Sharing* sharing, const StackColumn* columns, int64_t row) noexcept nogil:
    """Looks for the row's frame that would be the newest of an earlier row, and keeps the hash of its newest."""
    cdef int stack = sharing.stack, last = sharing.num_columns - 1
    cdef const char* data = columns[0].data + row * columns[0].stride
    cdef const char* after = columns[last].data + row * columns[last].stride
    cdef uint64_t newest = sample_hash(after, sharing.store.nbytes, stack - 1, stack, sharing.inner)
    cdef uint64_t before
    before = sample_hash(data, sharing.store.nbytes, stack - 1 - shift_of(sharing), stack, sharing.inner)
    probe(&sharing.rate, before, newest)
    if last == 1 and sharing.rate.effort == SEARCH_NONE:
        # The row may share frames with itself.
        sharing.rate.num_continued += before == sample_hash(
            after, sharing.store.nbytes, max(stack - 2, 0), stack, sharing.inner
        )


cdef inline uint32_t write_numbers(const Sharing* sharing, int64_t[MAX_STACK]* found, uint32_t** out) noexcept nogil:
    """Writes a row's numbers modulo 2**32, as records have them; returns the oldest."""
    cdef int c, j
    cdef int64_t oldest = found[0][0]
    for c in range(sharing.num_columns):
        for j in range(sharing.stack):
            out[c][j] = <uint32_t>found[c][j]
            oldest = min(oldest, found[c][j])
    return <uint32_t>oldest


cdef inline bint store_row(
    Sharing* sharing, const StackColumn* columns, int64_t row, int64_t[MAX_STACK]* numbers
) noexcept nogil:
    """Finds or stores a row's frames, and makes the row the tail of its trajectory."""
    cdef Stack stacks[2]
    cdef int j, last = sharing.num_columns - 1
    cdef TrajectoryTail* tail = next_tail(sharing)
    cdef const char* data = NULL
    cdef int64_t num_unmatched = sharing.num_unmatched, start = sharing.store.next
    cdef bint pauses = sharing.rate.effort != SEARCH_ALL
    if columns[0].indices == NULL and columns[last].indices == NULL:
        data = columns[last].data + row * columns[last].stride
    if data != NULL and pauses and is_probed(&sharing.rate):
        probe_row(sharing, columns, row)
    if data == NULL or pauses or is_lone_frame(sharing) or not match_fast_path(sharing, columns, row, numbers):
        locate_stacks(sharing, columns, row, stacks)
        if data != NULL and pauses and last == 1 and sharing.outer == 1:
            if not store_alone(sharing, stacks, numbers):
                return False
        elif not store_first_column(sharing, &stacks[0], numbers[0]) or (
            last == 1 and not store_second_column(sharing, stacks, numbers[0], numbers[1])
        ):
            return False
        tail.stack = stacks[last]
    elif sharing.in_place:
        locate_stack(sharing, data, &tail.stack)
    for j in range(sharing.stack):
        tail.numbers[j] = numbers[last][j]
    tail.row, tail.put, tail.is_open = sharing.row, sharing.put, not pauses or data == NULL
    tail.in_place, tail.data = sharing.in_place, data
    sharing.row += 1
    if data != NULL and pauses:
        count_stored(&sharing.rate, 1)
    elif data != NULL:
        count_searched(
            &sharing.rate, num_unmatched == sharing.num_unmatched,
            sharing.store.next - start < sharing.stack * sharing.num_columns,
        )
    return True


cdef inline bint match_fast_path(
    Sharing* sharing, const StackColumn* columns, int64_t row, int64_t[MAX_STACK]* numbers
) noexcept nogil:
    """Fast path: the row continues one of the last two trajectories and only its newest frame can be new; one pass
    checks both. Returns False, with nothing changed, otherwise."""
    cdef int i, j, last = sharing.num_columns - 1
    cdef TrajectoryTail* tail
    cdef int64_t newest = 0
    for i in range(NUM_LAGS):
        tail = tail_at_lag(sharing, sharing.lags[i])
        if tail == NULL or not is_reachable(sharing, tail):
            continue
        newest = tail.numbers[sharing.stack - 1]
        if store_newest(sharing, tail, columns, row, &newest):
            break
    else:
        return False
    promote_lag(sharing, sharing.lags[i])
    tail.is_open = False
    for j in range(sharing.stack):
        if last == 1:
            numbers[0][j] = tail.numbers[j]
        numbers[last][j] = tail.numbers[j + 1] if j + 1 < sharing.stack else newest
    return True


cdef inline bint store_newest(
    Sharing* sharing, const TrajectoryTail* tail, const StackColumn* columns, int64_t row, int64_t* newest
) noexcept nogil:
    """Stores the row's newest frame unless it repeats the one before; returns False if another frame is new.

    Writes the number of a frame that was stored to `newest`.
    """
    cdef int last = sharing.num_columns - 1
    cdef const char* data = NULL  # a single column has no state besides: the tail takes its place
    cdef const char* after = columns[last].data + row * columns[last].stride
    cdef const char* stack
    cdef char* slot = next_frame_slot(&sharing.store)
    cdef int compared = REALLY_UNRELATED
    if slot == NULL:
        return False
    # Two frames share this cache line, which is therefore written in parts: fetch it before.
    really_prefetch_l1(slot + sharing.store.nbytes)
    if last == 1:
        data = columns[0].data + row * columns[0].stride
    if has_fast_path(sharing.stack, sharing.outer, sharing.inner):
        stack = interleaved_stack(sharing, tail)
        compared = really_compare4(stack, stack if data == NULL else data, after, slot, sharing.outer)
        sharing.store.next += compared == REALLY_SHIFTED
    elif sharing.outer == 1 and continues_bytes(sharing, tail, data, after):
        compared = REALLY_REPEATED if repeats_newest(sharing, tail, data, after) else REALLY_SHIFTED
        if compared == REALLY_SHIFTED:
            store_frame(&sharing.store, after + (sharing.stack - 1) * sharing.store.nbytes, True)
    if compared == REALLY_SHIFTED:
        newest[0] = sharing.store.next - 1
    return compared != REALLY_UNRELATED


cdef inline const char* interleaved_stack(Sharing* sharing, const TrajectoryTail* tail) noexcept nogil:
    """Address of the tail's four interleaved frames: as this put has them, else interleaved again in `scratch`."""
    cdef const char* frames[4]
    cdef int j
    if tail.put == sharing.put:
        return tail.data
    for j in range(4):
        frames[j] = frame_at(&sharing.store, tail.numbers[j])
    really_interleave4(sharing.scratch, NULL, frames, 1, sharing.outer, False)
    return sharing.scratch


cdef inline bint continues_bytes(
    Sharing* sharing, const TrajectoryTail* tail, const char* data, const char* after
) noexcept nogil:
    """Whether `data` (unless it is NULL) equals the tail's stack, and `after` is the stack shifted by one frame."""
    cdef Py_ssize_t nbytes = sharing.store.nbytes
    cdef const char* frame
    cdef const char* here
    cdef int j
    if tail.put == sharing.put:
        return really_stack_continues(
            tail.data, tail.data if data == NULL else data, after, sharing.stack * nbytes, nbytes
        )
    for j in range(sharing.stack):
        frame = frame_at(&sharing.store, tail.numbers[j])
        here = frame if data == NULL else data + j * nbytes
        if not really_stack_continues(frame, here, here if j == 0 else after + (j - 1) * nbytes, nbytes, 0):
            return False
    return True


cdef inline bint repeats_newest(
    const Sharing* sharing, const TrajectoryTail* tail, const char* data, const char* after
) noexcept nogil:
    """Whether the newest frame of `after` equals the newest frame before it."""
    cdef Py_ssize_t last = (sharing.stack - 1) * sharing.store.nbytes
    cdef const char* frame = data + last if data != NULL else tail_frame(sharing, tail, sharing.stack - 1)
    return really_equal(after + last, frame, sharing.store.nbytes)


cdef inline void locate_stack(const Sharing* sharing, const char* data, Stack* stack) noexcept nogil:
    """Locates the frames of a contiguous stack."""
    cdef int j
    for j in range(sharing.stack):
        stack.frames[j] = data + j * sharing.store.nbytes


cdef inline void locate_stacks(
    Sharing* sharing, const StackColumn* columns, int64_t row, Stack* stacks
) noexcept nogil:
    cdef int c, j
    cdef const char* data
    cdef char* frames
    for c in range(sharing.num_columns):
        if columns[c].indices != NULL:
            for j in range(sharing.stack):
                stacks[c].frames[j] = columns[c].data + columns[c].indices[row * sharing.stack + j] * columns[c].stride
            continue
        data = columns[c].data + row * columns[c].stride
        frames = sharing.scratch + c * sharing.stack * sharing.store.nbytes
        if sharing.outer != 1:
            deinterleave(frames, data, sharing.stack, sharing.outer, sharing.inner)
            data = frames
        locate_stack(sharing, data, &stacks[c])


cdef inline TrajectoryTail* next_tail(Sharing* sharing) noexcept nogil:
    """The entry of the next row's tail. If the tail in it is still open, that moves to `open_tails`."""
    cdef TrajectoryTail* tail = &sharing.recent[sharing.row % NUM_RECENT]
    cdef uint64_t* hash = &sharing.recent_hashes[sharing.row % NUM_RECENT]
    if tail.is_open:
        sharing.open_hashes[sharing.num_opened % NUM_OPEN] = hash[0] if hash[0] != 0 else tail_hash(sharing, tail)
        sharing.open_tails[sharing.num_opened % NUM_OPEN] = tail[0]
        sharing.num_opened += 1
    tail.is_open = False
    hash[0] = 0
    return tail


cdef inline bint store_alone(Sharing* sharing, const Stack* stacks, int64_t[MAX_STACK]* numbers) noexcept nogil:
    """Finds or stores the frames of a row that is compared with itself alone, both of whose stacks are contiguous.

    Compares the second stack with the first while that is copied: both are read from memory at the same time.
    """
    cdef Py_ssize_t nbytes = sharing.store.nbytes
    cdef bint shifted = True
    cdef int j, newest = sharing.stack - 1
    sharing.num_unmatched += 1
    for j in range(sharing.stack):
        if j > 0 and really_equal(stacks[0].frames[j], stacks[0].frames[j - 1], nbytes):
            numbers[0][j] = numbers[0][j - 1]
            shifted = shifted and really_equal(stacks[1].frames[j - 1], stacks[0].frames[j], nbytes)
            continue
        numbers[0][j] = sharing.store.next
        if not store_compared(
            &sharing.store, stacks[0].frames[j], stacks[1].frames[j - 1] if j > 0 and shifted else NULL, &shifted
        ):
            return False
    if not shifted:
        return store_second_column(sharing, stacks, numbers[0], numbers[1])
    for j in range(newest):
        numbers[1][j] = numbers[0][j + 1]
    if really_equal(stacks[1].frames[newest], stacks[0].frames[newest], nbytes):
        numbers[1][newest] = numbers[0][newest]
    else:
        numbers[1][newest] = store_frame(&sharing.store, stacks[1].frames[newest], True)
    return numbers[1][newest] >= 0


cdef inline bint store_compared(
    FrameStore* store, const char* frame, const char* other, bint* equal
) noexcept nogil:
    """Appends a frame, and sets `equal` to whether `other`, unless it is NULL, has the same bytes.

    Returns False if there is no memory.
    """
    cdef Py_ssize_t piece, at = 0
    if other == NULL:
        return append_frames(store, frame, 1)
    if not begin_frame(store):
        return False
    while at < store.nbytes:
        piece = min(store.nbytes - at, <Py_ssize_t>REALLY_COMPARE_CHUNK)
        really_prefetch_compared(other, at)
        really_stream_append(&store.stream, frame + at, piece, AHEAD)
        equal[0] = equal[0] and memcmp(other + at, frame + at, piece) == 0
        at += piece
    store.next += 1
    return True


cdef inline bint is_lone_frame(const Sharing* sharing) noexcept nogil:
    """Whether a row is one frame of one column, such as a recurrent state: it repeats an earlier frame, or is new."""
    return sharing.stack == 1 and sharing.num_columns == 1


cdef inline int shift_of(const Sharing* sharing) noexcept nogil:
    """1 if the first column of a row is the last stack of its trajectory moved on by a frame, 0 if it is that stack."""
    return 1 if sharing.num_columns == 1 and sharing.stack > 1 else 0


cdef inline bint store_first_column(Sharing* sharing, const Stack* stack, int64_t* numbers) noexcept nogil:
    """Finds or stores the first column's frames: it equals the tail's stack, or as the only column continues it."""
    cdef int j, start = 0, shift = shift_of(sharing)
    cdef bint searches = sharing.by_address or sharing.rate.effort == SEARCH_ALL
    cdef TrajectoryTail* tail = find_tail(sharing, stack) if searches else NULL
    if tail != NULL:
        tail.is_open = False
        for j in range(sharing.stack - shift):
            numbers[j] = tail.numbers[j + shift]
        start = sharing.stack - shift
    else:
        sharing.num_unmatched += 1
    for j in range(start, sharing.stack):
        if j > 0 and is_same_here(sharing, stack.frames[j], stack.frames[j - 1]):
            numbers[j] = numbers[j - 1]
        else:
            numbers[j] = store_frame(&sharing.store, stack.frames[j], sharing.in_place)
        if numbers[j] < 0:
            return False
    return True


cdef inline bint store_second_column(
    Sharing* sharing, const Stack* stacks, const int64_t* first, int64_t* numbers
) noexcept nogil:
    """Finds or stores the second column's frames: it is the first column shifted by one frame, except after a reset, a
    skipped frame or a longer step."""
    cdef int j
    cdef const TrajectoryTail* tail = &sharing.recent[(sharing.row + NUM_RECENT - 1) % NUM_RECENT]
    cdef bint near = tail.row == sharing.row - 1 and tail.row > 0 and is_reachable(sharing, tail)
    for j in range(sharing.stack):
        if j + 1 < sharing.stack and is_same_here(sharing, stacks[1].frames[j], stacks[0].frames[j + 1]):
            numbers[j] = first[j + 1]
        elif is_same_here(sharing, stacks[1].frames[j], stacks[0].frames[j]):
            numbers[j] = first[j]
        elif j > 0 and is_same_here(sharing, stacks[1].frames[j], stacks[1].frames[j - 1]):
            numbers[j] = numbers[j - 1]
        elif near and j + 1 < sharing.stack and is_same(
            sharing, stacks[1].frames[j], tail_frame(sharing, tail, j + 1)
        ):
            numbers[j] = tail.numbers[j + 1]
        else:
            numbers[j] = store_frame(&sharing.store, stacks[1].frames[j], sharing.in_place)
        if numbers[j] < 0:
            return False
    return True


cdef inline bint is_same_here(const Sharing* sharing, const char* frame, const char* other) noexcept nogil:
    """`is_same` for two frames of one row."""
    return frame == other or (not sharing.by_address and really_equal(frame, other, sharing.store.nbytes))


cdef inline bint is_same(const Sharing* sharing, const char* frame, const char* other) noexcept nogil:
    return frame == other or really_equal(frame, other, sharing.store.nbytes)


cdef inline TrajectoryTail* find_tail(Sharing* sharing, const Stack* stack) noexcept nogil:
    """The tail that the row continues, or NULL."""
    cdef TrajectoryTail* tail
    cdef int64_t i, num, slot
    cdef int at = sharing.stack - 1 - shift_of(sharing)  # the row's frame that is the tail's newest
    for i in range(NUM_LAGS):
        tail = tail_at_lag(sharing, sharing.lags[i])
        if tail != NULL and continues_tail(sharing, tail, stack):
            promote_lag(sharing, sharing.lags[i])
            return tail
    cdef uint64_t hash = hash_frame(stack.frames[at], sharing.store.nbytes)
    hash_recent_tails(sharing)
    num = min(sharing.row, <int64_t>NUM_RECENT) - 1
    for i in range(1, num + 1):
        slot = (sharing.row - i) % NUM_RECENT
        tail = &sharing.recent[slot]
        if sharing.recent_hashes[slot] == hash and tail.is_open and continues_tail(sharing, tail, stack):
            promote_lag(sharing, i)
            return tail
    num = min(sharing.num_opened, <int64_t>NUM_OPEN)
    for i in range(1, num + 1):
        slot = (sharing.num_opened - i) % NUM_OPEN
        tail = &sharing.open_tails[slot]
        if sharing.open_hashes[slot] == hash and tail.is_open and continues_tail(sharing, tail, stack):
            promote_lag(sharing, 1)
            return tail
    return NULL


cdef inline void hash_recent_tails(Sharing* sharing) noexcept nogil:
    """Computes the hashes of the open tails that were added since the last call."""
    cdef int64_t row
    cdef TrajectoryTail* tail
    for row in range(max(sharing.hashed, sharing.row - NUM_RECENT + 1), sharing.row):
        tail = &sharing.recent[row % NUM_RECENT]
        if tail.is_open and tail.row == row:
            sharing.recent_hashes[row % NUM_RECENT] = tail_hash(sharing, tail)
    sharing.hashed = sharing.row


cdef inline TrajectoryTail* tail_at_lag(const Sharing* sharing, int64_t lag) noexcept nogil:
    """The tail `lag` rows before the next row, or NULL if a later row has continued it."""
    cdef TrajectoryTail* tail = &sharing.recent[(sharing.row - lag) % NUM_RECENT]
    return tail if lag < sharing.row and tail.is_open and tail.row == sharing.row - lag else NULL


cdef inline void promote_lag(Sharing* sharing, int64_t lag) noexcept nogil:
    """Makes this lag the first to try."""
    if lag != sharing.lags[0]:
        sharing.lags[1] = sharing.lags[0]
        sharing.lags[0] = lag


cdef inline bint is_reachable(const Sharing* sharing, const TrajectoryTail* tail) noexcept nogil:
    """Whether the store has all frames of the tail, near enough not to delay the release of many blocks."""
    cdef int j
    cdef int64_t oldest = max(
        sharing.store.oldest_block << sharing.store.shift, sharing.store.next - sharing.reach
    )
    for j in range(sharing.stack):
        if tail.numbers[j] < oldest:
            return False
    return True


cdef inline bint continues_tail(const Sharing* sharing, const TrajectoryTail* tail, const Stack* stack) noexcept nogil:
    cdef int j, shift = shift_of(sharing)
    if not is_reachable(sharing, tail):
        return False
    if (
        tail.put == sharing.put and tail.in_place
        and is_contiguous(sharing, &tail.stack) and is_contiguous(sharing, stack)
    ):
        return stack.frames[0] == tail.stack.frames[shift] or really_equal(
            stack.frames[0], tail.stack.frames[shift], (sharing.stack - shift) * sharing.store.nbytes
        )
    for j in range(sharing.stack - shift):
        if not is_same(sharing, stack.frames[j], tail_frame(sharing, tail, j + shift)):
            return False
    return True


cdef inline bint is_contiguous(const Sharing* sharing, const Stack* stack) noexcept nogil:
    """Whether the frames follow each other in memory."""
    cdef int j
    for j in range(1, sharing.stack):
        if stack.frames[j] != stack.frames[0] + j * sharing.store.nbytes:
            return False
    return True


cdef inline const char* tail_frame(const Sharing* sharing, const TrajectoryTail* tail, int j) noexcept nogil:
    if tail.put == sharing.put and tail.in_place:
        return tail.stack.frames[j]
    return frame_at(&sharing.store, tail.numbers[j])


cdef inline uint64_t tail_hash(Sharing* sharing, const TrajectoryTail* tail) noexcept nogil:
    """The hash of the tail's newest frame; 0 if the store does not have all of its frames any more."""
    if not is_reachable(sharing, tail):
        return 0
    return hash_frame(tail_frame(sharing, tail, sharing.stack - 1), sharing.store.nbytes)


cdef inline uint64_t hash_frame(const char* frame, Py_ssize_t nbytes) noexcept nogil:
    """A hash other than 0. Four independent lanes hide the four cycles of a product."""
    cdef uint64_t lanes[4]
    cdef uint64_t words[4]
    cdef Py_ssize_t at = 0
    cdef int i
    for i in range(4):
        lanes[i] = i
    while at + 32 <= nbytes:
        memcpy(words, frame + at, 32)
        for i in range(4):
            lanes[i] = (lanes[i] ^ words[i]) * <uint64_t>0x9E3779B97F4A7C15
            lanes[i] ^= lanes[i] >> 29
        at += 32
    memset(words, 0, 32)
    memcpy(words, frame + at, nbytes - at)
    cdef uint64_t hash = 0
    for i in range(4):
        hash = (hash ^ lanes[i] ^ words[i]) * <uint64_t>0xD6E8FEB86659FD93
        hash ^= hash >> 32
    return hash | 1
