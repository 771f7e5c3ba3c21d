"""Where the rows of a step go: a column [time, env, ...] whose rows are each contiguous."""

cimport numpy as cnp
from libc.string cimport memcpy


cdef struct Column:
    char* data
    Py_ssize_t time  # length of the time axis; 0 if rows are written by NumPy alone
    Py_ssize_t envs
    Py_ssize_t time_stride, env_stride  # in bytes
    Py_ssize_t row_bytes


cdef inline void write_rows(const Column* column, Py_ssize_t step, const char* rows) noexcept nogil:
    """Writes one row for each environment; `rows` is contiguous."""
    cdef char* to = column.data + step * column.time_stride
    cdef Py_ssize_t i
    # The usual small rows are copied by one instruction each.
    if column.row_bytes == 1:
        for i in range(column.envs):
            to[i * column.env_stride] = rows[i]
    elif column.row_bytes == 4:
        for i in range(column.envs):
            memcpy(to + i * column.env_stride, rows + 4 * i, 4)
    elif column.row_bytes == 8:
        for i in range(column.envs):
            memcpy(to + i * column.env_stride, rows + 8 * i, 8)
    elif column.row_bytes == 16:
        for i in range(column.envs):
            memcpy(to + i * column.env_stride, rows + 16 * i, 16)
    else:
        for i in range(column.envs):
            memcpy(to + i * column.env_stride, rows + i * column.row_bytes, column.row_bytes)
