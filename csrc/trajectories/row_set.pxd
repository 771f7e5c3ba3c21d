"""A set of slots as bits, with counts, so that the slot of any rank is found without a look at all bits."""

from libc.stdint cimport int64_t, uint64_t

from memory cimport really_pages_release, really_pages_reserve

cdef extern from *:
    int __builtin_popcountll(unsigned long long) noexcept nogil
    int __builtin_ctzll(unsigned long long) noexcept nogil

cdef enum:
    WORD = 64  # slots of a word

cdef struct RowSet:
    int64_t num  # slots in the set
    int64_t num_words
    int64_t num_blocks
    int64_t block_words  # words of a block, about as many as there are blocks
    uint64_t* words  # [num_words]
    int64_t* counts  # [num_blocks], slots of the set in each block


cdef inline bint allocate_row_set(RowSet* rows, int64_t num_slots) noexcept nogil:
    """Makes an empty set. Returns False if there is no memory."""
    rows.num, rows.num_words, rows.block_words = 0, (num_slots + WORD - 1) // WORD, 1
    while rows.block_words * rows.block_words < rows.num_words:
        rows.block_words += 1
    rows.num_blocks = (rows.num_words + rows.block_words - 1) // rows.block_words
    rows.words = <uint64_t*>really_pages_reserve(row_set_nbytes(rows))
    rows.counts = <int64_t*>(rows.words + rows.num_words)
    return rows.words != NULL


cdef inline void free_row_set(RowSet* rows) noexcept nogil:
    really_pages_release(rows.words, row_set_nbytes(rows))
    rows.words = NULL


cdef inline size_t row_set_nbytes(const RowSet* rows) noexcept nogil:
    return (rows.num_words + rows.num_blocks) * sizeof(uint64_t)


cdef inline bint has_row(const RowSet* rows, int64_t slot) noexcept nogil:
    return (rows.words[slot // WORD] >> <uint64_t>(slot % WORD)) & 1


cdef inline bint add_row(RowSet* rows, int64_t slot) noexcept nogil:
    """Returns whether the slot was not in the set."""
    if has_row(rows, slot):
        return False
    rows.words[slot // WORD] |= <uint64_t>1 << <uint64_t>(slot % WORD)
    rows.counts[slot // WORD // rows.block_words] += 1
    rows.num += 1
    return True


cdef inline bint discard_row(RowSet* rows, int64_t slot) noexcept nogil:
    """Returns whether the slot was in the set."""
    if not has_row(rows, slot):
        return False
    rows.words[slot // WORD] &= ~(<uint64_t>1 << <uint64_t>(slot % WORD))
    rows.counts[slot // WORD // rows.block_words] -= 1
    rows.num -= 1
    return True


cdef inline int64_t slot_of_rank(const RowSet* rows, int64_t rank) noexcept nogil:
    """The slot with `rank` slots of the set before it, 0 <= rank < num."""
    cdef int64_t block = 0, word, count
    cdef uint64_t bits
    while rank >= rows.counts[block]:
        rank -= rows.counts[block]
        block += 1
    word = block * rows.block_words
    count = __builtin_popcountll(rows.words[word])
    while rank >= count:
        rank -= count
        word += 1
        count = __builtin_popcountll(rows.words[word])
    bits = rows.words[word]
    while rank > 0:
        bits &= bits - 1
        rank -= 1
    return word * WORD + __builtin_ctzll(bits)
