"""Proportional prioritization (Schaul et al. 2016): values from priorities, targets from strata, weights from values."""

from libc.float cimport DBL_MAX
from libc.math cimport pow
from libc.stdint cimport int64_t
from numpy.random cimport bitgen_t

from sums cimport Sums, least_positive, next_below, total

cdef struct Exponents:
    double alpha  # 0: all rows alike, 1: in proportion to their priorities
    double eps  # added to every priority


cdef inline double value_of(Exponents exponents, double priority) noexcept nogil:
    """(priority + eps) ** alpha, what a row is drawn in proportion to: the paper's p_i ** alpha, section 3.3."""
    return pow(priority + exponents.eps, exponents.alpha)


cdef inline bint usable(double priority) noexcept nogil:
    """Whether it is a number from 0 up, neither NaN nor infinite."""
    return 0.0 <= priority <= DBL_MAX


cdef inline void draw_targets(bitgen_t* source, const Sums* tree, double* targets, Py_ssize_t num) noexcept nogil:
    """One target from each of `num` equal parts of [0, total), in order (appendix B.2.1)."""
    cdef double part = total(tree) / num, bound = next_below(total(tree))
    cdef Py_ssize_t i
    for i in range(num):
        targets[i] = min((i + source.next_double(source.state)) * part, bound)


cdef inline void weigh(
    const Sums* tree, const int64_t* slots, double beta, float* weights, Py_ssize_t num
) noexcept nogil:
    """Importance weights (N * P(i)) ** -beta over the largest that any slot has (section 3.4).

    N and the total cancel out: what is left is (least value / value) ** beta.
    """
    cdef double least = least_positive(tree)
    cdef Py_ssize_t i
    for i in range(num):
        weights[i] = <float>pow(least / tree.sums[0][slots[i]], beta)
