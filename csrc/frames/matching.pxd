"""Frames stored once: large rows are stacks of frames, and a record keeps the frames' numbers instead of their bytes.

Whether two frames are the same is always decided by their bytes (or by their address, in data that a runner sends);
where to look is a guess that costs nothing but memory when it is wrong: as many rows back as one of the last two
trajectories that went on, else any trajectory that was left open, found by a hash of its last frame.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from frame_store cimport (
    FrameStore,
    copy_waiting,
    frame_at,
    free_store,
    give_up_from,
    init_store,
    room_for_frame,
    store_frame,
    zeros,
)
from interleave cimport (
    REALLY_MOVED,
    REALLY_OTHER,
    REALLY_STOOD,
    is_quick,
    really_compare4,
    really_weave4,
    take_apart,
)
from memory cimport really_lines_free, really_moves, really_prefetch, really_same, really_stream_end

cdef enum:
    MAX_STACK = 16  # frames of a stack
    NUM_RECENT = 256  # rows that may lie between two of one trajectory in one interleaved stream
    NUM_LAGS = 2  # one within a put and one to the put before
    NUM_OPEN = 512  # trajectories whose next row is waited for longer than that

cdef struct Stack:  # of one row: where each frame is
    const char* frames[MAX_STACK]

cdef struct Seen:  # the stack that a trajectory goes on from
    int64_t row  # counted from 1; 0 where there is none
    int64_t put  # during which it came
    uint64_t hash  # of the last frame; 0 while nobody has asked
    bint is_open  # no later row has gone on from it
    int64_t numbers[MAX_STACK]
    bint in_place  # during that put the frames are where `stack` says
    Stack stack
    const char* data  # the row itself during that put; NULL where it came as frames

cdef struct Sharing:  # one store with the columns that share it, and what is known of their trajectories
    FrameStore store
    int stack  # frames of a row
    Py_ssize_t outer  # pieces of a frame in a row; 1 where the stack axis is the first
    Py_ssize_t inner  # bytes of a piece
    int num_columns  # 1, or 2: a state and the state after it
    Py_ssize_t keys[2]  # which fields hold the numbers of their frames
    Py_ssize_t low_field  # which one holds the number of the oldest of them
    int64_t row  # the next one, counted from 1
    int64_t put  # puts seen
    int64_t start  # number of the first frame of this put
    int64_t lags[NUM_LAGS]  # rows between two of a trajectory, the last two that there were
    int64_t reach  # how many frames back a row may share
    bint by_address  # frames of this put are the same where they stand in one place, as in what runners send
    bint in_place  # frames of this put stay where they are until it is over, they were not taken apart
    int64_t num_alone  # rows of this put that go on from no other
    Seen* recent  # [NUM_RECENT], row r in place r % NUM_RECENT
    Seen* opens  # [NUM_OPEN], a ring
    int64_t num_opened
    char* scratch  # [2, stack] frames, where rows are taken apart whose stack axis is not the first

cdef struct FrameColumn:  # rows [num, stack] of frames, or whole rows where `indices` is NULL
    const char* data
    Py_ssize_t stride  # of rows; of frames where there are indices
    const int* indices


cdef inline bint init_sharing(Sharing* sharing, int64_t capacity, int64_t num_slots) noexcept nogil:
    """Makes the tables of a sharing whose sizes are set; False when there is no memory."""
    # The frames of as many rows as one put commits beside those held, and as far back as the oldest of them may share.
    sharing.reach = 4096 + capacity // 16
    cdef int64_t most = (capacity + max(capacity, num_slots - capacity)) * sharing.stack * sharing.num_columns
    most += sharing.reach
    sharing.row = sharing.lags[0] = sharing.lags[1] = 1
    sharing.recent = <Seen*>zeros(NUM_RECENT * sizeof(Seen))
    sharing.opens = <Seen*>zeros(NUM_OPEN * sizeof(Seen))
    sharing.scratch = <char*>zeros(2 * sharing.stack * sharing.store.nbytes)
    return (
        init_store(&sharing.store, capacity, most) and sharing.recent != NULL and sharing.opens != NULL
        and sharing.scratch != NULL
    )


cdef inline void free_sharing(Sharing* sharing) noexcept nogil:
    free_store(&sharing.store)
    really_lines_free(sharing.recent)
    really_lines_free(sharing.opens)
    really_lines_free(sharing.scratch)


cdef inline void take_back(Sharing* sharing) noexcept nogil:
    """Forgets the frames of the last put, and all guesses, which may name them."""
    give_up_from(&sharing.store, sharing.start)
    memset(sharing.recent, 0, NUM_RECENT * sizeof(Seen))
    memset(sharing.opens, 0, NUM_OPEN * sizeof(Seen))


cdef inline bint share(
    Sharing* sharing, const FrameColumn* columns, int64_t first, int64_t num_rows, uint32_t** numbers, uint32_t* lows
) noexcept nogil:
    """Stores the frames of rows `first` to `first + num_rows` that are not there yet.

    Writes the numbers of each row's frames to `numbers[column]` [num_rows, stack], and of its oldest frame to `lows`.
    False when there is no memory for more; then `take_back` has to follow.
    """
    cdef int64_t i
    cdef int c
    cdef int64_t found[2][MAX_STACK]
    cdef uint32_t* out[2]
    sharing.put += 1
    sharing.start = sharing.store.next
    sharing.by_address = columns[0].indices != NULL
    sharing.in_place = sharing.outer == 1 or (
        columns[0].indices != NULL and columns[sharing.num_columns - 1].indices != NULL
    )
    sharing.num_alone = 0
    for i in range(num_rows):
        for c in range(sharing.num_columns):
            out[c] = numbers[c] + i * sharing.stack
        if not share_row(sharing, columns, first + i, found):
            return False
        lows[i] = write_numbers(sharing, found, out)
    copy_waiting(&sharing.store)
    really_stream_end()
    return True


cdef inline uint32_t write_numbers(const Sharing* sharing, int64_t[MAX_STACK]* found, uint32_t** out) noexcept nogil:
    """Writes a row's numbers as records have them; returns the oldest."""
    cdef int c, j
    cdef int64_t oldest = found[0][0]
    for c in range(sharing.num_columns):
        for j in range(sharing.stack):
            out[c][j] = <uint32_t>found[c][j]
            oldest = min(oldest, found[c][j])
    return <uint32_t>oldest


cdef inline bint share_row(
    Sharing* sharing, const FrameColumn* columns, int64_t row, int64_t[MAX_STACK]* numbers
) noexcept nogil:
    """Finds or stores a row's frames, and remembers where its trajectory stands."""
    cdef Stack stacks[2]
    cdef int j, last = sharing.num_columns - 1
    cdef Seen* seen = next_seen(sharing)
    cdef const char* data = NULL
    if columns[0].indices == NULL and columns[last].indices == NULL:
        data = columns[last].data + row * columns[last].stride
    if data == NULL or not share_usual(sharing, columns, row, numbers):
        find_stacks(sharing, columns, row, stacks)
        if not share_first(sharing, &stacks[0], numbers[0]):
            return False
        if last == 1 and not share_second(sharing, stacks, numbers[0], numbers[1]):
            return False
        seen.stack = stacks[last]
    elif sharing.in_place:
        find_stack(sharing, data, &seen.stack)
    for j in range(sharing.stack):
        seen.numbers[j] = numbers[last][j]
    seen.row, seen.put, seen.hash, seen.is_open = sharing.row, sharing.put, 0, True
    seen.in_place, seen.data = sharing.in_place, data
    sharing.row += 1
    return True


cdef inline bint share_usual(
    Sharing* sharing, const FrameColumn* columns, int64_t row, int64_t[MAX_STACK]* numbers
) noexcept nogil:
    """A row that goes on as most do, compared as it came in one pass; False, with nothing done, where others come."""
    cdef int i, j, last = sharing.num_columns - 1
    cdef Seen* before
    cdef int64_t newest = 0
    for i in range(NUM_LAGS):
        before = seen_before(sharing, sharing.lags[i])
        if before == NULL or not is_held(sharing, before):
            continue
        newest = before.numbers[sharing.stack - 1]
        if share_newest(sharing, before, columns, row, &newest):
            break
    else:
        return False
    use_lag(sharing, sharing.lags[i])
    before.is_open = False
    for j in range(sharing.stack):
        if last == 1:
            numbers[0][j] = before.numbers[j]
        numbers[last][j] = before.numbers[j + 1] if j + 1 < sharing.stack else newest
    return True


cdef inline bint share_newest(
    Sharing* sharing, const Seen* before, const FrameColumn* columns, int64_t row, int64_t* newest
) noexcept nogil:
    """Stores the one frame that is new in the row, unless it is the last one again; False where more than that is new."""
    cdef int last = sharing.num_columns - 1
    cdef const char* data = NULL  # of a single column the row before is the state, this one the state after it
    cdef const char* after = columns[last].data + row * columns[last].stride
    cdef const char* whole
    cdef char* room = room_for_frame(&sharing.store)
    cdef int compared = REALLY_OTHER
    if room == NULL:
        return False
    # The line that two frames share is written in parts: have it here by then.
    really_prefetch(room + sharing.store.nbytes)
    if last == 1:
        data = columns[0].data + row * columns[0].stride
    if is_quick(sharing.stack, sharing.outer, sharing.inner):
        whole = whole_stack(sharing, before)
        compared = really_compare4(whole, whole if data == NULL else data, after, room, sharing.outer)
        sharing.store.next += compared == REALLY_MOVED
    elif sharing.outer == 1 and moves_on(sharing, before, data, after):
        compared = REALLY_STOOD if stands(sharing, before, data, after) else REALLY_MOVED
        if compared == REALLY_MOVED:
            store_frame(&sharing.store, after + (sharing.stack - 1) * sharing.store.nbytes, True)
            if columns[last].stride != sharing.store.nbytes:
                copy_waiting(&sharing.store)  # as no other stands beside it, now that reading is here
    if compared == REALLY_MOVED:
        newest[0] = sharing.store.next - 1
    return compared != REALLY_OTHER


cdef inline const char* whole_stack(Sharing* sharing, const Seen* seen) noexcept nogil:
    """Four woven frames: as they came in this put, else woven again, to where the next ones are as well."""
    cdef const char* frames[4]
    cdef int j
    if seen.put == sharing.put:
        return seen.data
    for j in range(4):
        frames[j] = frame_at(&sharing.store, seen.numbers[j])
    really_weave4(sharing.scratch, NULL, frames, 1, sharing.outer, False)
    return sharing.scratch


cdef inline bint moves_on(Sharing* sharing, const Seen* before, const char* data, const char* after) noexcept nogil:
    """Whether `data`, unless it is NULL, is the stack before, and `after` begins as that goes on."""
    cdef Py_ssize_t nbytes = sharing.store.nbytes
    cdef const char* frame
    cdef const char* here
    cdef int j
    if before.put == sharing.put:
        return really_moves(
            before.data, before.data if data == NULL else data, after, sharing.stack * nbytes, nbytes
        )
    for j in range(sharing.stack):
        frame = frame_at(&sharing.store, before.numbers[j])
        here = frame if data == NULL else data + j * nbytes
        if not really_moves(frame, here, here if j == 0 else after + (j - 1) * nbytes, nbytes, 0):
            return False
    return True


cdef inline bint stands(const Sharing* sharing, const Seen* before, const char* data, const char* after) noexcept nogil:
    """Whether the last frame came once more."""
    cdef Py_ssize_t last = (sharing.stack - 1) * sharing.store.nbytes
    cdef const char* frame = data + last if data != NULL else seen_frame(sharing, before, sharing.stack - 1)
    return really_same(after + last, frame, sharing.store.nbytes)


cdef inline void find_stack(const Sharing* sharing, const char* data, Stack* stack) noexcept nogil:
    """The frames of a stack that stands whole."""
    cdef int j
    for j in range(sharing.stack):
        stack.frames[j] = data + j * sharing.store.nbytes


cdef inline void find_stacks(
    Sharing* sharing, const FrameColumn* columns, int64_t row, Stack* stacks
) noexcept nogil:
    cdef int c, j
    cdef const char* data
    cdef char* apart
    for c in range(sharing.num_columns):
        if columns[c].indices != NULL:
            for j in range(sharing.stack):
                stacks[c].frames[j] = columns[c].data + columns[c].indices[row * sharing.stack + j] * columns[c].stride
            continue
        data = columns[c].data + row * columns[c].stride
        apart = sharing.scratch + c * sharing.stack * sharing.store.nbytes
        if sharing.outer != 1:
            take_apart(apart, data, sharing.stack, sharing.outer, sharing.inner)
            data = apart
        find_stack(sharing, data, &stacks[c])


cdef inline Seen* next_seen(Sharing* sharing) noexcept nogil:
    """Room for what is to be known of the next row; an old one that is still open moves on."""
    cdef Seen* seen = &sharing.recent[sharing.row % NUM_RECENT]
    if seen.is_open:
        hash_of(sharing, seen)
        sharing.opens[sharing.num_opened % NUM_OPEN] = seen[0]
        sharing.num_opened += 1
    seen.is_open = False
    return seen


cdef inline bint share_first(Sharing* sharing, const Stack* stack, int64_t* numbers) noexcept nogil:
    """The first column goes on from an earlier row's last column: it is the same, or one frame on where it is alone."""
    cdef int j, from_ = 0, on = sharing.num_columns == 1
    cdef Seen* before = find_before(sharing, stack)
    if before != NULL:
        before.is_open = False
        for j in range(sharing.stack - on):
            numbers[j] = before.numbers[j + on]
        from_ = sharing.stack - on
    else:
        sharing.num_alone += 1
    for j in range(from_, sharing.stack):
        if j > 0 and is_same_here(sharing, stack.frames[j], stack.frames[j - 1]):
            numbers[j] = numbers[j - 1]
        else:
            numbers[j] = store_frame(&sharing.store, stack.frames[j], sharing.in_place)
        if numbers[j] < 0:
            return False
    return True


cdef inline bint share_second(
    Sharing* sharing, const Stack* stacks, const int64_t* first, int64_t* numbers
) noexcept nogil:
    """The second column is the first one frame on, but for what a reset, a skipped frame or a longer step put there."""
    cdef int j
    cdef const Seen* before = &sharing.recent[(sharing.row + NUM_RECENT - 1) % NUM_RECENT]
    cdef bint near = before.row == sharing.row - 1 and before.row > 0 and is_held(sharing, before)
    for j in range(sharing.stack):
        if j + 1 < sharing.stack and is_same_here(sharing, stacks[1].frames[j], stacks[0].frames[j + 1]):
            numbers[j] = first[j + 1]
        elif is_same_here(sharing, stacks[1].frames[j], stacks[0].frames[j]):
            numbers[j] = first[j]
        elif j > 0 and is_same_here(sharing, stacks[1].frames[j], stacks[1].frames[j - 1]):
            numbers[j] = numbers[j - 1]
        elif j + 1 < sharing.stack and near and is_same(sharing, stacks[1].frames[j], seen_frame(sharing, before, j + 1)):
            numbers[j] = before.numbers[j + 1]
        else:
            numbers[j] = store_frame(&sharing.store, stacks[1].frames[j], sharing.in_place)
        if numbers[j] < 0:
            return False
    return True


cdef inline bint is_same_here(const Sharing* sharing, const char* frame, const char* other) noexcept nogil:
    """`is_same` of two frames of one row."""
    return frame == other or (not sharing.by_address and really_same(frame, other, sharing.store.nbytes))


cdef inline bint is_same(const Sharing* sharing, const char* frame, const char* other) noexcept nogil:
    return frame == other or really_same(frame, other, sharing.store.nbytes)


cdef inline Seen* find_before(Sharing* sharing, const Stack* stack) noexcept nogil:
    """What the row goes on from, or NULL."""
    cdef Seen* seen
    cdef int64_t i, num
    cdef int at = sharing.stack - (1 if sharing.num_columns == 2 else 2)
    if at < 0:
        return NULL
    for i in range(NUM_LAGS):
        seen = seen_before(sharing, sharing.lags[i])
        if seen != NULL and goes_on(sharing, seen, stack):
            use_lag(sharing, sharing.lags[i])
            return seen
    cdef uint64_t hash = hash_frame(stack.frames[at], sharing.store.nbytes)
    num = min(sharing.row, <int64_t>NUM_RECENT) - 1
    for i in range(1, num + 1):
        seen = &sharing.recent[(sharing.row - i) % NUM_RECENT]
        if seen.is_open and hash_of(sharing, seen) == hash and goes_on(sharing, seen, stack):
            use_lag(sharing, i)
            return seen
    num = min(sharing.num_opened, <int64_t>NUM_OPEN)
    for i in range(1, num + 1):
        seen = &sharing.opens[(sharing.num_opened - i) % NUM_OPEN]
        if seen.is_open and seen.hash == hash and goes_on(sharing, seen, stack):
            use_lag(sharing, 1)
            return seen
    return NULL


cdef inline Seen* seen_before(const Sharing* sharing, int64_t lag) noexcept nogil:
    """The row `lag` rows before the next one, if its trajectory is open; else NULL."""
    cdef Seen* seen = &sharing.recent[(sharing.row - lag) % NUM_RECENT]
    return seen if lag < sharing.row and seen.is_open and seen.row == sharing.row - lag else NULL


cdef inline void use_lag(Sharing* sharing, int64_t lag) noexcept nogil:
    """Looks there first from now on, then where it looked first before."""
    if lag != sharing.lags[0]:
        sharing.lags[1] = sharing.lags[0]
        sharing.lags[0] = lag


cdef inline bint is_held(const Sharing* sharing, const Seen* seen) noexcept nogil:
    """Whether all its frames are still there, and near enough not to keep many others from being given up."""
    cdef int j
    cdef int64_t oldest = max(
        sharing.store.oldest_block << sharing.store.shift, sharing.store.next - sharing.reach
    )
    for j in range(sharing.stack):
        if seen.numbers[j] < oldest:
            return False
    return True


cdef inline bint goes_on(const Sharing* sharing, const Seen* seen, const Stack* stack) noexcept nogil:
    cdef int j, on = sharing.num_columns == 1
    if not is_held(sharing, seen):
        return False
    if seen.put == sharing.put and seen.in_place and is_whole(sharing, &seen.stack) and is_whole(sharing, stack):
        return stack.frames[0] == seen.stack.frames[on] or really_same(
            stack.frames[0], seen.stack.frames[on], (sharing.stack - on) * sharing.store.nbytes
        )
    for j in range(sharing.stack - on):
        if not is_same(sharing, stack.frames[j], seen_frame(sharing, seen, j + on)):
            return False
    return True


cdef inline bint is_whole(const Sharing* sharing, const Stack* stack) noexcept nogil:
    """Whether its frames stand one behind the other."""
    cdef int j
    for j in range(1, sharing.stack):
        if stack.frames[j] != stack.frames[0] + j * sharing.store.nbytes:
            return False
    return True


cdef inline const char* seen_frame(const Sharing* sharing, const Seen* seen, int j) noexcept nogil:
    if seen.put == sharing.put and seen.in_place:
        return seen.stack.frames[j]
    return frame_at(&sharing.store, seen.numbers[j])


cdef inline uint64_t hash_of(const Sharing* sharing, Seen* seen) noexcept nogil:
    if seen.hash == 0 and is_held(sharing, seen):
        seen.hash = hash_frame(seen_frame(sharing, seen, sharing.stack - 1), sharing.store.nbytes)
    return seen.hash


cdef inline uint64_t hash_frame(const char* frame, Py_ssize_t nbytes) noexcept nogil:
    """A number other than 0 that differs for most frames that differ; four lanes, as a product takes four cycles."""
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
