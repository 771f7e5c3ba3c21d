"""Where the parts of a batch are in its one block of memory."""

from libc.stdint cimport int64_t

from compact cimport Compact
from memory cimport REALLY_CACHE_LINE, round_up
from record cimport Records
from values cimport Key

cdef enum Destination:  # of the columns
    IN_BLOCK  # part of the block
    IN_ARRAYS  # arrays of the caller, who sets their addresses
    NOWHERE  # there are none

cdef struct BatchParts:  # which parts a batch has
    Py_ssize_t num_rows
    Py_ssize_t table_nbytes  # of the hash table for a draw without replacement
    Destination columns
    bint reconstructs  # columns that share frames are copied; else there are only their frame numbers
    bint n_step  # rows are of several steps
    Py_ssize_t num_last_fields  # fields that come from the last step

cdef struct Batch:  # addresses of the parts
    char** fields  # [num_fields], values that are gathered from records
    char** columns  # [num_keys], values that are returned, or NULL; the field itself unless the key shares frames
    int64_t* ages  # [num_rows]
    int64_t* table  # for a draw without replacement
    float* discounts  # [num_rows]; NULL for single transitions
    int64_t* last_ages  # [num_rows], ages of the rows' last steps
    char** last_fields  # [num_last_fields], values of the last steps
    const Compact* compact  # which frames of the rows are copied, once for each window; NULL copies whole rows
    bint agents_alternate  # so that the rows have no last step
    bint misses_frames  # a row has the number of a frame that is not stored


cdef inline bint holds_frame_numbers(const Key* keys, Py_ssize_t num_keys, Py_ssize_t i) noexcept nogil:
    """Whether field `i` holds frame numbers, an intermediate that is not returned, rather than values of a batch
    column."""
    return i >= num_keys or keys[i].sharing >= 0


cdef inline Py_ssize_t batch_nbytes(
    const Records* records, const Key* keys, Py_ssize_t num_keys, const BatchParts* parts
) noexcept nogil:
    """Bytes of the block."""
    cdef Py_ssize_t i, num = records.num_fields, num_rows = parts.num_rows
    cdef Py_ssize_t nbytes = lines(2 * num * sizeof(char*)) + lines(num_rows * sizeof(int64_t))
    nbytes += lines(parts.table_nbytes)
    for i in range(num):
        if parts.columns != NOWHERE and holds_frame_numbers(keys, num_keys, i):
            nbytes += lines(num_rows * records.fields[i].nbytes)
        if i < num_keys and parts.columns == IN_BLOCK and (parts.reconstructs or keys[i].sharing < 0):
            nbytes += lines(num_rows * keys[i].nbytes)
    if parts.n_step:
        nbytes += lines(parts.num_last_fields * sizeof(char*))
        nbytes += lines(num_rows * sizeof(int64_t)) + lines(num_rows * sizeof(float))
    return nbytes


cdef inline void lay_out_batch(
    Batch* batch, const Records* records, const Key* keys, Py_ssize_t num_keys, const BatchParts* parts, char* block
) noexcept nogil:
    """Sets the addresses of all parts; with IN_ARRAYS not those of columns, nor of fields that are columns."""
    cdef Py_ssize_t i, num = records.num_fields, num_rows = parts.num_rows
    batch.fields = <char**>take_part(&block, 2 * num * sizeof(char*))
    batch.columns = batch.fields + num
    batch.ages = <int64_t*>take_part(&block, num_rows * sizeof(int64_t))
    batch.table = <int64_t*>take_part(&block, parts.table_nbytes)
    for i in range(num_keys if parts.columns == IN_BLOCK else 0):
        batch.columns[i] = NULL
        if parts.reconstructs or keys[i].sharing < 0:
            batch.columns[i] = take_part(&block, num_rows * keys[i].nbytes)
    for i in range(num if parts.columns != NOWHERE else 0):
        if holds_frame_numbers(keys, num_keys, i):
            batch.fields[i] = take_part(&block, num_rows * records.fields[i].nbytes)
        elif parts.columns == IN_BLOCK:
            batch.fields[i] = batch.columns[i]
    batch.discounts = NULL
    batch.compact = NULL
    if parts.n_step:
        batch.last_fields = <char**>take_part(&block, parts.num_last_fields * sizeof(char*))
        batch.last_ages = <int64_t*>take_part(&block, num_rows * sizeof(int64_t))
        batch.discounts = <float*>take_part(&block, num_rows * sizeof(float))


cdef inline char* take_part(char** block, Py_ssize_t nbytes) noexcept nogil:
    """The next part of the block, on cache lines of its own."""
    cdef char* part = block[0]
    block[0] += lines(nbytes)
    return part


cdef inline Py_ssize_t lines(Py_ssize_t nbytes) noexcept nogil:
    return round_up(nbytes, REALLY_CACHE_LINE)
