"""Frames in blocks, first in, first out; in memory, or in a file that outlives the process.

A frame's number counts the frames stored before it; records keep it modulo 2**32. A block is given up once no row that is
held has its oldest frame there.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy, memset

from memory cimport (
    really_block_allocate,
    really_block_map,
    really_commit,
    really_lines_free,
    really_lines_new,
    really_pages_release,
    really_pages_reserve,
    really_stream,
)
from record cimport round_up

cdef enum:
    BLOCK_NBYTES = 1 << 24  # of frames that are given up together, about
    NUM_SPARE = 2  # blocks kept for what comes next
    PAGE = 4096
    TABLE_HEAD = 64  # bytes before the indices in a file's table
    AHEAD = 512  # bytes of a frame that are on their way while earlier ones are copied

cdef struct FrameBlock:
    char* data  # NULL where there is none
    uint32_t index  # in the file, if frames are kept in one

cdef struct FrameFile:  # blocks that outlive the process
    int descriptor
    bint writable
    bint huge  # pages; not where memory has no room for all of it, as each comes from the disk whole
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


cdef inline bint init_store(FrameStore* store, int64_t capacity, int64_t most) noexcept nogil:
    """Makes the tables of a store for `most` frames of `nbytes`, which is set; False when there is no memory."""
    store.stride = store.nbytes  # side by side, so that frames that follow each other are one copy
    store.shift = 4
    while (store.stride << store.shift) < BLOCK_NBYTES and (<int64_t>8 << store.shift) < capacity:
        store.shift += 1
    store.block_nbytes = round_up(store.stride << store.shift, PAGE)
    store.num_blocks = 4
    while store.num_blocks < (most >> store.shift) + 4:
        store.num_blocks *= 2
    store.blocks = <FrameBlock*>zeros(store.num_blocks * sizeof(FrameBlock))
    store.num_rows = <int64_t*>zeros(store.num_blocks * sizeof(int64_t))
    return store.blocks != NULL and store.num_rows != NULL


cdef inline void* zeros(size_t nbytes) noexcept nogil:
    cdef void* memory = really_lines_new(nbytes)
    if memory != NULL:
        memset(memory, 0, nbytes)
    return memory


cdef inline void free_store(FrameStore* store) noexcept nogil:
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


cdef inline int64_t place_of(const FrameStore* store, int64_t number) noexcept nogil:
    """Where the frame's block stands in the tables."""
    return (number >> store.shift) & (store.num_blocks - 1)


cdef inline char* frame_at(const FrameStore* store, int64_t number) noexcept nogil:
    return store.blocks[place_of(store, number)].data + (number & ((<int64_t>1 << store.shift) - 1)) * store.stride


cdef inline int64_t whole_number(const FrameStore* store, uint32_t number) noexcept nogil:
    """The number of a frame that is held, from what a record keeps of it."""
    return store.next - <int64_t>(<uint32_t>store.next - number)


cdef inline char* room_for_frame(FrameStore* store) noexcept nogil:
    """Where the next frame goes, or NULL when there is no memory; whoever writes it there adds 1 to `next`."""
    if (store.next >> store.shift) - store.oldest_block >= store.num_blocks:
        return NULL  # the place is that of a block which is held
    if store.blocks[place_of(store, store.next)].data == NULL and not add_block(store, place_of(store, store.next)):
        return NULL
    return frame_at(store, store.next)


cdef inline int64_t store_frame(FrameStore* store, const char* source, bint waits) noexcept nogil:
    """Stores a frame behind the newest; its number, or -1 when there is no memory.

    One that waits is copied by `copy_waiting`, until when `source` has to stay.
    """
    cdef int64_t number = store.next
    cdef char* room = room_for_frame(store)
    if room == NULL:
        return -1
    if not waits:
        memcpy(room, source, store.nbytes)
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
    if store.num_spare > 0:
        store.num_spare -= 1
        block[0] = store.spare[store.num_spare]
    elif store.file == NULL:
        block.data = <char*>really_pages_reserve(store.block_nbytes)
    elif find_free_index(store, &block.index):
        block.data = <char*>really_block_map(store.file.descriptor, block.index, store.block_nbytes, True, store.file.huge)
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


cdef inline void give_up_from(FrameStore* store, int64_t number) noexcept nogil:
    """Forgets the frames from this number on, which no row needs."""
    cdef int64_t block, size = <int64_t>1 << store.shift
    cdef int64_t end = min((store.next + size) >> store.shift, store.oldest_block + store.num_blocks)
    store.num_waiting = 0
    for block in range((number + size - 1) >> store.shift, end):
        give_up_block(store, block)
    store.next = number


cdef inline void give_up_all(FrameStore* store) noexcept nogil:
    """No row is held any more."""
    memset(store.num_rows, 0, store.num_blocks * sizeof(int64_t))
    give_up_dropped(store)


cdef inline void count_rows(
    FrameStore* store, const char* lows, Py_ssize_t stride, int64_t num_rows, int64_t by
) noexcept nogil:
    """Counts rows in or out by their oldest frames."""
    cdef int64_t i
    cdef uint32_t low
    for i in range(num_rows):
        memcpy(&low, lows + i * stride, sizeof(uint32_t))
        store.num_rows[place_of(store, whole_number(store, low))] += by


# In a file -----------------------------------------------------------------------------------------------------------

cdef inline bint attach_file(
    FrameStore* store, int descriptor, char* table, uint32_t num_indices, bint writable, bint huge
) noexcept nogil:
    """Keeps frames in a file of `num_indices` blocks; `table` is TABLE_HEAD bytes, then a place's index for each.

    False when there is no memory. `find_blocks` has to follow, once the rows held have been counted.
    """
    cdef FrameFile* file = <FrameFile*>zeros(sizeof(FrameFile))
    if file == NULL:
        return False
    store.file = file
    file.free = <uint32_t*>zeros((store.num_blocks + NUM_SPARE + num_indices) * sizeof(uint32_t))
    file.descriptor, file.writable, file.huge, file.num_indices = descriptor, writable, huge, num_indices
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
    block.data = <char*>really_block_map(store.file.descriptor, index, store.block_nbytes, store.file.writable, store.file.huge)
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
