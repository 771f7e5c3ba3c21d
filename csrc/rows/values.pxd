"""Values of a put: which objects are rows of a column without conversion, and where their bytes are."""

cimport numpy as cnp
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from record cimport Column
from scalars cimport store_scalar

cdef enum:
    MAX_DIMS = 64  # of a NumPy array
    SCALAR = 32  # bytes of the largest number, a complex long double
    UNKNOWN = -1  # number of rows of a put before its first value is read
    ONE_ROW = -2  # the values of a put lack the row axis

cdef struct Key:  # a named column, as C sees it
    Py_ssize_t nbytes  # of a row
    int sharing  # which sharing stores its frames; -1 if records hold its rows
    int num_dims  # of a row
    cnp.npy_intp dims[MAX_DIMS]

cdef struct Scratch:  # of a value of a put
    PyObject* value  # kept alive
    char scalar[SCALAR]  # its bytes, if it is a number


cdef inline int set_shape(Key* key, shape, Py_ssize_t itemsize) except -1:
    """Sets the shape and the bytes of a row."""
    cdef Py_ssize_t axis
    key.nbytes = itemsize
    for axis in shape:
        key.dims[key.num_dims] = axis
        key.num_dims += 1
        key.nbytes *= axis
    return 0


cdef inline bint find_column(
    value, const Key* key, cnp.dtype dtype, char* scalar, Column* column, int64_t* num_rows
) except -1:
    """Finds the rows of a value. Returns False if they need conversion, or if their number differs from the other
    values'.

    Writes a number to `scalar`, which has SCALAR bytes.
    """
    cdef int64_t num = ONE_ROW
    cdef int num_lead
    cdef cnp.ndarray array
    if cnp.PyArray_CheckExact(value):
        array = <cnp.ndarray>value
        num_lead = 1 if cnp.PyArray_NDIM(array) > key.num_dims else 0
        if not fits_column(array, key, dtype, num_lead):
            return False
        column.data = <const char*>cnp.PyArray_DATA(array)
        column.stride = 0
        if num_lead == 1:
            num = cnp.PyArray_DIM(array, 0)
            column.stride = cnp.PyArray_STRIDE(array, 0)
    elif key.num_dims == 0 and store_scalar(value, dtype, scalar):
        column.data = scalar
        column.stride = 0
    else:
        return False
    return has_rows(num, num_rows)


cdef inline bint has_rows(int64_t num, int64_t* num_rows) noexcept:
    """Whether a value has as many rows as the others; the first value sets the number."""
    if num_rows[0] == UNKNOWN:
        num_rows[0] = num
    return num_rows[0] == num


cdef inline bint fits_column(cnp.ndarray array, const Key* key, cnp.dtype dtype, int num_lead) except -1:
    """Whether the array has rows of the column after `num_lead` other axes, the bytes of each row in C order."""
    cdef int axis
    cdef Py_ssize_t stride = cnp.PyArray_ITEMSIZE(array)
    if <PyObject*>cnp.PyArray_DESCR(array) != <PyObject*>dtype and not cnp.PyArray_EquivTypes(array.dtype, dtype):
        return False
    if cnp.PyArray_NDIM(array) != num_lead + key.num_dims:
        return False
    for axis in range(key.num_dims - 1, -1, -1):
        if cnp.PyArray_DIM(array, num_lead + axis) != key.dims[axis]:
            return False
        if (
            key.dims[axis] > 1 and cnp.PyArray_STRIDE(array, num_lead + axis) != stride
            and cnp.PyArray_SIZE(array) != 0
        ):
            return False
        stride *= key.dims[axis]
    return True


cdef inline bint fits_output(
    cnp.ndarray array, const Key* key, cnp.dtype dtype, const cnp.npy_intp* lead, int num_lead
) except -1:
    """Whether a batch of this column can be written to the array, whose first axes have to be `lead`."""
    cdef int axis
    if not cnp.PyArray_ISCARRAY(array) or not fits_column(array, key, dtype, num_lead):
        return False
    for axis in range(num_lead):
        if cnp.PyArray_DIM(array, axis) != lead[axis]:
            return False
    return True


cdef inline int frame_dims(cnp.npy_intp* dims, const Key* key, int stack, int axis) noexcept:
    """Writes the shape of a frame of which the column's rows are stacks; returns its number of axes.

    A stack of one frame along axis 0 has no axis of its own.
    """
    cdef int at, num = 0
    for at in range(key.num_dims):
        if at != axis or stack == 1 and axis == 0:
            dims[num] = key.dims[at]
            num += 1
    return num


cdef inline bint fits_frames(
    cnp.ndarray frames, cnp.ndarray indices, const Key* key, cnp.dtype dtype, int stack, int axis
) except -1:
    """Whether stacks of these frames, `stack` of them along `axis`, are rows of the column."""
    cdef cnp.npy_intp[MAX_DIMS] dims
    cdef int at, num_dims = frame_dims(dims, key, stack, axis)
    if cnp.PyArray_DIM(indices, 1) != stack or not cnp.PyArray_EquivTypes(frames.dtype, dtype):
        return False
    if cnp.PyArray_NDIM(frames) != 1 + num_dims:
        return False
    for at in range(num_dims):
        if cnp.PyArray_DIM(frames, 1 + at) != dims[at]:
            return False
    return True


cdef inline int lead_dims(cnp.npy_intp* dims, Py_ssize_t num, Py_ssize_t num_batches) noexcept:
    """Writes the first axes of a batch, [num] or [num_batches, num]; returns how many there are."""
    if num_batches == 0:
        dims[0] = num
        return 1
    dims[0] = num_batches
    dims[1] = num
    return 2
