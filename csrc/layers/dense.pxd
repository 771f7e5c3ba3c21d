"""A dense layer for few rows; dense.h has the kernel."""

cdef extern from "dense.h" nogil:
    enum: REALLY_DENSE_WIDTH
    void really_dense(
        float* to, const float* rows, ptrdiff_t num, const float* weights, const float* bias, ptrdiff_t inputs,
        ptrdiff_t columns, ptrdiff_t outputs, bint rectified
    ) noexcept
