"""Numbers, vectors, and elementary functions that the C compiler can vectorise."""

from libc.stdint cimport int32_t, int64_t

cdef extern from "simd.h":
    # To Cython these are numbers; simd.h makes them vectors.
    ctypedef float f32v "npdl_f32v"
    ctypedef double f64v "npdl_f64v"
    ctypedef double f32h "npdl_f32h"  # half of f32v, where that is 8; not float: another type
    ctypedef const float* in_f32 "npdl_in_f32"  # arrays that do not overlap
    ctypedef float* out_f32 "npdl_out_f32"
    enum:
        MR "NPDL_MR"  # rows of the register tile
        NV "NPDL_NV"  # vectors in one of its rows
        EDGE_FORMS "NPDL_EDGE_FORMS"  # whether there are smaller tiles for the edges of a matrix
        TALL "NPDL_TALL"  # rows of the tile of two vectors
        LANES_F32 "NPDL_LANES_F32"
        LANES_F64 "NPDL_LANES_F64"
        HALF_F32 "NPDL_HALF_F32"
    void prefetch "npdl_prefetch"(const void* p) noexcept nogil  # a line that will be read
    void prefetch_far "npdl_prefetch_far"(const void* p) noexcept nogil  # into the level-2 cache
    void prefetch_w "npdl_prefetch_w"(const void* p) noexcept nogil  # a line that will be written
    f32v add_product_f32 "npdl_add_product_f32"(f32v c, float a, f32v b) noexcept nogil  # c + a b
    f64v add_product_f64 "npdl_add_product_f64"(f64v c, double a, f64v b) noexcept nogil
    f32h add_product_f32h "npdl_add_product_f32h"(f32h c, float a, f32h b) noexcept nogil
    f32v at_least_f32v "npdl_at_least_f32v"(f32v x, float least) noexcept nogil  # NaN stays NaN
    f32h at_least_f32h "npdl_at_least_f32h"(f32h x, float least) noexcept nogil
    # all numbers one lane up, s in the first; or down, s in the last
    f32v up_f32v "npdl_up_f32v"(f32v v, float s) noexcept nogil
    f32h up_f32h "npdl_up_f32h"(f32h v, float s) noexcept nogil
    f32v down_f32v "npdl_down_f32v"(f32v v, float s) noexcept nogil
    f32h down_f32h "npdl_down_f32h"(f32h v, float s) noexcept nogil
    # every other number of two vectors
    f32v even_f32v "npdl_even_f32v"(f32v low, f32v high) noexcept nogil
    f32h even_f32h "npdl_even_f32h"(f32h low, f32h high) noexcept nogil
    f32v odd_f32v "npdl_odd_f32v"(f32v low, f32v high) noexcept nogil
    f32h odd_f32h "npdl_odd_f32h"(f32h low, f32h high) noexcept nogil
    # and back: the numbers of a and b in turns, in two vectors
    void mix_f32v "npdl_mix_f32v"(f32v a, f32v b, f32v* to) noexcept nogil
    void mix_f32h "npdl_mix_f32h"(f32h a, f32h b, f32h* to) noexcept nogil
    int alternate "npdl_alternate"(int* turns) noexcept nogil  # 0 and 1 in turns
    void* opaque "npdl_opaque"(void* function) noexcept nogil
    float fma_f32 "npdl_fma_f32"(float a, float b, float c) noexcept nogil  # a b + c, rounded once
    double fma_f64 "npdl_fma_f64"(double a, double b, double c) noexcept nogil
    f32v fma_f32v "npdl_fma_f32v"(f32v a, f32v b, f32v c) noexcept nogil
    f32h fma_f32h "npdl_fma_f32h"(f32h a, f32h b, f32h c) noexcept nogil
    f32v scaled_f32 "npdl_scaled_f32"(float a, f32v b, f32v c) noexcept nogil  # a b + c
    f64v fma_f64v "npdl_fma_f64v"(f64v a, f64v b, f64v c) noexcept nogil
    # loads four rows of four, `step` apart, and returns their columns
    void transpose4 "npdl_transpose4"(
        const float* rows, Py_ssize_t step, float* c0, float* c1, float* c2, float* c3
    ) noexcept nogil
    # transposes a block of LANES_F32 rows and columns: row i from from_at[i], column j to to_at[j]
    void transpose "npdl_transpose"(
        const float* from_, const Py_ssize_t* from_at, float* to, const Py_ssize_t* to_at
    ) noexcept nogil
    int32_t bits_f32 "npdl_bits_f32"(float x) noexcept nogil
    int64_t bits_f64 "npdl_bits_f64"(double x) noexcept nogil
    float from_bits_f32 "npdl_from_bits_f32"(int32_t i) noexcept nogil
    double from_bits_f64 "npdl_from_bits_f64"(int64_t i) noexcept nogil

ctypedef fused real:
    float
    double


cdef inline real fma(real a, real b, real c) noexcept nogil:
    """a b + c, rounded once; the baseline x86-64 rounds the product too."""
    if real is float:
        return fma_f32(a, b, c)
    else:
        return fma_f64(a, b, c)
