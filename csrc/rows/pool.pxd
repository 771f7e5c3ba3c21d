"""Memory of batches between two uses: a few blocks are kept, so that sampling need not ask the system for pages."""

from memory cimport (
    REALLY_HUGE_PAGE,
    really_lines_free,
    really_lines_new,
    really_pages_release,
    really_pages_reserve,
)

cdef enum:
    MAX_BLOCKS = 8
    MAX_BYTES = 1 << 28  # kept in all; a block that does not fit goes back to the system
    IN_PAGES = REALLY_HUGE_PAGE // 2  # bytes; blocks from here on are as long as whole huge pages

cdef struct Memory:
    char* data
    size_t nbytes

cdef struct FreeBlocks:
    Memory blocks[MAX_BLOCKS]  # the longest-kept first
    int num_blocks
    size_t nbytes


cdef inline Memory take_block(FreeBlocks* free, size_t nbytes) noexcept nogil:
    """A block of at least `nbytes`, kept or new, on a cache line; `.data` is NULL when there is no memory."""
    cdef int i
    cdef Memory block
    for i in range(free.num_blocks - 1, -1, -1):
        block = free.blocks[i]
        if nbytes <= block.nbytes <= 2 * nbytes:
            remove_block(free, i)
            return block
    return new_block(nbytes)


cdef inline void give_block(FreeBlocks* free, Memory block) noexcept nogil:
    """Takes a block back: kept if the bounds allow, the longest-kept ones making room."""
    if block.nbytes > MAX_BYTES:
        release_block(block)
        return
    while free.num_blocks == MAX_BLOCKS or free.nbytes + block.nbytes > MAX_BYTES:
        release_block(free.blocks[0])
        remove_block(free, 0)
    free.blocks[free.num_blocks] = block
    free.num_blocks += 1
    free.nbytes += block.nbytes


cdef inline void remove_block(FreeBlocks* free, int at) noexcept nogil:
    cdef int i
    free.nbytes -= free.blocks[at].nbytes
    free.num_blocks -= 1
    for i in range(at, free.num_blocks):
        free.blocks[i] = free.blocks[i + 1]


cdef inline Memory new_block(size_t nbytes) noexcept nogil:
    cdef Memory block
    block.nbytes = nbytes
    if nbytes >= IN_PAGES:
        block.nbytes = (nbytes + REALLY_HUGE_PAGE - 1) // REALLY_HUGE_PAGE * REALLY_HUGE_PAGE
        block.data = <char*>really_pages_reserve(block.nbytes)
    else:
        block.data = <char*>really_lines_new(nbytes)
    return block


cdef inline void release_block(Memory block) noexcept nogil:
    if block.nbytes >= IN_PAGES:
        really_pages_release(block.data, block.nbytes)
    else:
        really_lines_free(block.data)
