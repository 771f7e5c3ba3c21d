"""How many of the last rows share frames: rows that share none are stored without a search.

A search that finds nothing costs several times as much as the copy of a row. If hardly any of the last rows share
frames, the search pauses. While it pauses, a probe compares a few words of some rows' frames, and starts it again.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    SEARCH_WINDOW = 1024  # searched rows after which it is decided whether the search pauses
    LEAST_SHARE = 4  # the search pauses if fewer than one row in so many shares frames
    NUM_PROBED = 1024  # rows at the beginning of an interval that are probed while the search pauses
    MIN_INTERVAL = 4096  # rows from one probe to the next
    MAX_INTERVAL = 1 << 15
    NUM_PROBES = 2048  # a power of two
    PROBE_WORDS = 4

cdef enum Effort:  # what a put does to find frames that are stored already
    SEARCH_ALL  # looks for the trajectory that a row continues
    SEARCH_ROW  # compares the frames of one row with each other
    SEARCH_NONE

cdef struct ShareRate:
    Effort effort
    int64_t num_rows  # of the window, or of the interval while the search pauses
    int64_t num_continued  # rows of the window that continue an earlier row; hits of the probe while the search pauses
    int64_t num_repeating  # rows of the window with a frame of their own twice, besides those that continue another
    int64_t interval  # rows from one probe to the next; it grows with each search that was started in vain
    uint64_t probes[NUM_PROBES]  # hashes of the newest frames of probed rows, each at its last bits


cdef inline void init_share_rate(ShareRate* rate) noexcept nogil:
    memset(rate, 0, sizeof(ShareRate))
    rate.interval = MIN_INTERVAL // 2


cdef inline void count_searched(ShareRate* rate, bint continues, bint repeats) noexcept nogil:
    """Counts a row that was searched for. After each window decides whether the search pauses."""
    rate.num_rows += 1
    rate.num_continued += continues
    rate.num_repeating += repeats and not continues
    if rate.num_rows < SEARCH_WINDOW:
        return
    if rate.num_continued * LEAST_SHARE >= SEARCH_WINDOW:
        rate.interval = MIN_INTERVAL // 2
    else:
        rate.effort = SEARCH_ROW if rate.num_repeating * LEAST_SHARE >= SEARCH_WINDOW else SEARCH_NONE
        rate.interval = min(2 * rate.interval, <int64_t>MAX_INTERVAL)
    rate.num_rows = rate.num_continued = rate.num_repeating = 0


cdef inline bint is_probed(const ShareRate* rate) noexcept nogil:
    """Whether the next row is probed."""
    return rate.num_rows < NUM_PROBED


cdef inline int64_t rows_alike(const ShareRate* rate) noexcept nogil:
    """How many rows from the next one on are probed, or are not probed, as the next one is."""
    return (NUM_PROBED if rate.num_rows < NUM_PROBED else rate.interval) - rate.num_rows


cdef inline void count_stored(ShareRate* rate, int64_t num_rows) noexcept nogil:
    """Counts rows that were stored while the search pauses, probed or not. Starts the search if the probe had hits."""
    cdef bint was_probed = is_probed(rate)
    rate.num_rows += num_rows
    if was_probed and not is_probed(rate) and rate.num_continued * LEAST_SHARE >= NUM_PROBED:
        rate.effort = SEARCH_ALL
        rate.num_rows = rate.num_continued = rate.num_repeating = 0
    elif rate.num_rows >= rate.interval:
        rate.num_rows = rate.num_continued = 0
        memset(rate.probes, 0, sizeof(rate.probes))


cdef inline void probe(ShareRate* rate, uint64_t frame, uint64_t newest) noexcept nogil:
    """Looks for the hash of a frame that would be the newest of an earlier row, and keeps that of this row's newest."""
    rate.num_continued += rate.probes[frame % NUM_PROBES] == frame
    rate.probes[newest % NUM_PROBES] = newest


cdef inline uint64_t sample_hash(
    const char* row, Py_ssize_t nbytes, int frame, int stack, Py_ssize_t inner
) noexcept nogil:
    """A hash, other than 0, of a few words of a frame of `nbytes` bytes.

    The bytes of the frame are in pieces of `inner` bytes; those of the other frames of the stack are in between.
    """
    cdef uint64_t word, hash = 0
    cdef Py_ssize_t at, k
    cdef int i
    for i in range(PROBE_WORDS):
        at = (2 * i + 1) * nbytes // (2 * PROBE_WORDS)
        at = max(min(at, nbytes - 8), <Py_ssize_t>0)
        if inner == nbytes and nbytes >= 8:
            memcpy(&word, row + frame * nbytes + at, 8)
        else:
            word = 0
            for k in range(at, min(at + 8, nbytes)):
                word = word << 8 | <unsigned char>row[(k // inner * stack + frame) * inner + k % inner]
        hash = (hash ^ word) * <uint64_t>0x9E3779B97F4A7C15
        hash ^= hash >> 32
    return hash | 1
