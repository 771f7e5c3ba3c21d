"""Frames stored once: large rows are stacks of frames, and a record keeps the frames' numbers instead of their bytes.

A frame's number counts the frames stored before it; records keep it modulo 2**32. Frames stand in blocks, first in, first
out: a block is given up once no row that is held has its oldest frame there. Whether two frames are the same is always
decided by their bytes (or by their address, in data that a runner sends); where to look is a guess that costs nothing
but memory when it is wrong: the row that came `lag` rows before, as the row before last time did, else any trajectory
that was left open, found by a hash of its last frame.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from memory cimport (
    REALLY_LINE,
    really_block_allocate,
    really_block_map,
    really_commit,
    really_lines_free,
    really_lines_new,
    really_pages_release,
    really_pages_reserve,
    really_prefetch,
    really_stream,
    really_stream_end,
    really_unweave4,
    really_weave4,
)
from record cimport round_up

cdef enum:
    MAX_STACK = 16  # frames of a stack
    NUM_RECENT = 256  # rows that may lie between two of one trajectory in one interleaved stream
    NUM_OPEN = 512  # trajectories whose next row is waited for longer than that
    BLOCK_NBYTES = 1 << 24  # of frames that are given up together, about
    NUM_SPARE = 2  # blocks kept for what comes next
    PAGE = 4096
    TABLE_HEAD = 64  # bytes before the indices in a file's table
    AHEAD = 512  # bytes of a frame that are on their way while earlier ones are copied
    START = 1024  # bytes of the next row's frames that are asked for ahead
    STREAM_FROM = 1 << 25  # bytes; a batch this long would not stay in the cache until it is used

cdef struct FrameBlock:
    char* data  # NULL where there is none
    uint32_t index  # in the file, if frames are kept in one

cdef struct FrameFile:  # blocks that outlive the process
    int descriptor
    bint writable
    int64_t* next  # shared: number of the frame to come, never behind that of a row committed
    uint32_t* places  # [num_blocks], shared: block index + 1 of each place in the table
    uint32_t num_indices  # blocks that the file has
    uint32_t* free  # [num_blocks], indices of blocks that no row needs
    int64_t num_free
    int error  # why the file could not grow; 0 where it could

cdef struct FrameStore:
    Py_ssize_t nbytes  # of a frame
    Py_ssize_t stride  # bytes from one frame to the next
    Py_ssize_t block_nbytes
    int shift  # 1 << shift frames in a block
    int64_t num_blocks  # length of the tables, a power of two; block b is in place b % num_blocks
    FrameBlock* blocks  # [num_blocks]
    int64_t* num_rows  # [num_blocks], how many rows held have their oldest frame there
    int64_t next  # number of the frame to come
    int64_t oldest_block
    FrameBlock spare[NUM_SPARE]
    int num_spare
    const char* waiting  # frames that have numbers and are yet to be copied, side by side where they come from
    int64_t num_waiting
    FrameFile* file  # NULL where frames are kept in memory

cdef struct Stack:  # of one row: where each frame is
    const char* frames[MAX_STACK]

cdef struct Seen:  # the stack that a trajectory goes on from
    int64_t row  # counted from 1; 0 where there is none
    int64_t put  # during which the frames are where `stack` says
    uint64_t hash  # of the last frame; 0 while nobody has asked
    bint is_open  # no later row has gone on from it
    int64_t numbers[MAX_STACK]
    Stack stack

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
    int64_t lag  # rows between two of a trajectory, last time
    int64_t reach  # how many frames back a row may share
    bint by_address  # frames of this put are the same where they stand in one place, as in what runners send
    int64_t num_alone  # rows of this put that go on from no other
    Seen* recent  # [NUM_RECENT], row r in place r % NUM_RECENT
    Seen* opens  # [NUM_OPEN], a ring
    int64_t num_opened
    char* scratch  # [2, stack] frames, where rows are taken apart whose stack axis is not the first

cdef struct FrameColumn:  # rows [num, stack] of frames, or whole rows where `indices` is NULL
    const char* data
    Py_ssize_t stride  # of rows; of frames where there are indices
    const int* indices


# Blocks --------------------------------------------------------------------------------------------------------------

cdef inline bint init_sharing(Sharing* sharing, int64_t capacity, int64_t num_slots) noexcept nogil:
    """Makes the tables of a sharing whose sizes are set; False when there is no memory."""
    cdef FrameStore* store = &sharing.store
    # As many rows as one put commits beside those held.
    cdef int64_t most = (capacity + max(capacity, num_slots - capacity)) * sharing.stack * sharing.num_columns
    store.stride = store.nbytes  # side by side, so that frames that follow each other are one copy
    store.shift = 4
    while (store.stride << store.shift) < BLOCK_NBYTES and (<int64_t>8 << store.shift) < capacity:
        store.shift += 1
    store.block_nbytes = round_up(store.stride << store.shift, PAGE)
    store.num_blocks = 4
    while store.num_blocks < (most >> store.shift) + 4:
        store.num_blocks *= 2
    sharing.reach = 4096 + capacity // 16
    sharing.lag = sharing.row = 1
    store.blocks = <FrameBlock*>zeros(store.num_blocks * sizeof(FrameBlock))
    store.num_rows = <int64_t*>zeros(store.num_blocks * sizeof(int64_t))
    sharing.recent = <Seen*>zeros(NUM_RECENT * sizeof(Seen))
    sharing.opens = <Seen*>zeros(NUM_OPEN * sizeof(Seen))
    sharing.scratch = <char*>zeros(2 * sharing.stack * store.nbytes)
    return (
        store.blocks != NULL and store.num_rows != NULL and sharing.recent != NULL and sharing.opens != NULL
        and sharing.scratch != NULL
    )


cdef inline void* zeros(size_t nbytes) noexcept nogil:
    cdef void* memory = really_lines_new(nbytes)
    if memory != NULL:
        memset(memory, 0, nbytes)
    return memory


cdef inline void free_sharing(Sharing* sharing) noexcept nogil:
    cdef FrameStore* store = &sharing.store
    cdef int64_t i
    if store.blocks != NULL:
        for i in range(store.num_blocks):
            really_pages_release(store.blocks[i].data, store.block_nbytes)
    for i in range(store.num_spare):
        really_pages_release(store.spare[i].data, store.block_nbytes)
    if store.file != NULL:
        really_lines_free(store.file.free)
        really_lines_free(store.file)
    really_lines_free(store.blocks)
    really_lines_free(store.num_rows)
    really_lines_free(sharing.recent)
    really_lines_free(sharing.opens)
    really_lines_free(sharing.scratch)


cdef inline int64_t place_of(const FrameStore* store, int64_t number) noexcept nogil:
    """Where the frame's block stands in the tables."""
    return (number >> store.shift) & (store.num_blocks - 1)


cdef inline char* frame_at(const FrameStore* store, int64_t number) noexcept nogil:
    return store.blocks[place_of(store, number)].data + (number & ((<int64_t>1 << store.shift) - 1)) * store.stride


cdef inline int64_t whole_number(const FrameStore* store, uint32_t number) noexcept nogil:
    """The number of a frame that is held, from what a record keeps of it."""
    return store.next - <int64_t>(<uint32_t>store.next - number)


cdef inline int64_t store_frame(FrameStore* store, const char* source, bint streams) noexcept nogil:
    """Stores a frame behind the newest; its number, or -1 when there is no memory."""
    cdef int64_t number = store.next
    if store.blocks[place_of(store, number)].data == NULL and not add_block(store, place_of(store, number)):
        return -1
    if not streams:
        memcpy(frame_at(store, number), source, store.nbytes)
    elif (
        store.num_waiting > 0 and source == store.waiting + store.num_waiting * store.nbytes
        and place_of(store, number) == place_of(store, number - 1)
    ):
        store.num_waiting += 1
    else:
        copy_waiting(store)
        store.waiting, store.num_waiting = source, 1
    store.next = number + 1
    return number


cdef inline void copy_waiting(FrameStore* store) noexcept nogil:
    """Copies the newest frames in one stream: each by itself would write the lines between two of them in parts."""
    if store.num_waiting > 0:
        really_stream(
            frame_at(store, store.next - store.num_waiting), store.waiting, store.num_waiting * store.nbytes, AHEAD
        )
    store.num_waiting = 0


cdef inline bint add_block(FrameStore* store, int64_t place) noexcept nogil:
    """Puts a block into an empty place; False when there is no memory for it, or no room in the file."""
    cdef FrameBlock* block = &store.blocks[place]
    if (store.next >> store.shift) - store.oldest_block >= store.num_blocks:
        return False
    if store.num_spare > 0:
        store.num_spare -= 1
        block[0] = store.spare[store.num_spare]
    elif store.file == NULL:
        block.data = <char*>really_pages_reserve(store.block_nbytes)
    elif find_free_index(store, &block.index):
        block.data = <char*>really_block_map(store.file.descriptor, block.index, store.block_nbytes, True)
    if block.data != NULL and store.file != NULL:
        store.file.places[place] = block.index + 1
    return block.data != NULL


cdef inline bint find_free_index(FrameStore* store, uint32_t* index) noexcept nogil:
    """A block of the file that no row needs, if need be a new one; False when the disk has no room for it."""
    cdef FrameFile* file = store.file
    if file.num_free > 0:
        file.num_free -= 1
        index[0] = file.free[file.num_free]
        return True
    file.error = really_block_allocate(file.descriptor, file.num_indices, store.block_nbytes)
    if file.error != 0:
        return False
    index[0] = file.num_indices
    file.num_indices += 1
    return True


cdef inline void give_up_block(FrameStore* store, int64_t block) noexcept nogil:
    cdef FrameBlock* place = &store.blocks[block & (store.num_blocks - 1)]
    if place.data == NULL:
        return
    if store.num_spare < NUM_SPARE:
        store.spare[store.num_spare] = place[0]
        store.num_spare += 1
    else:
        really_pages_release(place.data, store.block_nbytes)
        if store.file != NULL:
            store.file.free[store.file.num_free] = place.index
            store.file.num_free += 1
    place.data = NULL


cdef inline int64_t oldest_needed(const FrameStore* store) noexcept nogil:
    """The oldest block that a row needs, or the one that is being filled."""
    cdef int64_t block = store.oldest_block
    while block < store.next >> store.shift and store.num_rows[block & (store.num_blocks - 1)] == 0:
        block += 1
    return block


cdef inline void give_up_dropped(FrameStore* store) noexcept nogil:
    """Gives up the oldest blocks that no row needs any more."""
    cdef int64_t block, needed = oldest_needed(store)
    for block in range(store.oldest_block, needed):
        give_up_block(store, block)
    store.oldest_block = needed


cdef inline int64_t num_blocks_needed(const FrameStore* store) noexcept nogil:
    return ((store.next + (<int64_t>1 << store.shift) - 1) >> store.shift) - oldest_needed(store)


cdef inline void take_back(Sharing* sharing) noexcept nogil:
    """Forgets the frames of the last put, and all guesses, which may name them."""
    cdef FrameStore* store = &sharing.store
    store.num_waiting = 0
    cdef int64_t size = <int64_t>1 << store.shift
    cdef int64_t block
    for block in range((sharing.start + size - 1) >> store.shift, (store.next + size) >> store.shift):
        give_up_block(store, block)
    store.next = sharing.start
    forget(sharing)


cdef inline void give_up_all(Sharing* sharing) noexcept nogil:
    """No row is held any more."""
    memset(sharing.store.num_rows, 0, sharing.store.num_blocks * sizeof(int64_t))
    give_up_dropped(&sharing.store)


cdef inline void forget(Sharing* sharing) noexcept nogil:
    memset(sharing.recent, 0, NUM_RECENT * sizeof(Seen))
    memset(sharing.opens, 0, NUM_OPEN * sizeof(Seen))


cdef inline void count_rows(
    FrameStore* store, const char* lows, Py_ssize_t stride, int64_t num_rows, int64_t by
) noexcept nogil:
    """Counts rows in or out by their oldest frames."""
    cdef int64_t i
    cdef uint32_t low
    for i in range(num_rows):
        memcpy(&low, lows + i * stride, sizeof(uint32_t))
        store.num_rows[place_of(store, whole_number(store, low))] += by


# Blocks in a file ----------------------------------------------------------------------------------------------------

cdef inline bint attach_file(
    FrameStore* store, int descriptor, char* table, uint32_t num_indices, bint writable
) noexcept nogil:
    """Keeps frames in a file of `num_indices` blocks; `table` is TABLE_HEAD bytes, then a place's index for each.

    False when there is no memory. `find_blocks` has to follow, once the rows held have been counted.
    """
    cdef FrameFile* file = <FrameFile*>zeros(sizeof(FrameFile))
    if file == NULL:
        return False
    store.file = file
    file.free = <uint32_t*>zeros((store.num_blocks + NUM_SPARE + num_indices) * sizeof(uint32_t))
    file.descriptor, file.writable, file.num_indices = descriptor, writable, num_indices
    file.next = <int64_t*>table
    file.places = <uint32_t*>(table + TABLE_HEAD)
    store.next = file.next[0]
    return file.free != NULL


cdef inline bint find_blocks(FrameStore* store) noexcept nogil:
    """Maps the blocks that rows need; all others are free. False where the table names one that the file has not."""
    cdef FrameFile* file = store.file
    cdef int64_t block, size = <int64_t>1 << store.shift
    cdef uint32_t index
    store.oldest_block = max((store.next >> store.shift) - store.num_blocks + 1, <int64_t>0)
    store.oldest_block = oldest_needed(store)
    for block in range(store.oldest_block, (store.next + size - 1) >> store.shift):
        if not map_block(store, block & (store.num_blocks - 1)):
            return False
    for index in range(file.num_indices):
        if not is_mapped(store, index):
            file.free[file.num_free] = index
            file.num_free += 1
    return True


cdef inline bint map_block(FrameStore* store, int64_t place) noexcept nogil:
    """Maps the block that the shared table has for a place, unless it is mapped already."""
    cdef FrameBlock* block = &store.blocks[place]
    cdef uint32_t index = store.file.places[place] - 1
    if block.data != NULL and block.index == index:
        return True
    if block.data != NULL:
        really_pages_release(block.data, store.block_nbytes)
        block.data = NULL
    if index >= store.file.num_indices and store.file.writable:
        return False
    block.index = index
    block.data = <char*>really_block_map(store.file.descriptor, index, store.block_nbytes, store.file.writable)
    return block.data != NULL


cdef inline bint is_mapped(const FrameStore* store, uint32_t index) noexcept nogil:
    cdef int64_t place
    for place in range(store.num_blocks):
        if store.blocks[place].data != NULL and store.blocks[place].index == index:
            return True
    return False


cdef inline void publish_next(FrameStore* store) noexcept nogil:
    """To be called before rows are committed that need the newest frames."""
    if store.file != NULL:
        really_commit(store.file.next, store.next)


cdef inline bint follow_writer(FrameStore* store) noexcept nogil:
    """In a process that only reads, maps what the writing one has added; False where it cannot."""
    cdef int64_t block, size = <int64_t>1 << store.shift
    store.next = store.file.next[0]
    store.oldest_block = max((store.next >> store.shift) - store.num_blocks + 1, <int64_t>0)
    for block in range(store.oldest_block, (store.next + size - 1) >> store.shift):
        if store.file.places[block & (store.num_blocks - 1)] != 0 and not map_block(
            store, block & (store.num_blocks - 1)
        ):
            return False
    return True


# In ------------------------------------------------------------------------------------------------------------------

cdef inline bint share(
    Sharing* sharing, const FrameColumn* columns, int64_t first, int64_t num_rows, uint32_t** numbers, uint32_t* lows
) noexcept nogil:
    """Stores the frames of rows `first` to `first + num_rows` that are not there yet.

    Writes the numbers of each row's frames to `numbers[column]` [num_rows, stack], and of its oldest frame to `lows`.
    False when there is no memory for more; then `take_back` has to follow.
    """
    cdef int64_t i
    cdef Stack stacks[2]
    cdef Seen* seen
    sharing.put += 1
    sharing.start = sharing.store.next
    sharing.by_address = columns[0].indices != NULL
    sharing.num_alone = 0
    for i in range(num_rows):
        find_stacks(sharing, columns, first + i, stacks)
        seen = next_seen(sharing)
        if not share_row(
            sharing, stacks, columns[0].indices != NULL or sharing.outer == 1, seen,
            numbers[0] + i * sharing.stack,
            numbers[sharing.num_columns - 1] + i * sharing.stack, lows + i,
        ):
            return False
    copy_waiting(&sharing.store)
    really_stream_end()
    return True


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
            take_apart(sharing, data, apart)
            data = apart
        for j in range(sharing.stack):
            stacks[c].frames[j] = data + j * sharing.store.nbytes


cdef inline Seen* next_seen(Sharing* sharing) noexcept nogil:
    """Room for what is to be known of the next row; an old one that is still open moves on."""
    cdef Seen* seen = &sharing.recent[sharing.row % NUM_RECENT]
    if seen.is_open:
        hash_of(sharing, seen)
        sharing.opens[sharing.num_opened % NUM_OPEN] = seen[0]
        sharing.num_opened += 1
    seen.is_open = False
    return seen


cdef inline bint share_row(
    Sharing* sharing, const Stack* stacks, bint lasts, Seen* seen, uint32_t* first_out, uint32_t* last_out, uint32_t* low
) noexcept nogil:
    cdef int64_t numbers[2][MAX_STACK]
    cdef int j, last = sharing.num_columns - 1
    if not share_first(sharing, &stacks[0], numbers[0]):
        return False
    if last == 1 and not share_second(sharing, stacks, numbers[0], numbers[1]):
        return False
    cdef int64_t oldest = numbers[0][0]
    for j in range(sharing.stack):
        first_out[j] = <uint32_t>numbers[0][j]
        last_out[j] = <uint32_t>numbers[last][j]
        oldest = min(oldest, min(numbers[0][j], numbers[last][j]))
        seen.numbers[j] = numbers[last][j]
    low[0] = <uint32_t>oldest
    seen.stack = stacks[last]
    seen.row = sharing.row
    seen.put = sharing.put if lasts else 0
    seen.hash = 0
    seen.is_open = True
    sharing.row += 1
    return True


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
            numbers[j] = store_frame(&sharing.store, stack.frames[j], sharing.outer == 1)
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
            numbers[j] = store_frame(&sharing.store, stacks[1].frames[j], sharing.outer == 1)
        if numbers[j] < 0:
            return False
    return True


cdef inline bint is_same_here(const Sharing* sharing, const char* frame, const char* other) noexcept nogil:
    """`is_same` of two frames of one row."""
    return frame == other or (not sharing.by_address and memcmp(frame, other, sharing.store.nbytes) == 0)


cdef inline bint is_same(const Sharing* sharing, const char* frame, const char* other) noexcept nogil:
    return frame == other or memcmp(frame, other, sharing.store.nbytes) == 0


cdef inline Seen* find_before(Sharing* sharing, const Stack* stack) noexcept nogil:
    """What the row goes on from, or NULL."""
    cdef Seen* seen
    cdef int64_t i, num
    cdef int at = sharing.stack - (1 if sharing.num_columns == 2 else 2)
    if at < 0:
        return NULL
    if sharing.lag < sharing.row:
        seen = &sharing.recent[(sharing.row - sharing.lag) % NUM_RECENT]
        if seen.is_open and seen.row == sharing.row - sharing.lag and goes_on(sharing, seen, stack):
            return seen
    cdef uint64_t hash = hash_frame(stack.frames[at], sharing.store.nbytes)
    num = min(sharing.row, <int64_t>NUM_RECENT) - 1
    for i in range(1, num + 1):
        seen = &sharing.recent[(sharing.row - i) % NUM_RECENT]
        if seen.is_open and hash_of(sharing, seen) == hash and goes_on(sharing, seen, stack):
            sharing.lag = i
            return seen
    num = min(sharing.num_opened, <int64_t>NUM_OPEN)
    for i in range(1, num + 1):
        seen = &sharing.opens[(sharing.num_opened - i) % NUM_OPEN]
        if seen.is_open and seen.hash == hash and goes_on(sharing, seen, stack):
            sharing.lag = 1
            return seen
    return NULL


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
    if seen.put == sharing.put and is_whole(sharing, &seen.stack) and is_whole(sharing, stack):
        return stack.frames[0] == seen.stack.frames[on] or memcmp(stack.frames[0], seen.stack.frames[on], (sharing.stack - on) * sharing.store.nbytes) == 0
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
    if seen.put == sharing.put:
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


# Out -----------------------------------------------------------------------------------------------------------------

cdef inline void unshare(
    const Sharing* sharing, uint32_t** numbers, Py_ssize_t num_rows, char** columns
) noexcept nogil:
    """Copies the frames of each row to `columns[column]` [num_rows, ...]."""
    cdef Py_ssize_t row_nbytes = sharing.stack * sharing.store.nbytes
    cdef bint streams = num_rows * row_nbytes * sharing.num_columns >= STREAM_FROM and sharing.outer == 1
    cdef Py_ssize_t i
    cdef int c
    for i in range(num_rows):
        for c in range(sharing.num_columns):
            if i + 1 < num_rows:
                prefetch_frames(sharing, numbers[c] + (i + 1) * sharing.stack)
            copy_stack(sharing, numbers[c] + i * sharing.stack, columns[c] + i * row_nbytes, streams)
    if streams:
        really_stream_end()


cdef inline Py_ssize_t number_frames(
    const Sharing* sharing, const uint32_t* first, const uint32_t* last, Py_ssize_t num_rows,
    int* first_out, int* last_out, int64_t* order,
) noexcept nogil:
    """Numbers the frames of rows anew, from 0 on as rows need them; `order` [2 * num_rows * stack] has the old numbers.

    Returns how many there are, -1 when there is no memory.
    """
    cdef const FrameStore* store = &sharing.store
    cdef int64_t least = store.next, most = 0
    cdef Py_ssize_t i, j, count = 0
    for i in range(num_rows * sharing.stack):
        least = min(least, min(whole_number(store, first[i]), whole_number(store, last[i])))
        most = max(most, max(whole_number(store, first[i]), whole_number(store, last[i])))
    cdef int* found = <int*>zeros((most - least + 1) * sizeof(int) + 1) if num_rows > 0 else <int*>zeros(1)
    if found == NULL:
        return -1
    for i in range(num_rows):
        for j in range(i * sharing.stack, (i + 1) * sharing.stack):
            first_out[j] = number_anew(whole_number(store, first[j]), least, found, order, &count)
        for j in range(i * sharing.stack, (i + 1) * sharing.stack):
            last_out[j] = number_anew(whole_number(store, last[j]), least, found, order, &count)
    really_lines_free(found)
    return count


cdef inline int number_anew(
    int64_t number, int64_t least, int* found, int64_t* order, Py_ssize_t* count
) noexcept nogil:
    if found[number - least] == 0:
        order[count[0]] = number
        count[0] += 1
        found[number - least] = <int>count[0]
    return found[number - least] - 1


cdef inline void prefetch_frames(const Sharing* sharing, const uint32_t* numbers) noexcept nogil:
    # The processor sees by itself how frames that stand side by side go on, not where others begin.
    cdef Py_ssize_t at = 0
    cdef const char* frame = frame_at(&sharing.store, numbers[0])
    while at < min(sharing.store.nbytes, <Py_ssize_t>START):
        really_prefetch(frame + at)
        at += REALLY_LINE


cdef inline void copy_stack(
    const Sharing* sharing, const uint32_t* numbers, char* row, bint streams
) noexcept nogil:
    cdef int j
    cdef Py_ssize_t nbytes = sharing.store.nbytes
    cdef const char* frames[MAX_STACK]
    for j in range(sharing.stack):
        frames[j] = frame_at(&sharing.store, numbers[j])
    if sharing.outer != 1:
        put_together(sharing, frames, row)
        return
    cdef int num
    j = 0
    while j < sharing.stack:
        num = 1
        while j + num < sharing.stack and frames[j + num] == frames[j] + num * nbytes:
            num += 1
        if streams:
            really_stream(row + j * nbytes, frames[j], num * nbytes, START)
        else:
            memcpy(row + j * nbytes, frames[j], num * nbytes)
        j += num


# Stacks whose axis is not the first ----------------------------------------------------------------------------------

cdef inline void take_apart(const Sharing* sharing, const char* row, char* frames) noexcept nogil:
    """Frames `[stack, outer, inner]` of a row `[outer, stack, inner]`."""
    cdef Py_ssize_t i, inner = sharing.inner
    cdef int j, stack = sharing.stack
    if stack == 4 and inner == 1:
        really_unweave4(frames, row, sharing.outer)
        return
    for j in range(stack):
        for i in range(sharing.outer):
            memcpy(frames + j * sharing.store.nbytes + i * inner, row + (i * stack + j) * inner, inner)


cdef inline void put_together(const Sharing* sharing, const char** frames, char* row) noexcept nogil:
    """A row `[outer, stack, inner]` of frames `[outer, inner]`."""
    cdef Py_ssize_t i, inner = sharing.inner
    cdef int j, stack = sharing.stack
    if stack == 4 and inner == 1:
        really_weave4(row, frames[0], frames[1], frames[2], frames[3], sharing.outer)
        return
    for i in range(sharing.outer):
        for j in range(stack):
            memcpy(row + (i * stack + j) * inner, frames[j] + i * inner, inner)
