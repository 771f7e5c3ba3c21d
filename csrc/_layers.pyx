"""Layers of small networks, which runners compute without a framework.

Reading order: dense.pxd (the kernel), then this file.
"""

import numpy as np

cimport cython
cimport numpy as cnp

from cpu cimport level_names, really_cpu_use
from dense cimport REALLY_DENSE_WIDTH, really_dense, really_dense_layer

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


cdef inline bint is_plain(object given, int num_dims) noexcept:
    """Whether this is a contiguous array of float32 with so many axes."""
    if not cnp.PyArray_Check(given):
        return False
    cdef cnp.ndarray values = <cnp.ndarray>given
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

    cdef cnp.ndarray made, weights, bias
    cdef really_dense_layer layer
    cdef Py_ssize_t rows
    cdef bint rectified

    def __cinit__(self, Py_ssize_t rows, Py_ssize_t outputs, bint rectified):
        self.rows, self.rectified, self.layer.outputs = rows, rectified, outputs
        self.made = np.zeros((rows, outputs), np.float32)

    def __call__(self, states, weights, bias):
        """`[rows, outputs]` float32 for states `[rows, inputs]`, with `padded` weights and bias.

        Raises:
            ValueError: a shape or dtype is another one.
        """
        self.use(weights, bias)
        return self.run(states)

    cdef int use(self, object weights, object bias) except -1:
        """Takes these weights from now on."""
        if not (is_plain(weights, 2) and is_plain(bias, 1)):
            raise ValueError("dense: expected weights of two axes and a bias of one, in contiguous float32")
        cdef Py_ssize_t columns = cnp.PyArray_DIM(<cnp.ndarray>weights, 1), outputs = self.layer.outputs
        if (
            cnp.PyArray_DIM(<cnp.ndarray>bias, 0) != columns or columns < outputs or columns % REALLY_DENSE_WIDTH
            or columns - outputs >= REALLY_DENSE_WIDTH
        ):
            raise ValueError(
                f"dense: expected weights and a bias that are padded for {outputs} outputs, got weights "
                f"{list(weights.shape)} and a bias {list(bias.shape)}"
            )
        self.weights, self.bias = weights, bias
        self.layer.weights = <const float*>cnp.PyArray_DATA(self.weights)
        self.layer.bias = <const float*>cnp.PyArray_DATA(self.bias)
        self.layer.inputs, self.layer.columns = cnp.PyArray_DIM(self.weights, 0), columns
        return 0

    cdef cnp.ndarray run(self, object states):
        if self.weights is None:
            raise ValueError("dense: expected weights and a bias before the first states")
        if not is_plain(states, 2):
            states = np.ascontiguousarray(states, np.float32)
        cdef cnp.ndarray given = states
        if (
            not is_plain(given, 2) or cnp.PyArray_DIM(given, 0) != self.rows
            or cnp.PyArray_DIM(given, 1) != self.layer.inputs
        ):
            raise ValueError(
                f"dense: expected states {[self.rows, self.layer.inputs]} for weights "
                f"{[self.layer.inputs, self.layer.columns]}, got {list(states.shape)}"
            )
        with cython.nogil:
            really_dense(
                &self.layer, <float*>cnp.PyArray_DATA(self.made), <const float*>cnp.PyArray_DATA(given), self.rows,
                self.rectified,
            )
        return self.made


@cython.final
cdef class Layers:
    """Dense layers with weights, each of which takes the result of the one before, in one call."""

    cdef tuple layers

    def __cinit__(self, *layers):
        for layer in layers:
            if type(layer) is not Dense:
                raise TypeError(f"layers: expected each to be a Dense, got {layer!r}")
        self.layers = layers

    def use(self, *weights):
        """Takes `padded` weights and bias of each layer in turn, from now on; they are not copied.

        Raises:
            ValueError: a shape or dtype is another one, or some are missing.
        """
        if len(weights) != 2 * len(self.layers):
            raise ValueError(f"layers: expected weights and a bias for each of {len(self.layers)}, got {len(weights)}")
        for at, layer in enumerate(self.layers):
            (<Dense>layer).use(weights[2 * at], weights[2 * at + 1])

    def __call__(self, states):
        """The result of the last layer for the states of the first.

        Raises:
            ValueError: a shape is another one, or there are no weights yet.
        """
        for layer in self.layers:
            states = (<Dense>layer).run(states)
        return states
