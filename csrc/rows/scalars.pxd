"""A Python or NumPy number, written as a field holds it, for rows that are put one at a time."""

cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.object cimport PyObject, PyTypeObject
from libc.math cimport isinf
from libc.stdint cimport int64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include "numpy/arrayscalars.h"
    """
    PyTypeObject PyFloat32ArrType_Type
    PyTypeObject PyInt64ArrType_Type
    ctypedef struct PyFloat32ScalarObject:
        float obval
    ctypedef struct PyInt64ScalarObject:
        int64_t obval


cdef inline bint store_scalar(value, cnp.dtype dtype, char* to) except -1:
    """Writes a number as `dtype`. Returns False, with nothing done, if that would lose something or is not known."""
    cdef int kind = dtype.type_num
    cdef int overflow = 0
    cdef long long integer
    if PyLong_CheckExact(value):
        integer = PyLong_AsLongLongAndOverflow(value, &overflow)
        return overflow == 0 and store_integer(to, kind, integer)
    if PyFloat_Check(value):
        return store_float(to, kind, PyFloat_AS_DOUBLE(value))
    if value is True or value is False:
        return store_bool(to, kind, value is True)
    if store_own_scalar(to, kind, dtype.byteorder, <PyObject*>value):
        return True
    if not cnp.PyArray_CheckScalar(value) or cnp.PyArray_Check(value):
        return False
    if not (cnp.PyTypeNum_ISNUMBER(kind) or kind == cnp.NPY_BOOL):
        return False
    if not cnp.PyArray_EquivTypes(cnp.PyArray_DescrFromScalar(value), dtype):
        return False
    cnp.PyArray_ScalarAsCtype(value, to)
    return True


cdef inline bint store_own_scalar(char* to, int kind, char order, PyObject* value) noexcept:
    """The two kinds of NumPy's numbers that most rows have, of the column's own dtype. NumPy takes 50 ns for each."""
    if order != c"=":
        return False
    if kind == cnp.NPY_FLOAT32 and value.ob_type == &PyFloat32ArrType_Type:
        memcpy(to, &(<PyFloat32ScalarObject*>value).obval, sizeof(float))
    elif kind == cnp.NPY_INT64 and value.ob_type == &PyInt64ArrType_Type:
        memcpy(to, &(<PyInt64ScalarObject*>value).obval, sizeof(int64_t))
    else:
        return False
    return True


cdef inline bint store_float(char* to, int kind, double value) noexcept:
    cdef float single = <float>value
    if kind == cnp.NPY_FLOAT64:
        memcpy(to, &value, sizeof(double))
    elif kind == cnp.NPY_FLOAT32 and isinf(single) == isinf(value):
        memcpy(to, &single, sizeof(float))
    else:
        return False
    return True


cdef inline bint store_integer(char* to, int kind, int64_t value) noexcept:
    if kind == cnp.NPY_INT64:
        memcpy(to, &value, sizeof(int64_t))
        return True
    return -(1 << 24) <= value <= 1 << 24 and store_float(to, kind, <double>value)


cdef inline bint store_bool(char* to, int kind, bint value) noexcept:
    if kind == cnp.NPY_BOOL:
        to[0] = value
        return True
    return store_float(to, kind, <double>value)
