"""Returns of several steps at sampling time: where a row's steps end, what they earn, what is left of the discount.

k = min(n, steps to the first end, steps to the newest row), R = sum of gamma^i r_i for i < k, discount = gamma^k (1 -
terminal of the last row): Sutton and Barto 2018, equation 7.1, with a truncation as an end that is no termination.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcmp, memcpy

from record cimport Field, Records, num_held, oldest_slot, row_at

cdef struct Steps:
    int most  # n; 0 where batches are of single steps
    double gamma
    Py_ssize_t reward  # fields, float32 [] each
    Py_ssize_t end
    Py_ssize_t terminal
    Py_ssize_t agent  # -1 where there is none
    Records after  # the same rows, with the fields that a batch takes from the last step


cdef inline bint walk(
    const Records* records, const Steps* steps, const int64_t* ages, Py_ssize_t num_rows,
    int64_t* lasts, float* rewards, float* discounts,
) noexcept nogil:
    """Follows each row to the last of its steps; False if rows of several agents alternate, so that it cannot."""
    cdef int64_t held = num_held(records), oldest = oldest_slot(records), age
    cdef Py_ssize_t i
    cdef int k
    cdef double total, gamma
    cdef const char* row
    cdef const char* after
    for i in range(num_rows):
        age, gamma = ages[i], steps.gamma
        row = row_at(records, oldest, age)
        total = single(row, records.fields[steps.reward])
        for k in range(1, steps.most):
            if age + 1 == held or single(row, records.fields[steps.end]) != 0:
                break
            after = row_at(records, oldest, age + 1)
            if steps.agent >= 0 and differs(row, after, records.fields[steps.agent]):
                return False
            row, age = after, age + 1
            total += gamma * single(row, records.fields[steps.reward])
            gamma *= steps.gamma
        lasts[i], rewards[i] = age, <float>total
        discounts[i] = <float>(gamma * (1 - single(row, records.fields[steps.terminal])))
    return True


cdef inline float single(const char* row, Field field) noexcept nogil:
    cdef float value
    memcpy(&value, row + field.offset, sizeof(float))
    return value


cdef inline bint differs(const char* row, const char* other, Field field) noexcept nogil:
    return memcmp(row + field.offset, other + field.offset, field.nbytes) != 0
