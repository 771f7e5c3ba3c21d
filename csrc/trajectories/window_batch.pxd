"""Batches of windows: which rows each window has, with the mask and the flags of first steps."""

from libc.stdint cimport int64_t

from batch_layout cimport lines, take_part
from segments cimport Trajectories, prefetch_row
from starts cimport Starts
from windows cimport Window, fill_window, prefetch_last_number

cdef struct TrajectoryParts:  # of an index, for a ring that makes the windows itself
    const Trajectories* rows
    const Starts* starts

cdef struct WindowBatch:  # addresses of the parts
    int64_t* starts  # [num], numbers of the rows with which windows begin
    Py_ssize_t* num_steps  # [num], steps of a window before its padding
    int64_t* numbers  # [num, length], -1 for padding
    float* mask  # [num, length]
    float* is_first  # [num, length]
    Py_ssize_t num
    Py_ssize_t length
    Py_ssize_t num_padded  # steps that are padding, of all windows together
    char** columns  # [num_keys + 3], of a batch: those of the rows, which the caller sets, mask, flags and numbers


cdef inline Py_ssize_t window_batch_nbytes(
    Py_ssize_t num, Py_ssize_t length, Py_ssize_t num_keys
) noexcept nogil:
    cdef Py_ssize_t total = num * length
    return (
        lines((num_keys + 3) * sizeof(char*)) + lines(num * sizeof(int64_t)) + lines(num * sizeof(Py_ssize_t))
        + lines(total * sizeof(int64_t)) + 2 * lines(total * sizeof(float))
    )


cdef inline void lay_out_windows(
    WindowBatch* windows, Py_ssize_t num, Py_ssize_t length, Py_ssize_t num_keys, char* memory
) noexcept nogil:
    cdef Py_ssize_t total = num * length
    windows.num, windows.length, windows.num_padded = num, length, 0
    windows.columns = <char**>take_part(&memory, (num_keys + 3) * sizeof(char*))
    windows.starts = <int64_t*>take_part(&memory, num * sizeof(int64_t))
    windows.num_steps = <Py_ssize_t*>take_part(&memory, num * sizeof(Py_ssize_t))
    windows.numbers = <int64_t*>take_part(&memory, total * sizeof(int64_t))
    windows.mask = <float*>take_part(&memory, total * sizeof(float))
    windows.is_first = <float*>take_part(&memory, total * sizeof(float))
    windows.columns[num_keys] = <char*>windows.mask
    windows.columns[num_keys + 1] = <char*>windows.is_first
    windows.columns[num_keys + 2] = <char*>windows.numbers


cdef inline bint fill_windows(
    const TrajectoryParts* index, WindowBatch* windows, Py_ssize_t burn_in
) noexcept nogil:
    """Writes the windows from `windows.starts` on. Returns False if one of these rows is not held."""
    cdef Py_ssize_t i, at, num
    cdef Window window
    for i in range(windows.num):  # starts are anywhere
        prefetch_row(index.rows, windows.starts[i])
    for i in range(windows.num):
        prefetch_last_number(index.rows, windows.starts[i], windows.length)
    for i in range(windows.num):
        at = i * windows.length
        window.numbers, window.mask = windows.numbers + at, windows.mask + at
        window.is_first = windows.is_first + at
        num = fill_window(index.rows, windows.starts[i], windows.length, burn_in, index.starts.joins, window)
        if num == 0:
            return False
        windows.num_steps[i] = num
        windows.num_padded += windows.length - num
    return True
