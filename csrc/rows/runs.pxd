"""Runs: consecutive records to columns, for windows of steps that lie next to each other."""

from libc.stdint cimport int64_t
from libc.string cimport memset

from gather cimport NARROW
from memory cimport REALLY_CACHE_LINE
from record cimport Field, Records, oldest_row, oldest_slot, slot_of
from values cimport Key
from window_batch cimport WindowBatch

cdef extern from "run_copy.h" nogil:
    ctypedef struct ReallyAhead:
        const char* next
        const char* next_end
        const char* later
        const char* later_end
        size_t num_lines
    void really_copy_strided(
        char* to, const char* rows, size_t stride, size_t nbytes, size_t num, ReallyAhead* ahead
    ) noexcept

cdef enum:
    LEAST_RUN = 8  # rows; where runs are shorter on average, rows are copied one by one
    RUN_NBYTES = 16384  # of a run at most, so that it and the next one have room in the first-level cache
    FAR = 3  # runs from the one that is copied to the one that is prefetched to the second-level cache

cdef struct Run:
    Py_ssize_t window
    Py_ssize_t step  # in the window, of its first row
    Py_ssize_t num  # rows; 0 if there is no run
    Py_ssize_t num_before_end  # rows before the end of the ring's memory; the others are at the start of it
    const char* rows


cdef inline bint may_copy_runs(const Records* records, const WindowBatch* windows) noexcept nogil:
    """Whether the rows of the windows are runs of enough short records."""
    cdef Py_ssize_t i, at, num_runs = 0
    if records.stride > NARROW:
        return False
    for i in range(windows.num):
        at = 0
        while at < windows.num_steps[i]:
            at += length_of_run(windows.numbers + i * windows.length + at, windows.num_steps[i] - at)
            num_runs += 1
    return num_runs * LEAST_RUN <= windows.num * windows.length - windows.num_padded


cdef inline void copy_runs(const Records* records, const WindowBatch* windows, char** columns) noexcept nogil:
    """Copies the rows of all windows to columns, without their padding, while it prefetches those that come next."""
    cdef int64_t oldest = oldest_slot(records)
    cdef Py_ssize_t most = max(RUN_NBYTES // records.stride, <Py_ssize_t>1), i
    cdef Run[FAR + 1] runs  # the one that is copied, and those that come next
    runs[0].window = runs[0].step = runs[0].num = 0
    find_run(records, oldest, windows, most, &runs[0], &runs[0])
    for i in range(FAR):
        find_run(records, oldest, windows, most, &runs[i], &runs[i + 1])
    while runs[0].num > 0:
        copy_run(records, runs, columns, runs[0].window * windows.length + runs[0].step)
        for i in range(FAR):
            runs[i] = runs[i + 1]
        find_run(records, oldest, windows, most, &runs[FAR], &runs[FAR])


cdef inline void find_run(
    const Records* records, int64_t oldest, const WindowBatch* windows, Py_ssize_t most, const Run* before, Run* run
) noexcept nogil:
    """Finds the run of at most `most` rows that comes next; `oldest` is the slot of age 0."""
    cdef Py_ssize_t window = before.window, step = before.step + before.num
    cdef const int64_t* numbers
    cdef int64_t slot
    if window < windows.num and step == windows.num_steps[window]:
        window, step = window + 1, 0
    run.window, run.step, run.num, run.num_before_end, run.rows = window, step, 0, 0, records.data
    if window < windows.num:
        numbers = windows.numbers + window * windows.length + step
        slot = slot_of(records, oldest, numbers[0] - oldest_row(records))
        run.num = length_of_run(numbers, min(windows.num_steps[window] - step, most))
        run.num_before_end = min(run.num, records.num_slots - slot)
        run.rows = records.data + slot * records.stride


cdef inline void set_ages(int64_t* ages, const WindowBatch* windows, int64_t oldest) noexcept nogil:
    """The ages of the rows; those of padding are that of its window's last row."""
    cdef Py_ssize_t i, j, num
    cdef const int64_t* numbers
    for i in range(windows.num):
        numbers, num = windows.numbers + i * windows.length, windows.num_steps[i]
        for j in range(windows.length):
            ages[i * windows.length + j] = numbers[min(j, num - 1)] - oldest


cdef inline void clear_padding(
    const WindowBatch* windows, const Key* keys, Py_ssize_t num_keys, char** columns
) noexcept nogil:
    """Makes the values of padding zeros."""
    cdef Py_ssize_t i, k, num, end
    for i in range(windows.num):
        num, end = windows.num_steps[i], (i + 1) * windows.length
        for k in range(num_keys if num < windows.length else 0):
            memset(columns[k] + (end - windows.length + num) * keys[k].nbytes, 0, (windows.length - num) * keys[k].nbytes)


cdef inline Py_ssize_t length_of_run(const int64_t* numbers, Py_ssize_t num) noexcept nogil:
    """How many of these ascending numbers, from the first on, are consecutive."""
    cdef Py_ssize_t i = 1
    if numbers[num - 1] - numbers[0] == num - 1:
        return num
    while numbers[i] == numbers[i - 1] + 1:
        i += 1
    return i


cdef inline void copy_run(const Records* records, const Run* runs, char** columns, Py_ssize_t place) noexcept nogil:
    """Copies the first of FAR + 1 runs to columns, from row `place` of the batch on, field by field. In between it
    prefetches the second and the last."""
    cdef const Run* run = &runs[0]
    cdef const Run* far = &runs[FAR]
    cdef const Field* field
    cdef char* column
    cdef Py_ssize_t of_fields = records.num_fields * REALLY_CACHE_LINE, k
    cdef ReallyAhead ahead
    ahead.num_lines = run.num * records.stride // of_fields
    ahead.next, ahead.next_end = runs[1].rows, runs[1].rows + runs[1].num_before_end * records.stride
    ahead.later, ahead.later_end = far.rows, far.rows + far.num_before_end * records.stride
    for k in range(records.num_fields):
        field = &records.fields[k]
        column = columns[k] + place * field.nbytes
        really_copy_strided(
            column, run.rows + field.offset, records.stride, field.nbytes, run.num_before_end, &ahead
        )
        if run.num_before_end < run.num:
            really_copy_strided(
                column + run.num_before_end * field.nbytes, records.data + field.offset, records.stride, field.nbytes,
                run.num - run.num_before_end, &ahead,
            )
