"""Proportional prioritization (Schaul et al. 2016): priorities to values, strata to targets, values to weights."""

from libc.float cimport DBL_MAX
from libc.math cimport pow
from libc.stdint cimport int64_t
from numpy.random cimport bitgen_t

from sums cimport Sums, least_positive, next_below, total

cdef struct Exponents:
    double alpha  # 0: uniform, 1: in proportion to priorities
    double eps  # added to every priority


cdef inline double scaled_priority(Exponents exponents, double priority) noexcept nogil:
    """The value of a row, (priority + eps) ** alpha, to which its probability is proportional (section 3.3)."""
    return pow(priority + exponents.eps, exponents.alpha)


cdef inline bint is_valid_priority(double priority) noexcept nogil:
    """Whether a priority is at least 0 and finite."""
    return 0.0 <= priority <= DBL_MAX


cdef inline void draw_targets(bitgen_t* source, const Sums* tree, double* targets, Py_ssize_t num) noexcept nogil:
    """Draws one target from each of `num` equal strata of [0, total), in order (appendix B.2.1)."""
    cdef double part = total(tree) / num, bound = next_below(total(tree))
    cdef Py_ssize_t i
    for i in range(num):
        targets[i] = min((i + source.next_double(source.state)) * part, bound)


cdef inline void weigh(
    const Sums* tree, const int64_t* slots, double beta, float* weights, Py_ssize_t num
) noexcept nogil:
    """Importance weights (N * P(i)) ** -beta, divided by the largest weight of any slot (section 3.4).

    N and the total cancel out, which leaves (least value / value) ** beta.
    """
    cdef double least = least_positive(tree)
    cdef Py_ssize_t i
    for i in range(num):
        weights[i] = <float>pow(least / tree.sums[0][slots[i]], beta)
