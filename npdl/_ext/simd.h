/* Vector types and the size of the register tile, by instruction set.
 *
 * Cython takes npdl_f32v for a float and npdl_f64v for a double, so a kernel is written once, in
 * scalar arithmetic, and the C compiler turns it into the widest registers of the build.
 * NPDL_MR x NPDL_NV vectors of accumulators, a row of NV and one broadcast have to fit the register
 * file: 32 registers with AVX-512 and NEON, 16 with AVX2 and SSE2.
 */
#ifndef NPDL_SIMD_H
#define NPDL_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#  if defined(__AVX512F__)
#    define NPDL_VB 64
#    define NPDL_MR 8
#    define NPDL_NV 3
#  elif defined(__AVX2__)
#    define NPDL_VB 32
#    define NPDL_MR 4
#    define NPDL_NV 3
#  elif defined(__aarch64__)
#    define NPDL_VB 16
#    define NPDL_MR 8
#    define NPDL_NV 3
#  else
#    define NPDL_VB 16
#    define NPDL_MR 4
#    define NPDL_NV 3
#  endif
typedef float npdl_f32v __attribute__((vector_size(NPDL_VB), aligned(4), may_alias));
typedef double npdl_f64v __attribute__((vector_size(NPDL_VB), aligned(8), may_alias));
typedef float npdl_f32q __attribute__((vector_size(16)));
typedef double npdl_f64q __attribute__((vector_size(16)));

/* The sum of the lanes, 16 bytes at a time. */
static inline float npdl_sum_f32(npdl_f32v x) {
    npdl_f32q part[NPDL_VB / 16];
    memcpy(part, &x, sizeof(x));
    for (int n = NPDL_VB / 32; n; n /= 2)
        for (int i = 0; i < n; i++) part[i] += part[n + i];
    return (part[0][0] + part[0][2]) + (part[0][1] + part[0][3]);
}
static inline double npdl_sum_f64(npdl_f64v x) {
    npdl_f64q part[NPDL_VB / 16];
    memcpy(part, &x, sizeof(x));
    for (int n = NPDL_VB / 32; n; n /= 2)
        for (int i = 0; i < n; i++) part[i] += part[n + i];
    return part[0][0] + part[0][1];
}
#else /* a compiler without vector types: "vectors" of one number, and a tile of plain loops */
#  define NPDL_VB 8
#  define NPDL_MR 4
#  define NPDL_NV 4
typedef double npdl_f64v;
typedef float npdl_f32v;
static inline float npdl_sum_f32(npdl_f32v x) { return x; }
static inline double npdl_sum_f64(npdl_f64v x) { return x; }
#endif

#define NPDL_LANES_F32 ((int)(sizeof(npdl_f32v) / sizeof(float)))
#define NPDL_LANES_F64 ((int)(sizeof(npdl_f64v) / sizeof(double)))

/* A function that the compiler can't inline: the register tile needs all registers for itself. */
static inline void *npdl_opaque(void *function) {
#if defined(__GNUC__)
    __asm__("" : "+r"(function));
#endif
    return function;
}

/* The bits of a number as an integer, and back. */
static inline int32_t npdl_bits_f32(float x) { int32_t i; memcpy(&i, &x, 4); return i; }
static inline int64_t npdl_bits_f64(double x) { int64_t i; memcpy(&i, &x, 8); return i; }
static inline float npdl_from_bits_f32(int32_t i) { float x; memcpy(&x, &i, 4); return x; }
static inline double npdl_from_bits_f64(int64_t i) { double x; memcpy(&x, &i, 8); return x; }

#endif
