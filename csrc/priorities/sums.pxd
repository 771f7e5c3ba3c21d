"""A sum tree whose nodes are cache lines (Schaul et al. 2016, appendix B.2.1).

Level 0 holds the values of the slots. An entry of a higher level is the sum of one node, `WIDTH` neighbouring entries
of the level below; the same entry of `least` is their smallest positive value, or 0 if there is none. An entry is
always recomputed from its node in one order, never updated by a difference: sums do not drift, and `find` adds up the
same numbers on its way down, bit for bit.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from memory cimport REALLY_CACHE_LINE, really_prefetch_l1, really_prefetch_l2

cdef enum:
    WIDTH = 8  # float64 in a cache line
    SHIFT = 3  # log2(WIDTH)
    MAX_LEVELS = 16
    INFINITE = 0x7FF0000000000000  # bits of an infinite double
    SEARCHES = 64  # searches that descend together, so that their cache misses overlap
    FEW = 32  # nodes that are prefetched to L1; more go to L2

cdef struct Sums:
    int depth  # the highest level, which holds only the total
    int64_t lengths[MAX_LEVELS]  # entries of each level, a multiple of WIDTH below the highest
    double* sums[MAX_LEVELS]  # [length]
    double* least[MAX_LEVELS]  # [length]; on level 0 the values themselves


cdef inline Py_ssize_t lay_out_sums(Sums* tree, int64_t num_slots) noexcept nogil:
    """Sets the lengths of the levels for `num_slots` slots; returns the bytes that `place_sums` needs."""
    cdef Py_ssize_t num_entries
    cdef int level = 0
    tree.lengths[0] = (num_slots + WIDTH - 1) // WIDTH * WIDTH
    num_entries = tree.lengths[0]
    while tree.lengths[level] > WIDTH:
        tree.lengths[level + 1] = (tree.lengths[level] // WIDTH + WIDTH - 1) // WIDTH * WIDTH
        level += 1
        num_entries += 2 * tree.lengths[level]
    tree.depth = level + 1
    tree.lengths[tree.depth] = 1
    return (num_entries + 2 * WIDTH) * sizeof(double)


cdef inline void place_sums(Sums* tree, double* memory) noexcept nogil:
    """Places the levels in zeroed memory that starts on a cache line."""
    cdef int level
    tree.sums[0] = tree.least[0] = memory
    memory += tree.lengths[0]
    for level in range(1, tree.depth):
        tree.sums[level] = memory
        tree.least[level] = memory + tree.lengths[level]
        memory += 2 * tree.lengths[level]
    tree.sums[tree.depth] = memory
    tree.least[tree.depth] = memory + WIDTH


cdef inline double total(const Sums* tree) noexcept nogil:
    """Sum of all values."""
    return tree.sums[tree.depth][0]


cdef inline double least_positive(const Sums* tree) noexcept nogil:
    """The smallest value above 0; 0 if there is none."""
    return flipped(tree.least[tree.depth][0])


# In ---------------------------------------------------------------------------------------------------------------


cdef inline void set_values(
    Sums* tree, const int64_t* slots, const double* values, Py_ssize_t num, int64_t* nodes
) noexcept nogil:
    """Sets the values of any slots; if a slot occurs twice, its last value counts. `nodes` is scratch for `num`.

    Updates level after level, each node once if the slots are in order. Values that do not change, such as clipped
    priorities, cost no update.
    """
    cdef Py_ssize_t i, num_nodes = 0
    cdef double before
    cdef int level
    for i in range(num):
        prefetch_node(tree.sums[0] + slots[i], num)
    for i in range(num):
        before = tree.sums[0][slots[i]]
        tree.sums[0][slots[i]] = values[i]
        nodes[num_nodes] = slots[i]
        num_nodes += before != values[i]
    for level in range(tree.depth):
        num_nodes = to_parents(nodes, num_nodes)
        if num_nodes >= tree.lengths[level] // WIDTH:
            refresh_upwards(tree, level, 0, tree.lengths[level] - 1)
            return
        for i in range(num_nodes):
            refresh(tree, level, nodes[i])


cdef inline Py_ssize_t to_parents(int64_t* entries, Py_ssize_t num) noexcept nogil:
    """Replaces entries by their nodes, and drops repetitions of the node before; returns how many are left."""
    cdef Py_ssize_t i, num_kept = 0
    cdef int64_t node, last = -1
    for i in range(num):
        node = entries[i] >> SHIFT
        entries[num_kept] = node
        num_kept += node != last
        last = node
    return num_kept


cdef inline void set_range(Sums* tree, int64_t first, int64_t end, double value) noexcept nogil:
    """Sets the slots from `first` to before `end` to one value."""
    cdef int64_t slot
    for slot in range(first, end):
        tree.sums[0][slot] = value
    if first < end:
        refresh_upwards(tree, 0, first, end - 1)


cdef inline void put_range(Sums* tree, int64_t first, int64_t end, const double* values) noexcept nogil:
    """Sets the slots from `first` to before `end` to these values."""
    if first < end:
        memcpy(tree.sums[0] + first, values, (end - first) * sizeof(double))
        refresh_upwards(tree, 0, first, end - 1)


cdef inline void refresh_upwards(Sums* tree, int level, int64_t first, int64_t last) noexcept nogil:
    """Recomputes everything that depends on entries `first` to `last` of a level."""
    cdef int64_t node
    while level < tree.depth:
        first >>= SHIFT
        last >>= SHIFT
        for node in range(first, last + 1):
            refresh(tree, level, node)
        level += 1


cdef inline void refresh(Sums* tree, int level, int64_t node) noexcept nogil:
    tree.sums[level + 1][node] = sum_of(tree.sums[level] + node * WIDTH)
    if level == 0:
        tree.least[1][node] = least_value(tree.sums[0] + node * WIDTH)
    else:
        tree.least[level + 1][node] = largest(tree.least[level] + node * WIDTH)


cdef inline double sum_of(const double* c) noexcept nogil:
    # In the order of `descend`.
    return ((c[0] + c[1]) + (c[2] + c[3])) + ((c[4] + c[5]) + (c[6] + c[7]))


cdef inline double least_value(const double* values) noexcept nogil:
    # Positive doubles have the order of their bits as integers; subtracting 1 makes 0 the largest integer.
    cdef uint64_t bits, left = <uint64_t>-1, right = <uint64_t>-1
    cdef int i
    for i in range(WIDTH // 2):
        bits = bits_of(values[i]) - 1
        left = min(left, bits)
        bits = bits_of(values[WIDTH // 2 + i]) - 1
        right = min(right, bits)
    return flipped(double_of(min(left, right) + 1))


cdef inline double largest(const double* c) noexcept nogil:
    return greater(greater(greater(c[0], c[1]), greater(c[2], c[3])), greater(greater(c[4], c[5]), greater(c[6], c[7])))


cdef inline double greater(double one, double other) noexcept nogil:
    return one if one > other else other


cdef inline double flipped(double number) noexcept nogil:
    """Reverses the order of positive numbers; its own inverse. 0 stays 0."""
    return double_of(INFINITE - bits_of(number)) if number > 0.0 else 0.0


cdef inline uint64_t bits_of(double number) noexcept nogil:
    cdef uint64_t bits
    memcpy(&bits, &number, sizeof(double))
    return bits


cdef inline double double_of(uint64_t bits) noexcept nogil:
    cdef double number
    memcpy(&number, &bits, sizeof(double))
    return number


# Out --------------------------------------------------------------------------------------------------------------


cdef inline void find(const Sums* tree, double* targets, int64_t* slots, Py_ssize_t num) noexcept nogil:
    """Finds the slot at which the running sum of the values first exceeds each target in [0, total); total > 0.

    Never finds a slot of value 0. Overwrites `targets`.
    """
    cdef Py_ssize_t i, first = 0, last
    cdef int level
    while first < num:
        last = min(first + SEARCHES, num)
        for i in range(first, last):
            slots[i] = 0
        for level in range(tree.depth - 1, 0, -1):
            for i in range(first, last):
                slots[i] = slots[i] * WIDTH + descend(tree.sums[level] + slots[i] * WIDTH, &targets[i])
                prefetch_node(tree.sums[level - 1] + slots[i] * WIDTH, num)
        for i in range(first, last):
            slots[i] = slots[i] * WIDTH + descend(tree.sums[0] + slots[i] * WIDTH, &targets[i])
        first = last


cdef inline void prefetch_node(const double* entries, Py_ssize_t num) noexcept nogil:
    """Prefetches one of `num` nodes: L1 can have a few lines in flight, L2 many."""
    if num <= FEW:
        really_prefetch_l1(entries)
    else:
        really_prefetch_l2(entries)


cdef inline int64_t descend(const double* entries, double* target) noexcept nogil:
    """Finds the entry of a node that the target falls into, and subtracts the sum of the entries before it.

    A target below the node's sum then is below the entry's sum, to the last bit: the bound catches a difference that
    rounds up. The entry's sum comes from the same additions, so the next level finds its entry too.
    """
    cdef double before[WIDTH + 1]  # sum of all entries to the left
    cdef double bound
    cdef int64_t i, found = 0
    cdef double pair, half = (entries[0] + entries[1]) + (entries[2] + entries[3])
    before[0] = 0.0
    before[1] = entries[0]
    before[2] = entries[0] + entries[1]
    before[3] = before[2] + entries[2]
    before[4] = half
    before[5] = half + entries[4]
    pair = entries[4] + entries[5]
    before[6] = half + pair
    before[7] = half + (pair + entries[6])
    for i in range(1, WIDTH):
        found += before[i] <= target[0]
    bound = next_below(entries[found])
    target[0] = min(target[0] - before[found], bound)
    return found


cdef inline double next_below(double number) noexcept nogil:
    """The largest double below a positive one."""
    return double_of(bits_of(number) - 1)
