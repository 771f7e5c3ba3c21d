"""Layers of small networks, which runners compute without a framework.

Reading order: dense.pxd (the kernel), then this file.
"""

import numpy as np

cimport cython
cimport numpy as cnp

from cpu cimport level_names, really_cpu_use
from dense cimport REALLY_DENSE_WIDTH, really_dense

cnp.import_array()

CPU_LEVELS = level_names()
"""The instructions that kernels may use here, the slowest first."""


def use_level(int level):
    """Makes the kernels use the instructions of `CPU_LEVELS[level]`; results are the same."""
    really_cpu_use(level, 0)


use_level(len(CPU_LEVELS) - 1)


def padded(values):
    """Weights `[inputs, outputs]` or a bias `[outputs]` as `Dense` takes them: zeros fill the last axis.

    Raises:
        ValueError: it is one number, which has no axis.
    """
    array = np.asarray(values, np.float32)
    if array.ndim == 0:
        raise ValueError(f"padded: expected weights [inputs, outputs] or a bias [outputs], got the number {array}")
    cdef Py_ssize_t width = array.shape[array.ndim - 1]
    cdef Py_ssize_t columns = (width + REALLY_DENSE_WIDTH - 1) // REALLY_DENSE_WIDTH * REALLY_DENSE_WIDTH
    found = np.zeros((*array.shape[: array.ndim - 1], columns), np.float32)
    found[..., :width] = array
    return found


cdef inline bint is_plain(cnp.ndarray values, int num_dims) noexcept:
    """Whether this is a contiguous array of float32 with so many axes."""
    return (
        cnp.PyArray_NDIM(values) == num_dims and cnp.PyArray_TYPE(values) == cnp.NPY_FLOAT32
        and cnp.PyArray_ISCARRAY_RO(values)
    )


@cython.final
cdef class Dense:
    """A dense layer of `outputs` numbers for `rows` states; with `rectified`, negative ones become 0.

    The result of a state has the same bits for any number of other states. It is a view that the next call overwrites,
    so it cannot be the states of this layer.
    """

    cdef cnp.ndarray made
    cdef Py_ssize_t rows, outputs
    cdef bint rectified

    def __cinit__(self, Py_ssize_t rows, Py_ssize_t outputs, bint rectified):
        self.rows, self.outputs, self.rectified = rows, outputs, rectified
        self.made = np.zeros((rows, outputs), np.float32)

    def __call__(self, states, cnp.ndarray weights not None, cnp.ndarray bias not None):
        """`[rows, outputs]` float32 for states `[rows, inputs]`, with `padded` weights and bias.

        Raises:
            ValueError: a shape or dtype is another one.
        """
        cdef cnp.ndarray given
        if cnp.PyArray_CheckExact(states) and is_plain(<cnp.ndarray>states, 2):
            given = states
        else:
            given = np.ascontiguousarray(states, np.float32)
        if not (is_plain(given, 2) and is_plain(weights, 2) and is_plain(bias, 1)):
            raise ValueError("dense: expected states and weights of two axes and a bias of one, in contiguous float32")
        cdef Py_ssize_t inputs = cnp.PyArray_DIM(weights, 0), columns = cnp.PyArray_DIM(weights, 1)
        if (
            cnp.PyArray_DIM(given, 0) != self.rows or cnp.PyArray_DIM(given, 1) != inputs
            or cnp.PyArray_DIM(bias, 0) != columns or columns < self.outputs or columns % REALLY_DENSE_WIDTH
            or columns - self.outputs >= REALLY_DENSE_WIDTH
        ):
            raise ValueError(
                f"dense: expected states {[self.rows, inputs]} for weights {[inputs, columns]} that are padded for "
                f"{self.outputs} outputs, got {[given.shape[at] for at in range(2)]} and a bias {[bias.shape[0]]}"
            )
        with cython.nogil:
            really_dense(
                <float*>cnp.PyArray_DATA(self.made), <const float*>cnp.PyArray_DATA(given), self.rows,
                <const float*>cnp.PyArray_DATA(weights), <const float*>cnp.PyArray_DATA(bias), inputs, columns,
                self.outputs, self.rectified,
            )
        return self.made
