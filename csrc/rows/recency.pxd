"""Which ages a ring draws if its sampler prefers new rows: the newest rows, a half-life, or recent experience (ERE).

An age counts from the oldest row held. The numbers come from the ring's generator, so its state is all that a draw
depends on, apart from `update`, the number of the batch within its phase of updates.
"""

from libc.math cimport exp2, pow
from libc.stdint cimport int64_t, uint64_t
from numpy.random cimport bitgen_t

from bounded_random cimport draw
from memory cimport really_lowest_bit, really_multiply_128

cdef enum RecencyKind:
    ALL_ROWS  # every row held is equally likely
    NEWEST  # the newest `window` rows are equally likely
    HALF_LIFE  # each row is half as likely as the one that came `window` rows after it
    EMPHASIZED  # each batch is from the newest rows of a window that shrinks from one update to the next

cdef enum:
    NUM_BINS = 256  # of the rows within a half-life

cdef struct Decay:
    int64_t near  # rows in bins: the half-life, or fewer while fewer are held; 0 before the first draw
    int num_bins
    int64_t[NUM_BINS + 1] starts  # of each bin, counted from the newest row
    double[NUM_BINS] own  # alias table: the probability to stay in this bin, and the bin to go to otherwise
    int[NUM_BINS] other

cdef struct Recency:
    RecencyKind kind
    int64_t window  # rows; with EMPHASIZED, of the smallest window
    double eta  # the factor by which a window shrinks, when no row has been put
    double eta_end  # the same after `anneal_rows` rows
    int64_t anneal_rows
    int64_t num_updates  # batches of a phase
    int64_t update  # batches of the phase that are drawn
    Decay decay


cdef inline int64_t num_drawable(const Recency* recency, int64_t held) noexcept nogil:
    """How many of the rows held can be drawn."""
    return min(held, recency.window) if recency.kind == NEWEST else held


cdef inline void draw_recent(
    bitgen_t* source, Recency* recency, int64_t held, int64_t num_put, int64_t* ages, Py_ssize_t total, Py_ssize_t num
) noexcept nogil:
    """Fills `ages` with `total` ages of `held` >= 1 rows; `num` of them are a batch."""
    cdef Py_ssize_t first = 0
    if recency.kind == HALF_LIFE:
        draw_half_life(source, recency, held, ages, total)
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
    bitgen_t* source, Recency* recency, int64_t held, int64_t* ages, Py_ssize_t num
) noexcept nogil:
    """P(row) in proportion to 2^(-rows after it / half-life).

    The rows after it are half_life * g + r: g is geometric, P(g) = 2^-(g + 1), and r below the half-life is from a bin
    that an alias table chooses (Walker 1977). Rows that are no longer held are drawn again.
    """
    cdef Decay* decay = &recency.decay
    cdef Py_ssize_t done = 0
    cdef int64_t later, most
    cdef uint64_t bits
    if (decay.near < recency.window and held > decay.near) or held < decay.near // 4 or decay.near == 0:
        set_bins(decay, recency.window, min(recency.window, 2 * held))
    most = held // recency.window if decay.near == recency.window else 0
    while done < num:
        bits = source.next_uint64(source.state)
        later = row_of_bin(source, decay, bin_of(decay, bits >> 11), recency.window)
        if most > 0:
            later += recency.window * num_halvings(source, bits & 2047, most)
        if later < held:
            ages[done] = held - 1 - later
            done += 1


cdef inline void set_bins(Decay* decay, int64_t half_life, int64_t near) noexcept nogil:
    """Divides the rows below `near` into bins, each with its probability, and makes the alias table."""
    cdef double[NUM_BINS] left
    cdef int[NUM_BINS] order
    cdef double weight, total = 1.0 - exp2(-<double>near / half_life)
    cdef int b, num = <int>min(near, <int64_t>NUM_BINS), small = 0, large = num
    decay.near, decay.num_bins = near, num
    for b in range(num + 1):
        decay.starts[b] = near * b // num
    for b in range(num):
        weight = exp2(-<double>decay.starts[b] / half_life) - exp2(-<double>decay.starts[b + 1] / half_life)
        left[b] = num * weight / total
        decay.own[b], decay.other[b] = 1.0, b
        if left[b] < 1.0:
            order[small] = b
            small += 1
        else:
            large -= 1
            order[large] = b
    pair_bins(decay, left, order, small, num)


cdef inline void pair_bins(Decay* decay, double* left, int* order, int num_small, int num) noexcept nogil:
    """Fills up each bin that is less likely than 1 / num with a part of one that is more likely (Vose 1991)."""
    cdef int next_small = 0, first_large = num_small, small, large
    while next_small < first_large and first_large < num:
        small, large = order[next_small], order[first_large]
        next_small += 1
        decay.own[small], decay.other[small] = left[small], large
        left[large] -= 1.0 - left[small]
        if left[large] < 1.0:
            first_large += 1  # it stands behind the small ones now, and is one of them


cdef inline int bin_of(const Decay* decay, uint64_t bits) noexcept nogil:
    """A bin by its probability, from 53 random bits."""
    cdef double place = bits * (decay.num_bins * 1.1102230246251565e-16)  # 2^-53
    cdef int b = <int>place
    return b if place - b < decay.own[b] else decay.other[b]


cdef inline int64_t row_of_bin(bitgen_t* source, const Decay* decay, int b, int64_t half_life) noexcept nogil:
    """A row of a bin, by rejection: row i of it is kept with probability 2^(-i / half_life), which is nearly 1."""
    cdef int64_t first = decay.starts[b], width = decay.starts[b + 1] - first, row
    cdef uint64_t low = 0
    cdef double number
    if width == 1:
        return first
    while True:
        row = <int64_t>really_multiply_128(source.next_uint64(source.state), <uint64_t>width, &low)
        number = <double>(low >> 11) * 1.1102230246251565e-16
        # The tangent of 2^-x at 0 decides nearly always.
        if number < 1.0 - 0.693147180559945 * row / half_life or number < exp2(-<double>row / half_life):
            return first + row


cdef inline int64_t num_halvings(bitgen_t* source, uint64_t bits, int64_t most) noexcept nogil:
    """g with probability 2^-(g + 1), first from 11 random bits; any number above `most` stands for all of those."""
    cdef int64_t count = 0
    if bits == 0:
        count = 11
        bits = source.next_uint64(source.state)
        while bits == 0 and count <= most:
            count += 64
            bits = source.next_uint64(source.state)
    return count + really_lowest_bit(bits)
