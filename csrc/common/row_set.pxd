"""A set of slots as bits, with counts, so that the slot of any rank is found without a look at all bits."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from memory cimport really_pages_release, really_pages_reserve, round_up

cdef extern from "bits.h" nogil:
    int really_count_bits(uint64_t word) noexcept
    int really_select_bit(uint64_t word, int rank) noexcept

cdef extern from "ranks.h" nogil:
    enum:
        FAN "REALLY_FAN"  # words of a group, groups of a larger group, and so on
    void really_parts_of_ranks(const int64_t* counts, int64_t* groups, int64_t* ranks, size_t num) noexcept
    void really_bits_of_ranks(const uint64_t* words, int64_t* groups, int64_t* ranks, size_t num) noexcept

cdef enum:
    WORD = 64  # slots of a word
    FAN_BITS = 3
    MAX_LEVELS = 16
    RANK_BLOCK = 64  # ranks that are looked up at a time

cdef struct RowSet:
    int64_t num  # slots in the set
    int64_t num_words
    int num_levels
    int64_t lengths[MAX_LEVELS]  # groups of each level, FAN on the last one
    uint64_t* words  # [num_words], whole groups; words and groups behind the last slot are empty
    int64_t* counts[MAX_LEVELS]  # [lengths[level]], slots of the set in each group


cdef inline bint allocate_row_set(RowSet* rows, int64_t num_slots) noexcept nogil:
    """Makes an empty set. Returns False if there is no memory."""
    cdef int64_t length = round_up((num_slots + WORD - 1) // WORD, FAN)
    cdef int level
    rows.num, rows.num_words, rows.num_levels = 0, length, 0
    while rows.num_levels == 0 or length > FAN:
        length = round_up(length // FAN, FAN)
        rows.lengths[rows.num_levels] = length
        rows.num_levels += 1
    rows.words = <uint64_t*>really_pages_reserve(row_set_nbytes(rows))
    if rows.words == NULL:
        return False
    rows.counts[0] = <int64_t*>(rows.words + rows.num_words)
    for level in range(1, rows.num_levels):
        rows.counts[level] = rows.counts[level - 1] + rows.lengths[level - 1]
    return True


cdef inline void free_row_set(RowSet* rows) noexcept nogil:
    really_pages_release(rows.words, row_set_nbytes(rows))
    rows.words = NULL


cdef inline size_t row_set_nbytes(const RowSet* rows) noexcept nogil:
    cdef int64_t num = rows.num_words
    cdef int level
    for level in range(rows.num_levels):
        num += rows.lengths[level]
    return num * sizeof(uint64_t)


cdef inline bint has_row(const RowSet* rows, int64_t slot) noexcept nogil:
    return (rows.words[slot // WORD] >> <uint64_t>(slot % WORD)) & 1


cdef inline bint add_row(RowSet* rows, int64_t slot) noexcept nogil:
    """Returns whether the slot was not in the set."""
    if has_row(rows, slot):
        return False
    rows.words[slot // WORD] |= <uint64_t>1 << <uint64_t>(slot % WORD)
    count_row(rows, slot // WORD, 1)
    return True


cdef inline bint discard_row(RowSet* rows, int64_t slot) noexcept nogil:
    """Returns whether the slot was in the set."""
    if not has_row(rows, slot):
        return False
    rows.words[slot // WORD] &= ~(<uint64_t>1 << <uint64_t>(slot % WORD))
    count_row(rows, slot // WORD, -1)
    return True


cdef inline void count_row(RowSet* rows, int64_t word, int by) noexcept nogil:
    cdef int level
    rows.num += by
    for level in range(rows.num_levels):
        word >>= FAN_BITS
        rows.counts[level][word] += by


cdef inline int64_t rank_of_slot(const RowSet* rows, int64_t slot) noexcept nogil:
    """How many slots of the set are before this one."""
    cdef int64_t group = slot // WORD, i, rank
    cdef int level
    rank = really_count_bits(rows.words[group] & ((<uint64_t>1 << <uint64_t>(slot % WORD)) - 1))
    for i in range(group - group % FAN, group):
        rank += really_count_bits(rows.words[i])
    for level in range(rows.num_levels):
        group >>= FAN_BITS
        for i in range(group - group % FAN, group):
            rank += rows.counts[level][i]
    return rank


cdef inline void to_slots(const RowSet* rows, int64_t* ranks, Py_ssize_t num) noexcept nogil:
    """Replaces each rank, 0 <= rank < rows.num, by the slot with so many slots of the set before it."""
    cdef int64_t[RANK_BLOCK] groups
    cdef Py_ssize_t num_now
    cdef int level
    while num > 0:
        num_now = min(num, <Py_ssize_t>RANK_BLOCK)
        memset(groups, 0, sizeof(groups))
        for level in range(rows.num_levels - 1, -1, -1):
            really_parts_of_ranks(rows.counts[level], groups, ranks, num_now)
        really_bits_of_ranks(rows.words, groups, ranks, num_now)
        ranks, num = ranks + num_now, num - num_now


cdef inline void list_slots(const RowSet* rows, int64_t first, int64_t* slots) noexcept nogil:
    """Writes all slots of the set, ascending, but those before slot `first` behind the others."""
    cdef int64_t word, at = rows.num - rank_of_slot(rows, first)
    cdef uint64_t bits
    for word in range(rows.num_words):
        bits = rows.words[word]
        while bits != 0:
            at = at if at < rows.num else 0
            slots[at] = word * WORD + really_select_bit(bits, 0)
            at += 1
            bits &= bits - 1
