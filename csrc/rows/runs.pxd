"""Runs: consecutive records to columns, for windows of steps that lie next to each other."""

from libc.stdint cimport int64_t
from libc.string cimport memset

from gather cimport NARROW
from memory cimport REALLY_CACHE_LINE
from record cimport Records, oldest_row, oldest_slot
from row_copy cimport prefetch_lines
from values cimport Key
from window_batch cimport WindowBatch

cdef extern from "run_copy.h" nogil:
    void really_copy_strided(char* to, const char* rows, size_t stride, size_t nbytes, size_t num) noexcept

cdef enum:
    LEAST_RUN = 8  # rows; where runs are shorter on average, rows are copied one by one
    LONGEST_RUN = 128  # rows that are copied before the next ones are prefetched


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
    cdef int64_t origin = oldest_row(records) - oldest_slot(records)  # number of a row in slot 0, held or not
    cdef Py_ssize_t place, num, num_ahead = 0, ahead = next_run(windows, 0, &num_ahead)
    while num_ahead > 0:
        place, num = ahead, num_ahead
        ahead = next_run(windows, place + num, &num_ahead)
        copy_run(
            records, slot_of_number(records, origin, windows.numbers[place]), num, columns, place,
            slot_of_number(records, origin, windows.numbers[ahead]) if num_ahead > 0 else 0, num_ahead,
        )


cdef inline Py_ssize_t next_run(const WindowBatch* windows, Py_ssize_t place, Py_ssize_t* num) noexcept nogil:
    """Where the next run begins, from this place of the batch on, and how many rows it has; 0 if there is none."""
    cdef Py_ssize_t window = place // windows.length, at = place - window * windows.length
    if window < windows.num and at == windows.num_steps[window]:
        window, at = window + 1, 0
    num[0] = 0
    if window < windows.num:
        place = window * windows.length + at
        num[0] = length_of_run(windows.numbers + place, min(windows.num_steps[window] - at, <Py_ssize_t>LONGEST_RUN))
    return place


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


cdef inline void copy_run(
    const Records* records, int64_t slot, Py_ssize_t num, char** columns, Py_ssize_t place, int64_t next_slot,
    Py_ssize_t num_ahead,
) noexcept nogil:
    """Copies `num` rows from this slot on to columns, from row `place` of the batch on, field by field.

    In between it prefetches `num_ahead` rows from `next_slot` on: all at once would wait for each other.
    """
    cdef Py_ssize_t before_end = min(num, records.num_slots - slot), k, ahead = 0, piece
    cdef const char* next_row = records.data + next_slot * records.stride
    cdef Py_ssize_t ahead_nbytes = min(num_ahead, records.num_slots - next_slot) * records.stride
    piece = (ahead_nbytes // records.num_fields + REALLY_CACHE_LINE) // REALLY_CACHE_LINE * REALLY_CACHE_LINE
    for k in range(records.num_fields):
        prefetch_lines(next_row + ahead, min(piece, ahead_nbytes - ahead))
        ahead += min(piece, ahead_nbytes - ahead)
        copy_slots(records, k, slot, before_end, columns[k], place)
        if before_end < num:
            copy_slots(records, k, 0, num - before_end, columns[k], place + before_end)


cdef inline void copy_slots(
    const Records* records, Py_ssize_t field, int64_t slot, Py_ssize_t num, char* column, Py_ssize_t place
) noexcept nogil:
    cdef Py_ssize_t nbytes = records.fields[field].nbytes
    really_copy_strided(
        column + place * nbytes, records.data + slot * records.stride + records.fields[field].offset,
        records.stride, nbytes, num,
    )


cdef inline int64_t slot_of_number(const Records* records, int64_t origin, int64_t number) noexcept nogil:
    """Slot of a row that is held; `origin` is the number of a row in slot 0, at most one round back."""
    cdef int64_t slot = number - origin
    return slot if slot < records.num_slots else slot - records.num_slots
