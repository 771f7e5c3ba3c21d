"""Which ages a ring draws if its sampler prefers new rows: the newest rows, a half-life, or recent experience (ERE).

An age counts from the oldest row held. The numbers come from the ring's generator, so its state is all that a draw
depends on, apart from `update`, the number of the batch within its phase of updates.
"""

from libc.math cimport expm1, pow
from libc.stdint cimport int64_t, uint64_t
from numpy.random cimport bitgen_t

from bounded_random cimport draw, really_next_words

cdef extern from "halvings.h" nogil:
    enum: REALLY_HALVINGS
    void really_half_life_ages(
        const uint64_t* bits, double share, double half_life, int64_t held, int64_t* ages, size_t num
    ) noexcept

cdef enum RecencyKind:
    ALL_ROWS  # every row held is equally likely
    NEWEST  # the newest `window` rows are equally likely
    HALF_LIFE  # each row is half as likely as the one that came `window` rows after it
    EMPHASIZED  # each batch is from the newest rows of a window that shrinks from one update to the next

cdef struct Recency:
    RecencyKind kind
    int64_t window  # rows; with EMPHASIZED, of the smallest window
    double eta  # the factor by which a window shrinks, when no row has been put
    double eta_end  # the same after `anneal_rows` rows
    int64_t anneal_rows
    int64_t num_updates  # batches of a phase
    int64_t update  # batches of the phase that are drawn


cdef inline int64_t num_drawable(const Recency* recency, int64_t held) noexcept nogil:
    """How many of the rows held can be drawn."""
    return min(held, recency.window) if recency.kind == NEWEST else held


cdef inline void draw_recent(
    bitgen_t* source, Recency* recency, int64_t held, int64_t num_put, int64_t* ages, Py_ssize_t total, Py_ssize_t num
) noexcept nogil:
    """Fills `ages` with `total` ages of `held` >= 1 rows; `num` of them are a batch."""
    cdef Py_ssize_t first = 0
    if recency.kind == HALF_LIFE:
        draw_half_life(source, recency.window, held, ages, total)
    elif recency.kind == EMPHASIZED:
        while first < total:
            draw_newest(source, emphasized_window(recency, held, num_put), held, ages + first, num)
            first += num
            recency.update = (recency.update + 1) % recency.num_updates
    else:
        draw_newest(source, num_drawable(recency, held), held, ages, total)


cdef inline void draw_newest(
    bitgen_t* source, int64_t window, int64_t held, int64_t* ages, Py_ssize_t num
) noexcept nogil:
    """Uniform over the newest `window` rows."""
    cdef Py_ssize_t i
    draw(source, window, ages, num)
    for i in range(num):
        ages[i] += held - window


cdef inline int64_t emphasized_window(const Recency* recency, int64_t held, int64_t num_put) noexcept nogil:
    """c_k = max(N eta^(1000 k / K), c_min) for the k-th of K updates (Wang and Ross 2019, section 4), at most N."""
    cdef double part = min(1.0, <double>num_put / recency.anneal_rows)
    cdef double eta = recency.eta_end - (recency.eta_end - recency.eta) * (1.0 - part)
    cdef double share = pow(eta, 1000.0 * (recency.update + 1) / recency.num_updates)
    return min(held, max(<int64_t>(held * share), recency.window))


cdef inline void draw_half_life(
    bitgen_t* source, double half_life, int64_t held, int64_t* ages, Py_ssize_t num
) noexcept nogil:
    """P(row) in proportion to 2^(-rows after it / half-life), by the inverse of the distribution.

    The rows after it are floor(-half_life * log2(1 - u * share)) of a uniform number u, where rows without end would
    have `share` of all draws within those that are held. So each number gives a row.
    """
    cdef double share = -expm1(-0.6931471805599453 * held / half_life)  # ln 2
    cdef uint64_t[REALLY_HALVINGS] bits
    cdef Py_ssize_t first = 0, size
    while first < num:
        size = min(num - first, <Py_ssize_t>REALLY_HALVINGS)
        really_next_words(source, bits, size)
        really_half_life_ages(bits, share, half_life, held, ages + first, size)
        first += size
