"""A dense layer for few rows; dense.h has the kernel."""

cdef extern from "dense.h" nogil:
    enum: REALLY_DENSE_WIDTH
    ctypedef struct really_dense_layer:
        const float* weights
        const float* bias
        ptrdiff_t inputs, columns, outputs
    void really_dense(
        const really_dense_layer* layer, float* to, const float* rows, ptrdiff_t num, bint rectified
    ) noexcept
