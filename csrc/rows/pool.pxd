"""A pool of memory for batches: it keeps a few blocks, so that sampling need not request pages from the system."""

from memory cimport (
    REALLY_HUGE_PAGE,
    really_aligned_free,
    really_aligned_new,
    really_pages_release,
    really_pages_reserve,
)

cdef enum:
    MAX_BLOCKS = 8
    MAX_BYTES = 1 << 28  # of all blocks together
    PAGES_FROM = REALLY_HUGE_PAGE // 2  # bytes; a block this long consists of whole huge pages

cdef struct Memory:
    char* data
    size_t nbytes

cdef struct FreeBlocks:
    Memory blocks[MAX_BLOCKS]  # in the order of their return
    int num_blocks
    size_t nbytes


cdef inline Memory take_block(FreeBlocks* free, size_t nbytes) noexcept nogil:
    """A block of at least `nbytes`, kept or new, aligned to a cache line; its `data` is NULL if there is no memory."""
    cdef int i
    cdef Memory block
    for i in range(free.num_blocks - 1, -1, -1):
        block = free.blocks[i]
        if nbytes <= block.nbytes <= 2 * nbytes:
            remove_block(free, i)
            return block
    return new_block(nbytes)


cdef inline void return_block(FreeBlocks* free, Memory block) noexcept nogil:
    """Puts a block back into the pool, which releases its oldest blocks to stay within its bounds."""
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
    if nbytes >= PAGES_FROM:
        block.nbytes = (nbytes + REALLY_HUGE_PAGE - 1) // REALLY_HUGE_PAGE * REALLY_HUGE_PAGE
        block.data = <char*>really_pages_reserve(block.nbytes)
    else:
        block.data = <char*>really_aligned_new(nbytes)
    return block


cdef inline void release_block(Memory block) noexcept nogil:
    if block.nbytes >= PAGES_FROM:
        really_pages_release(block.data, block.nbytes)
    else:
        really_aligned_free(block.data)
