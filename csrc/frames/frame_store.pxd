"""Frames in blocks, first in, first out, in memory or in a file.

A frame's number counts the frames stored before it. Records keep it modulo 2**32. A block is released once it holds the
oldest frame of no row.
"""

from libc.stdint cimport UINT32_MAX, int64_t, uint32_t
from libc.string cimport memcpy, memset

from memory cimport (
    REALLY_HUGE_PAGE,
    really_block_allocate,
    really_block_map,
    really_file_nbytes,
    really_page_nbytes,
    really_store_release,
    really_aligned_free,
    really_aligned_new,
    really_pages_discard,
    really_pages_release,
    really_pages_reserve,
    really_stream,
    really_stream_append,
    really_stream_begin,
    really_stream_end,
    round_up,
)

cdef enum:
    BLOCK_NBYTES = 1 << 24  # of a block, about
    SEGMENT_NBYTES = 1 << 26  # of address space that is reserved for blocks in memory at once, about
    NUM_SPARE = 2  # released blocks that are kept for reuse, besides as many as a recent put added
    RECENT = 256  # puts
    TABLE_HEAD = 64  # bytes before the indices in a file's table
    AHEAD = 512  # bytes by which a frame is prefetched ahead of its copy

cdef struct FrameBlock:
    char* data  # NULL if there is no block
    uint32_t index  # in the file, if frames are in one

cdef struct FrameFile:  # a file of blocks, with its table in shared memory
    int descriptor
    bint writable
    bint huge  # pages; False if the file exceeds memory, because the disk reads a huge page whole
    int64_t* next  # in the table: number of the next frame; greater than the numbers of all committed rows' frames
    uint32_t* table  # [num_blocks], in the file's table: block index + 1, or 0 for none
    uint32_t num_indices  # blocks in the file
    uint32_t* free  # [num_blocks], indices of blocks that no row needs
    int64_t num_free
    int error  # errno if the file could not grow, else 0

cdef struct FrameMemory:  # blocks in memory are adjacent parts of segments, so that huge pages hold parts of several
    char** segments  # [num_segments]
    int64_t num_segments
    Py_ssize_t segment_nbytes
    Py_ssize_t used  # bytes of the last segment
    char** idle  # blocks whose pages were given back
    int64_t num_idle

cdef struct FrameStore:
    Py_ssize_t nbytes  # of a frame
    Py_ssize_t stride  # bytes from one frame to the next
    Py_ssize_t block_nbytes
    int shift  # 1 << shift frames in a block
    int64_t num_blocks  # length of the tables, a power of two; block b has entry b % num_blocks
    FrameBlock* blocks  # [num_blocks]
    int64_t* num_rows  # [num_blocks], number of rows held whose oldest frame is in the block
    int64_t next  # number of the next frame
    int64_t oldest_block
    FrameBlock* spare  # [num_blocks]
    int64_t num_spare
    int64_t num_added  # blocks that this put has added
    int64_t most_added  # by one of the last puts
    int64_t num_since  # puts since then
    really_stream stream  # to the next frame; two frames may share a cache line, which is then written once
    bint streams  # whether the stream has begun
    bint caches  # whether the frames of this put are written to the cache, as the next put will compare them
    FrameMemory memory  # unless frames are in a file
    FrameFile* file  # NULL if frames are in memory


cdef inline bint init_store(
    FrameStore* store, int64_t capacity, int64_t max_frames, bint in_file
) noexcept nogil:
    """Allocates the tables for up to `max_frames` frames of `store.nbytes`. Returns False if there is no memory."""
    store.stride = store.nbytes  # no padding, so that successive frames are one copy
    store.shift = 4
    while (store.stride << store.shift) < BLOCK_NBYTES and (
        least_blocks(store, in_file) << store.shift < capacity
    ):
        store.shift += 1
    store.block_nbytes = round_up(store.stride << store.shift, really_page_nbytes())
    store.num_blocks = 4
    while store.num_blocks < (max_frames >> store.shift) + 4:
        store.num_blocks *= 2
    store.blocks = <FrameBlock*>zeroed_new(store.num_blocks * sizeof(FrameBlock))
    store.num_rows = <int64_t*>zeroed_new(store.num_blocks * sizeof(int64_t))
    store.spare = <FrameBlock*>zeroed_new(store.num_blocks * sizeof(FrameBlock))
    return store.blocks != NULL and store.num_rows != NULL and store.spare != NULL and (
        in_file or init_memory(&store.memory, store.num_blocks, store.block_nbytes)
    )


cdef inline bint init_memory(FrameMemory* memory, int64_t num_blocks, Py_ssize_t block_nbytes) noexcept nogil:
    """Sets the size of segments. Returns False if there is no memory for the tables."""
    cdef int64_t per_segment = min(max(SEGMENT_NBYTES // block_nbytes, <Py_ssize_t>4), num_blocks)
    memory.segment_nbytes = memory.used = per_segment * block_nbytes
    # As many blocks are in use at most, and as many spare.
    memory.segments = <char**>zeroed_new((2 * num_blocks // per_segment + 2) * sizeof(char*))
    memory.idle = <char**>zeroed_new((2 * num_blocks + 2) * sizeof(char*))
    return memory.segments != NULL and memory.idle != NULL


cdef inline char* take_memory(FrameMemory* memory, Py_ssize_t block_nbytes) noexcept nogil:
    """Memory for a block, or NULL if the system gives none."""
    cdef char* segment
    if memory.num_idle > 0:
        memory.num_idle -= 1
        return memory.idle[memory.num_idle]
    if memory.used == memory.segment_nbytes:
        segment = <char*>really_pages_reserve(memory.segment_nbytes)
        if segment == NULL:
            return NULL
        memory.segments[memory.num_segments] = segment
        memory.num_segments += 1
        memory.used = 0
    memory.used += block_nbytes
    return memory.segments[memory.num_segments - 1] + memory.used - block_nbytes


cdef inline void free_memory(FrameMemory* memory) noexcept nogil:
    cdef int64_t i
    for i in range(memory.num_segments):
        really_pages_release(memory.segments[i], memory.segment_nbytes)
    really_aligned_free(memory.segments)
    really_aligned_free(memory.idle)


cdef inline int64_t least_blocks(const FrameStore* store, bint in_file) noexcept nogil:
    """How many blocks there are at least for a frame of each row, while the size of a block grows.

    A few blocks are not full. In memory, blocks of more than a huge page are small beside the whole.
    """
    return 8 if in_file or (store.stride << store.shift) < REALLY_HUGE_PAGE else 64


cdef inline void* zeroed_new(size_t nbytes) noexcept nogil:
    cdef void* memory = really_aligned_new(nbytes)
    if memory != NULL:
        memset(memory, 0, nbytes)
    return memory


cdef inline void free_store(FrameStore* store) noexcept nogil:
    cdef int64_t i
    if store.file != NULL:
        for i in range(store.num_blocks):
            really_pages_release(store.blocks[i].data, store.block_nbytes)
        for i in range(store.num_spare):
            really_pages_release(store.spare[i].data, store.block_nbytes)
        really_aligned_free(store.file.free)
        really_aligned_free(store.file)
    free_memory(&store.memory)
    really_aligned_free(store.blocks)
    really_aligned_free(store.num_rows)
    really_aligned_free(store.spare)


cdef inline int64_t table_index(const FrameStore* store, int64_t number) noexcept nogil:
    """Entry of the frame's block in the tables."""
    return (number >> store.shift) & (store.num_blocks - 1)


cdef inline char* frame_at(const FrameStore* store, int64_t number) noexcept nogil:
    return store.blocks[table_index(store, number)].data + (number & ((<int64_t>1 << store.shift) - 1)) * store.stride


cdef inline char* find_frame(const FrameStore* store, int64_t number) noexcept nogil:
    """Address of the frame, or NULL if no block has its place; a number from a file may be any."""
    cdef char* block = store.blocks[table_index(store, number)].data
    return NULL if block == NULL else block + (number & ((<int64_t>1 << store.shift) - 1)) * store.stride


cdef inline bint is_stored(const FrameStore* store, int64_t number) noexcept nogil:
    """Whether the number is that of a frame in a block that is held."""
    return (
        number >> store.shift >= store.oldest_block and 0 <= number < store.next
        and find_frame(store, number) != NULL
    )


cdef inline int64_t full_number(const FrameStore* store, uint32_t number) noexcept nogil:
    """Number of a frame that is held, from its number modulo 2**32."""
    return store.next - <int64_t>(<uint32_t>store.next - number)


cdef inline char* next_frame_slot(FrameStore* store) noexcept nogil:
    """Address of the next frame, or NULL if there is no memory. The caller writes the frame and adds 1 to `next`."""
    if (store.next >> store.shift) - store.oldest_block >= store.num_blocks:
        return NULL  # a block that is held has that entry
    if store.blocks[table_index(store, store.next)].data == NULL and not add_block(
        store, table_index(store, store.next)
    ):
        return NULL
    return frame_at(store, store.next)


cdef inline int64_t store_frame(FrameStore* store, const char* source, bint streams) noexcept nogil:
    """Appends a frame, past the cache if it `streams`. Returns its number, or -1 if there is no memory."""
    cdef char* slot
    if streams:
        return store.next - 1 if append_frames(store, source, 1) else -1
    slot = next_frame_slot(store)
    if slot == NULL:
        return -1
    memcpy(slot, source, store.nbytes)
    store.next += 1
    return store.next - 1


cdef inline bint append_frames(FrameStore* store, const char* frames, int64_t num) noexcept nogil:
    """Appends contiguous frames, past the cache unless the store `caches` them; call `end_stream` before anything else
    writes or reads them.

    Returns False if there is no memory.
    """
    cdef int64_t piece, size = <int64_t>1 << store.shift
    if store.caches:
        return append_cached_frames(store, frames, num)
    while num > 0:
        if not begin_frame(store):
            return False
        piece = min(num, size - (store.next & (size - 1)))
        really_stream_append(&store.stream, frames, piece * store.nbytes, AHEAD)
        store.next += piece
        frames += piece * store.nbytes
        num -= piece
    return True


cdef inline bint append_cached_frames(FrameStore* store, const char* frames, int64_t num) noexcept nogil:
    cdef int64_t i
    end_stream(store)
    for i in range(num):
        if store_frame(store, frames + i * store.nbytes, False) < 0:
            return False
    return True


cdef inline bint begin_frame(FrameStore* store) noexcept nogil:
    """Makes the stream lead to the next frame, as `append_frames` does. Returns False if there is no memory."""
    cdef char* slot
    if store.streams and (store.next & ((<int64_t>1 << store.shift) - 1)) != 0:
        return True
    end_stream(store)
    slot = next_frame_slot(store)
    if slot == NULL:
        return False
    really_stream_begin(&store.stream, slot)
    store.streams = True
    return True


cdef inline void end_stream(FrameStore* store) noexcept nogil:
    if store.streams:
        really_stream_end(&store.stream)
    store.streams = False


cdef inline bint add_block(FrameStore* store, int64_t entry) noexcept nogil:
    """Puts a block into an empty entry. Returns False if there is no memory for it, or no space in the file."""
    cdef FrameBlock* block = &store.blocks[entry]
    if store.num_spare > 0:
        store.num_spare -= 1
        block[0] = store.spare[store.num_spare]
    elif store.file == NULL:
        block.data = take_memory(&store.memory, store.block_nbytes)
    elif find_free_index(store, &block.index):
        block.data = <char*>really_block_map(
            store.file.descriptor, block.index, store.block_nbytes, True, store.file.huge
        )
    if block.data != NULL and store.file != NULL:
        store.file.table[entry] = block.index + 1
    store.num_added += block.data != NULL
    return block.data != NULL


cdef inline bint find_free_index(FrameStore* store, uint32_t* index) noexcept nogil:
    """Finds a free block of the file, or makes one. Returns False if the disk has no space for it."""
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


cdef inline void release_frame_block(FrameStore* store, int64_t block) noexcept nogil:
    cdef FrameBlock* entry = &store.blocks[block & (store.num_blocks - 1)]
    if entry.data == NULL:
        return
    if store.num_spare < store.num_blocks:
        store.spare[store.num_spare] = entry[0]
        store.num_spare += 1
    else:
        give_back(store, entry)
    entry.data = NULL


cdef inline void give_back(FrameStore* store, const FrameBlock* block) noexcept nogil:
    """Returns the memory of a block to the system, or its place in the file to the free ones."""
    if store.file != NULL:
        really_pages_release(block.data, store.block_nbytes)
        store.file.free[store.file.num_free] = block.index
        store.file.num_free += 1
    else:
        really_pages_discard(block.data, store.block_nbytes)
        store.memory.idle[store.memory.num_idle] = block.data
        store.memory.num_idle += 1


cdef inline void trim_spare_blocks(FrameStore* store) noexcept nogil:
    """Keeps as many spare blocks as the next put is likely to add: those of a recent put, and a few.

    Pages that are given back cost several times the copy of a row when they are needed again.
    """
    store.num_since += 1
    if store.num_added >= store.most_added or store.num_since > RECENT:
        store.most_added, store.num_since = store.num_added, 0
    while store.num_spare > store.most_added + NUM_SPARE:
        store.num_spare -= 1
        give_back(store, &store.spare[store.num_spare])
    store.num_added = 0


cdef inline int64_t oldest_needed_block(const FrameStore* store) noexcept nogil:
    """The oldest block that a row needs, or the block that is being filled."""
    cdef int64_t block = store.oldest_block
    while block < store.next >> store.shift and store.num_rows[block & (store.num_blocks - 1)] == 0:
        block += 1
    return block


cdef inline void release_unneeded_blocks(FrameStore* store) noexcept nogil:
    """Releases the oldest blocks, which no row needs any more."""
    cdef int64_t block, needed = oldest_needed_block(store)
    for block in range(store.oldest_block, needed):
        release_frame_block(store, block)
    store.oldest_block = needed
    trim_spare_blocks(store)


cdef inline int64_t num_blocks_needed(const FrameStore* store) noexcept nogil:
    return ((store.next + (<int64_t>1 << store.shift) - 1) >> store.shift) - oldest_needed_block(store)


cdef inline void forget_frames_from(FrameStore* store, int64_t number) noexcept nogil:
    """Removes the frames from this number on, which no row needs."""
    cdef int64_t block, size = <int64_t>1 << store.shift
    cdef int64_t end = min((store.next + size) >> store.shift, store.oldest_block + store.num_blocks)
    store.streams = False
    for block in range((number + size - 1) >> store.shift, end):
        release_frame_block(store, block)
    store.next = number
    trim_spare_blocks(store)


cdef inline void count_rows(
    FrameStore* store, const char* oldest_numbers, Py_ssize_t stride, int64_t num_rows, int64_t by
) noexcept nogil:
    """Adds `by` to the row count of the block of each row's oldest frame."""
    cdef int64_t i
    cdef uint32_t number
    for i in range(num_rows):
        memcpy(&number, oldest_numbers + i * stride, sizeof(uint32_t))
        store.num_rows[table_index(store, full_number(store, number))] += by


# In a file -----------------------------------------------------------------------------------------------------------

cdef inline bint attach_file(
    FrameStore* store, int descriptor, char* table, uint32_t num_indices, bint writable, bint huge
) noexcept nogil:
    """Keeps frames in a file of `num_indices` blocks; `table` has TABLE_HEAD bytes, then `num_blocks` entries.

    Returns False if there is no memory. Call `map_needed_blocks` once the rows held have been counted.
    """
    cdef FrameFile* file = <FrameFile*>zeroed_new(sizeof(FrameFile))
    if file == NULL:
        return False
    store.file = file
    file.free = <uint32_t*>zeroed_new((2 * store.num_blocks + num_indices) * sizeof(uint32_t))
    file.descriptor, file.writable, file.huge, file.num_indices = descriptor, writable, huge, num_indices
    file.next = <int64_t*>table
    file.table = <uint32_t*>(table + TABLE_HEAD)
    store.next = file.next[0]
    return file.free != NULL


cdef inline bint map_needed_blocks(FrameStore* store) noexcept nogil:
    """Maps the blocks that rows need; all others are free.

    Returns False if the table names a block beyond the file or one block twice, or if there is no memory.
    """
    cdef char* needed = <char*>zeroed_new(store.file.num_indices + 1)
    cdef bint mapped = needed != NULL and map_blocks(store, needed)
    really_aligned_free(needed)
    return mapped


cdef inline bint map_blocks(FrameStore* store, char* needed) noexcept nogil:
    """`map_needed_blocks`; `needed` is [num_indices] of zeros, and then says which blocks of the file rows need."""
    cdef FrameFile* file = store.file
    cdef int64_t block, size = <int64_t>1 << store.shift
    cdef uint32_t index
    store.oldest_block = max((store.next >> store.shift) - store.num_blocks + 1, <int64_t>0)
    store.oldest_block = oldest_needed_block(store)
    for block in range(store.oldest_block, (store.next + size - 1) >> store.shift):
        if not map_block(store, block & (store.num_blocks - 1)):
            return False
        index = store.blocks[block & (store.num_blocks - 1)].index
        if needed[index]:
            return False
        needed[index] = 1
    for index in range(file.num_indices):
        if not needed[index]:
            file.free[file.num_free] = index
            file.num_free += 1
    return True


cdef inline bint map_block(FrameStore* store, int64_t entry) noexcept nogil:
    """Maps the block that the file's table has in this entry, unless it is mapped already."""
    cdef FrameBlock* block = &store.blocks[entry]
    cdef uint32_t index = store.file.table[entry] - 1
    if block.data != NULL and block.index == index:
        return True
    if block.data != NULL:
        really_pages_release(block.data, store.block_nbytes)
        block.data = NULL
    if index >= store.file.num_indices and not store.file.writable:
        store.file.num_indices = <uint32_t>min(
            really_file_nbytes(store.file.descriptor) // store.block_nbytes, <int64_t>UINT32_MAX
        )
    if index >= store.file.num_indices:
        return False  # a read beyond the end of the file would end the process
    block.index = index
    block.data = <char*>really_block_map(
        store.file.descriptor, index, store.block_nbytes, store.file.writable, store.file.huge
    )
    return block.data != NULL


cdef inline void publish_next(FrameStore* store) noexcept nogil:
    """Publishes the number of the next frame. Call it before a commit of rows that need the newest frames."""
    if store.file != NULL:
        really_store_release(store.file.next, store.next)


cdef inline bint follow_writer(FrameStore* store) noexcept nogil:
    """In a process that only reads, maps the blocks that the writer has added. Returns False if the system refuses."""
    cdef int64_t block, size = <int64_t>1 << store.shift
    store.next = store.file.next[0]
    store.oldest_block = max((store.next >> store.shift) - store.num_blocks + 1, <int64_t>0)
    for block in range(store.oldest_block, (store.next + size - 1) >> store.shift):
        if store.file.table[block & (store.num_blocks - 1)] != 0 and not map_block(
            store, block & (store.num_blocks - 1)
        ):
            return False
    return True
