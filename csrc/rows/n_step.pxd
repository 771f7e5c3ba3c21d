"""n-step returns at sampling time: each row's last step, the discounted reward up to it, and the discount after it.

k = min(n, steps to the first end, steps to the newest row or to a removed one), R = sum of gamma^i r_i for i < k,
discount = gamma^k (1 - terminal of the last step): Sutton and Barto 2018, equation 7.1. A truncation ends the steps but
does not terminate.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from batch_layout cimport Batch
from gather cimport gather
from removed cimport Removed, is_removed
from record cimport Field, Records, num_held, oldest_row, oldest_slot, row_at

cdef struct Steps:
    int max_steps  # n; 0 for batches of single transitions
    double gamma
    Py_ssize_t reward  # fields, each float32 []
    Py_ssize_t end
    Py_ssize_t terminal
    Py_ssize_t agent  # -1 if there is none
    Records last  # the same rows, with only the fields that a batch takes from the last step
    Py_ssize_t* last_keys  # [last.num_fields], positions of these fields


cdef inline bint allocate_steps(Steps* steps, const Records* records, Py_ssize_t num_last) noexcept nogil:
    """Allocates the tables for `num_last` columns from the last step. Returns False if there is no memory."""
    steps.last = records[0]
    steps.last.num_fields = num_last
    steps.last.fields = <Field*>calloc(num_last + 1, sizeof(Field))
    steps.last_keys = <Py_ssize_t*>calloc(num_last + 1, sizeof(Py_ssize_t))
    return steps.last.fields != NULL and steps.last_keys != NULL


cdef inline void free_steps(Steps* steps) noexcept nogil:
    free(steps.last_keys)
    free(steps.last.fields)


cdef inline void gather_steps(
    const Records* records, Steps* steps, const Removed* removed, Batch* batch, Py_ssize_t num_rows
) noexcept nogil:
    """Writes the returns and discounts of a batch, and copies the columns that come from the last steps."""
    cdef float* rewards = <float*>batch.fields[steps.reward]
    cdef Py_ssize_t i
    batch.agents_alternate = not follow_steps(
        records, steps, removed, batch.ages, num_rows, batch.last_ages, rewards, batch.discounts
    )
    if batch.agents_alternate:
        return
    steps.last.cursor = records.cursor
    for i in range(steps.last.num_fields):
        batch.last_fields[i] = batch.fields[steps.last_keys[i]]
    gather(&steps.last, batch.last_ages, num_rows, batch.last_fields, NULL, NULL)


cdef inline bint follow_steps(
    const Records* records, const Steps* steps, const Removed* removed, const int64_t* ages, Py_ssize_t num_rows,
    int64_t* last_ages, float* rewards, float* discounts,
) noexcept nogil:
    """Finds each row's last step. Returns False if rows of several agents alternate, so that there is none."""
    cdef int64_t held = num_held(records), oldest = oldest_slot(records), age
    cdef Py_ssize_t i
    cdef int k
    cdef double total, gamma
    cdef const char* row
    cdef const char* after
    for i in range(num_rows):
        age, gamma = ages[i], steps.gamma
        row = row_at(records, oldest, age)
        total = float_at(row, records.fields[steps.reward])
        for k in range(1, steps.max_steps):
            if age + 1 == held or float_at(row, records.fields[steps.end]) != 0:
                break
            if removed.any and is_removed(removed, oldest_row(records) + age + 1):
                break
            after = row_at(records, oldest, age + 1)
            if steps.agent >= 0 and differs(row, after, records.fields[steps.agent]):
                return False
            row, age = after, age + 1
            total += gamma * float_at(row, records.fields[steps.reward])
            gamma *= steps.gamma
        last_ages[i], rewards[i] = age, <float>total
        discounts[i] = <float>(gamma * (1 - float_at(row, records.fields[steps.terminal])))
    return True


cdef inline float float_at(const char* row, Field field) noexcept nogil:
    cdef float value
    memcpy(&value, row + field.offset, sizeof(float))
    return value


cdef inline bint differs(const char* row, const char* other, Field field) noexcept nogil:
    return memcmp(row + field.offset, other + field.offset, field.nbytes) != 0
