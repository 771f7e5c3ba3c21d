"""The rows of a put: where the bytes of each column are, and the numbers of the frames that they share.

A put of few columns and few frames has its tables on the C stack, and needs no memory from the system.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc

from matching cimport StackColumn
from record cimport Column, Records
from values cimport Scratch

cdef enum:
    FEW_FIELDS = 16
    FEW_NUMBERS = 128  # of frames, of all fields together

cdef struct Incoming:  # the tables of a put
    Column* columns  # [num_fields]
    Scratch* scratch  # [num_fields], of the values
    StackColumn* stacks  # [num_fields], of the keys that share frames
    Column* piece  # [num_fields], the columns from the first row of a piece on; of shared frames their numbers
    uint32_t* numbers  # [num_fields, room], numbers of the frames
    Py_ssize_t room  # numbers of a field: rows of a piece times the largest stack
    Column few_columns[2 * FEW_FIELDS]
    Scratch few_scratch[FEW_FIELDS]
    StackColumn few_stacks[FEW_FIELDS]
    uint32_t few_numbers[FEW_NUMBERS]


cdef inline bint allocate_columns(Incoming* rows, Py_ssize_t num_fields) noexcept nogil:
    """Allocates all but the numbers. Returns False if there is no memory."""
    rows.numbers = NULL
    if num_fields <= FEW_FIELDS:
        rows.columns, rows.scratch, rows.stacks = rows.few_columns, rows.few_scratch, rows.few_stacks
    else:
        rows.columns = <Column*>malloc(num_fields * (2 * sizeof(Column) + sizeof(Scratch) + sizeof(StackColumn)))
        rows.scratch = <Scratch*>(rows.columns + 2 * num_fields)
        rows.stacks = <StackColumn*>(rows.scratch + num_fields)
    rows.piece = rows.columns + num_fields
    return rows.columns != NULL


cdef inline bint allocate_numbers(
    Incoming* rows, const Records* records, Py_ssize_t max_stack, int64_t num_rows
) noexcept nogil:
    """Allocates the frame numbers of a piece. Returns False if there is no memory."""
    rows.room = (rows_of_piece(records, num_rows) + 1) * max_stack
    rows.numbers = rows.few_numbers
    if rows.room * records.num_fields > FEW_NUMBERS:
        rows.numbers = <uint32_t*>malloc(rows.room * records.num_fields * sizeof(uint32_t))
    return rows.numbers != NULL


cdef inline void free_incoming(Incoming* rows) noexcept nogil:
    if rows.numbers != rows.few_numbers:
        free(rows.numbers)
    if rows.columns != rows.few_columns:
        free(rows.columns)


cdef inline void set_whole_rows(StackColumn* stacks, const Column* column) noexcept nogil:
    """Sets the rows of a key that shares frames to those of a column, which are whole rows."""
    stacks.data, stacks.stride, stacks.indices = column.data, column.stride, NULL


cdef inline void clear_column(Column* column) noexcept nogil:
    """For a field whose values the ring computes."""
    column.data, column.stride = NULL, 0


cdef inline int64_t rows_of_piece(const Records* records, int64_t num_rows) noexcept nogil:
    """Rows that are committed together: with spare slots as many as fit in them, else all that are kept."""
    cdef int64_t spare = records.num_slots - records.capacity
    return min(num_rows, spare if spare > 0 else records.capacity)
