"""Discrete actions from a model's outputs, with the arithmetic of NumPy: the same actions to the bit."""

from cython cimport floating
from libc.stdint cimport int64_t


cdef inline Py_ssize_t first_largest(const floating* values, Py_ssize_t num) noexcept nogil:
    """Index of the first of the largest values, or of the first NaN, as `argmax`."""
    cdef Py_ssize_t i, best = 0
    for i in range(num):
        if values[i] != values[i]:
            return i
        if values[i] > values[best]:
            best = i
    return best


cdef inline Py_ssize_t first_largest_sum(
    const floating* values, const double* noise, double scale, Py_ssize_t num
) noexcept nogil:
    """`argmax(values + scale * noise)` in double precision."""
    cdef double total, largest = 0.0
    cdef Py_ssize_t i, best = 0
    for i in range(num):
        total = scale * noise[i]
        total = <double>values[i] + total
        if total != total:
            return i
        if i == 0 or total > largest:
            best, largest = i, total
    return best


cdef inline bint explores(double noise, double scale, Py_ssize_t num) noexcept nogil:
    """Whether noise < num / scale, so that the choice is `uniform_choice`."""
    return noise * scale < <double>num


cdef inline Py_ssize_t uniform_choice(double noise, double scale) noexcept nogil:
    """The choice of a number that `explores`, which the same number decides."""
    return <Py_ssize_t>(noise * scale)


cdef inline Py_ssize_t exploring_choice(
    const floating* values, double noise, double scale, Py_ssize_t num
) noexcept nogil:
    """A uniform choice if it `explores`, else the first of the largest values."""
    return uniform_choice(noise, scale) if explores(noise, scale, num) else first_largest(values, num)
