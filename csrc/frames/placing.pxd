"""Frames that another process sent, to the rows of a batch: each row goes to its own place among them."""

from libc.stdint cimport int64_t

from interleave cimport frames_pass_the_cache, has_fast_path, interleave, really_interleave4
from matching cimport MAX_STACK
from memory cimport really_stream_fence
from row_copy cimport REALLY_ROW_GROUP, prefetch_lines, really_copy_rows, really_row_ahead


cdef struct Placed:
    const char* frames  # [num_frames] of `nbytes` each
    Py_ssize_t num_frames, nbytes
    int stack
    Py_ssize_t outer, inner  # a frame is [outer, inner]; rows are [outer, stack, inner]
    int num_columns
    const int* indices[2]  # [num, stack] of each column
    char* columns[2]  # [num_places] rows
    const int64_t* positions  # [num], or NULL: row i has place i
    Py_ssize_t num, num_places


cdef inline Py_ssize_t place_rows(const Placed* placed) noexcept nogil:
    """Writes all rows. Returns their number, or the first that has no place or no frame."""
    cdef Py_ssize_t row_nbytes = placed.stack * placed.nbytes
    cdef size_t nbytes = placed.num * placed.num_columns * row_nbytes
    cdef bint streams = frames_pass_the_cache(placed.stack, placed.outer, placed.inner, nbytes)
    cdef const char* frames[2][MAX_STACK]
    cdef Py_ssize_t i, place
    cdef int c
    for i in range(placed.num):
        place = i if placed.positions == NULL else placed.positions[i]
        if not 0 <= place < placed.num_places:
            return i
        for c in range(placed.num_columns):
            if not locate(placed, c, i, frames[c]):
                return i
        # Columns of the same frames follow each other, so that the frames are in a cache for the second.
        for c in range(placed.num_columns):
            write_stack(placed, placed.columns[c] + place * row_nbytes, frames[c], streams)
    if streams:
        really_stream_fence()
    return placed.num


cdef inline bint locate(const Placed* placed, int column, Py_ssize_t row, const char** frames) noexcept nogil:
    """Finds the frames of a row, and prefetches their starts. Returns False if there is not such a frame."""
    cdef const int* indices = placed.indices[column] + row * placed.stack
    cdef int j
    for j in range(placed.stack):
        if not 0 <= indices[j] < placed.num_frames:
            return False
        frames[j] = placed.frames + indices[j] * placed.nbytes
        prefetch_lines(frames[j], min(placed.nbytes, <Py_ssize_t>really_row_ahead()))
    return True


cdef inline void write_stack(const Placed* placed, char* row, const char** frames, bint streams) noexcept nogil:
    cdef int j = 0
    if has_fast_path(placed.stack, placed.outer, placed.inner):
        really_interleave4(row, NULL, frames, 1, placed.outer, streams)
    elif placed.outer != 1:
        interleave(row, frames, placed.stack, placed.outer, placed.inner)
    else:
        while j < placed.stack:
            really_copy_rows(
                row + j * placed.nbytes, placed.nbytes, frames + j, placed.nbytes,
                min(placed.stack - j, <int>REALLY_ROW_GROUP), streams, True,
            )
            j += REALLY_ROW_GROUP
