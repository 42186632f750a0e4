/* Vector types and the size of the register tile, by instruction set.
 *
 * Cython treats npdl_f32v as a float and npdl_f64v as a double, so a kernel is written once, in
 * scalar arithmetic, and the C compiler turns it into the widest registers of the build.
 * NPDL_MR x NPDL_NV vectors of accumulators, a row of NV and one broadcast have to fit the register
 * file: 32 registers with AVX-512 and NEON, 16 with AVX2 and SSE2. NPDL_TALL rows of two vectors
 * are as many accumulators.
 */
#ifndef NPDL_SIMD_H
#define NPDL_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#  include <immintrin.h>
#elif defined(__aarch64__)
#  include <arm_neon.h>
#endif

/* a * b + c, rounded once. setup.py forbids compilers to fuse products and sums by themselves, so
 * that all of them give the same bits. Baseline x86-64 has no such instruction and rounds twice. */
#if defined(__FMA__) || defined(__aarch64__)
static inline float npdl_fma_f32(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double npdl_fma_f64(double a, double b, double c) { return __builtin_fma(a, b, c); }
#elif defined(_MSC_VER) && defined(__AVX2__)
static inline float npdl_fma_f32(float a, float b, float c) {
    return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}
static inline double npdl_fma_f64(double a, double b, double c) {
    return _mm_cvtsd_f64(_mm_fmadd_sd(_mm_set_sd(a), _mm_set_sd(b), _mm_set_sd(c)));
}
#else
static inline float npdl_fma_f32(float a, float b, float c) { return a * b + c; }
static inline double npdl_fma_f64(double a, double b, double c) { return a * b + c; }
#endif

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

/* a * b + c of vectors. */
#if defined(__AVX512F__)
static inline npdl_f32v npdl_fma_f32v(npdl_f32v a, npdl_f32v b, npdl_f32v c) {
    return (npdl_f32v)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
static inline npdl_f64v npdl_fma_f64v(npdl_f64v a, npdl_f64v b, npdl_f64v c) {
    return (npdl_f64v)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
#  define NPDL_IN "v"
#elif defined(__FMA__)
static inline npdl_f32v npdl_fma_f32v(npdl_f32v a, npdl_f32v b, npdl_f32v c) {
    return (npdl_f32v)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
static inline npdl_f64v npdl_fma_f64v(npdl_f64v a, npdl_f64v b, npdl_f64v c) {
    return (npdl_f64v)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#  define NPDL_IN "x"
#elif defined(__aarch64__)
static inline npdl_f32v npdl_fma_f32v(npdl_f32v a, npdl_f32v b, npdl_f32v c) {
    return (npdl_f32v)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
static inline npdl_f64v npdl_fma_f64v(npdl_f64v a, npdl_f64v b, npdl_f64v c) {
    return (npdl_f64v)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#  define NPDL_STAY(x) __asm__("" : "+w"(x))
#else
static inline npdl_f32v npdl_fma_f32v(npdl_f32v a, npdl_f32v b, npdl_f32v c) { return a * b + c; }
static inline npdl_f64v npdl_fma_f64v(npdl_f64v a, npdl_f64v b, npdl_f64v c) { return a * b + c; }
#  if defined(__SSE2__)
#    define NPDL_STAY(x) __asm__("" : "+x"(x))
#  else
#    define NPDL_STAY(x)
#  endif
#endif

/* a * b + c, for a number a. */
static inline npdl_f32v npdl_scaled_f32(float a, npdl_f32v b, npdl_f32v c) {
    return npdl_fma_f32v(a - (npdl_f32v){0}, b, c);
}

/* c + a * b, in the register of c. The accumulators of a tile leave no register free, and copying
 * one at every step costs several percent of the time of a product. gcc copies some of them unless
 * told the form of the instruction. */
static inline npdl_f32v npdl_add_product_f32(npdl_f32v c, float a, npdl_f32v b) {
#if defined(NPDL_IN)
    __asm__("vfmadd231ps %2, %1, %0"
            : "+" NPDL_IN(c) : NPDL_IN(a - (npdl_f32v){0}), NPDL_IN(b));
#else
    c = npdl_fma_f32v(a - (npdl_f32v){0}, b, c);
    NPDL_STAY(c);
#endif
    return c;
}
static inline npdl_f64v npdl_add_product_f64(npdl_f64v c, double a, npdl_f64v b) {
#if defined(NPDL_IN)
    __asm__("vfmadd231pd %2, %1, %0"
            : "+" NPDL_IN(c) : NPDL_IN(a - (npdl_f64v){0}), NPDL_IN(b));
#else
    c = npdl_fma_f64v(a - (npdl_f64v){0}, b, c);
    NPDL_STAY(c);
#endif
    return c;
}

#if defined(__clang__) || __GNUC__ >= 12
#  define NPDL_MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t npdl_i32q __attribute__((vector_size(16)));
#  define NPDL_MIX(a, b, ...) __builtin_shuffle(a, b, (npdl_i32q){__VA_ARGS__})
#endif

static inline void npdl_turn4(npdl_f32q *r) {
    npdl_f32q t[4];
    t[0] = NPDL_MIX(r[0], r[1], 0, 4, 1, 5);
    t[1] = NPDL_MIX(r[0], r[1], 2, 6, 3, 7);
    t[2] = NPDL_MIX(r[2], r[3], 0, 4, 1, 5);
    t[3] = NPDL_MIX(r[2], r[3], 2, 6, 3, 7);
    r[0] = NPDL_MIX(t[0], t[2], 0, 1, 4, 5);
    r[1] = NPDL_MIX(t[0], t[2], 2, 3, 6, 7);
    r[2] = NPDL_MIX(t[1], t[3], 0, 1, 4, 5);
    r[3] = NPDL_MIX(t[1], t[3], 2, 3, 6, 7);
}

/* Load four rows of four numbers, `step` apart, and return their columns in c0 ... c3. */
static inline void npdl_transpose4(const float *rows, ptrdiff_t step, float *c0, float *c1,
                                   float *c2, float *c3) {
    npdl_f32q r[4];
    for (int i = 0; i < 4; i++) memcpy(&r[i], rows + i * step, sizeof(r[i]));
    npdl_turn4(r);
    memcpy(c0, &r[0], sizeof(r[0]));
    memcpy(c1, &r[1], sizeof(r[1]));
    memcpy(c2, &r[2], sizeof(r[2]));
    memcpy(c3, &r[3], sizeof(r[3]));
}

/* Transpose a square block whose side is the length of a vector: row i is read at from_at[i],
 * column j is written to to_at[j]. */
static inline void npdl_transpose(const float *from, const ptrdiff_t *from_at, float *to,
                                  const ptrdiff_t *to_at) {
#if defined(__AVX512F__)
    __m512 r[16], t[16]; /* 4x4 blocks first, then the blocks themselves */
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(from + from_at[i]);
    for (int i = 0; i < 16; i += 4) {
        const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(r[i], r[i + 1]));
        const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(r[i], r[i + 1]));
        const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(r[i + 2], r[i + 3]));
        const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(r[i + 2], r[i + 3]));
        t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for (int j = 0; j < 4; j++) {
        const __m512 a = _mm512_shuffle_f32x4(t[j], t[j + 4], 0x88);
        const __m512 b = _mm512_shuffle_f32x4(t[j], t[j + 4], 0xdd);
        const __m512 c = _mm512_shuffle_f32x4(t[j + 8], t[j + 12], 0x88);
        const __m512 d = _mm512_shuffle_f32x4(t[j + 8], t[j + 12], 0xdd);
        _mm512_storeu_ps(to + to_at[j], _mm512_shuffle_f32x4(a, c, 0x88));
        _mm512_storeu_ps(to + to_at[j + 4], _mm512_shuffle_f32x4(b, d, 0x88));
        _mm512_storeu_ps(to + to_at[j + 8], _mm512_shuffle_f32x4(a, c, 0xdd));
        _mm512_storeu_ps(to + to_at[j + 12], _mm512_shuffle_f32x4(b, d, 0xdd));
    }
#elif defined(__AVX2__)
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(from + from_at[i]);
    for (int i = 0; i < 8; i += 4) {
        const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(r[i], r[i + 1]));
        const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(r[i], r[i + 1]));
        const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(r[i + 2], r[i + 3]));
        const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(r[i + 2], r[i + 3]));
        t[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
        t[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
        t[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
        t[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
    }
    for (int j = 0; j < 4; j++) {
        _mm256_storeu_ps(to + to_at[j], _mm256_permute2f128_ps(t[j], t[j + 4], 0x20));
        _mm256_storeu_ps(to + to_at[j + 4], _mm256_permute2f128_ps(t[j], t[j + 4], 0x31));
    }
#else
    npdl_f32q r[4]; /* 4x4 blocks */
    for (int i = 0; i < 4; i++) memcpy(&r[i], from + from_at[i], sizeof(r[i]));
    npdl_turn4(r);
    for (int i = 0; i < 4; i++) memcpy(to + to_at[i], &r[i], sizeof(r[i]));
#endif
}

/* Neighbours in a row: up() moves all numbers one lane up and puts s into the first, down() one lane
 * down and puts s into the last; even() and odd() are every other number of lo and hi together.
 * mix() undoes that: it puts the numbers of a and b in turns into two vectors.
 * at_least() is x, or `least` if x is smaller: NaN stays NaN.
 * npdl_f32h is half as long where that is 8 numbers, for rows that are shorter than a vector. */
#if defined(__AVX512F__)
typedef float npdl_f32h __attribute__((vector_size(32), aligned(4), may_alias));
static inline npdl_f32v npdl_up_f32v(npdl_f32v v, float s) {
    return (npdl_f32v)_mm512_castsi512_ps(_mm512_alignr_epi32(
        _mm512_castps_si512((__m512)v), _mm512_castps_si512(_mm512_set1_ps(s)), 15));
}
static inline npdl_f32v npdl_down_f32v(npdl_f32v v, float s) {
    return (npdl_f32v)_mm512_castsi512_ps(_mm512_alignr_epi32(
        _mm512_castps_si512(_mm512_set1_ps(s)), _mm512_castps_si512((__m512)v), 1));
}
static inline npdl_f32v npdl_even_f32v(npdl_f32v lo, npdl_f32v hi) {
    const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return (npdl_f32v)_mm512_permutex2var_ps((__m512)lo, at, (__m512)hi);
}
static inline npdl_f32v npdl_odd_f32v(npdl_f32v lo, npdl_f32v hi) {
    const __m512i at = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return (npdl_f32v)_mm512_permutex2var_ps((__m512)lo, at, (__m512)hi);
}
static inline void npdl_mix_f32v(npdl_f32v a, npdl_f32v b, npdl_f32v *to) {
    const __m512i at = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i next = _mm512_add_epi32(at, _mm512_set1_epi32(8));
    to[0] = (npdl_f32v)_mm512_permutex2var_ps((__m512)a, at, (__m512)b);
    to[1] = (npdl_f32v)_mm512_permutex2var_ps((__m512)a, next, (__m512)b);
}
static inline npdl_f32v npdl_at_least_f32v(npdl_f32v x, float least) {
    return (npdl_f32v)_mm512_max_ps(_mm512_set1_ps(least), (__m512)x);
}
#else
typedef npdl_f32v npdl_f32h;
#endif
#if defined(__AVX2__)
static inline npdl_f32h npdl_at_least_f32h(npdl_f32h x, float least) {
    return (npdl_f32h)_mm256_max_ps(_mm256_set1_ps(least), (__m256)x);
}
static inline npdl_f32h npdl_add_product_f32h(npdl_f32h c, float a, npdl_f32h b) {
    return (npdl_f32h)_mm256_fmadd_ps(_mm256_set1_ps(a), (__m256)b, (__m256)c);
}
static inline npdl_f32h npdl_fma_f32h(npdl_f32h a, npdl_f32h b, npdl_f32h c) {
    return (npdl_f32h)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
static inline void npdl_mix_f32h(npdl_f32h a, npdl_f32h b, npdl_f32h *to) {
    const __m256 low = _mm256_unpacklo_ps((__m256)a, (__m256)b);
    const __m256 high = _mm256_unpackhi_ps((__m256)a, (__m256)b);
    to[0] = (npdl_f32h)_mm256_permute2f128_ps(low, high, 0x20);
    to[1] = (npdl_f32h)_mm256_permute2f128_ps(low, high, 0x31);
}
static inline npdl_f32h npdl_up_f32h(npdl_f32h v, float s) {
    const __m256i at = _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6);
    const __m256 moved = _mm256_permutevar8x32_ps((__m256)v, at);
    return (npdl_f32h)_mm256_blend_ps(moved, _mm256_set1_ps(s), 0x01);
}
static inline npdl_f32h npdl_down_f32h(npdl_f32h v, float s) {
    const __m256i at = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 7);
    const __m256 moved = _mm256_permutevar8x32_ps((__m256)v, at);
    return (npdl_f32h)_mm256_blend_ps(moved, _mm256_set1_ps(s), 0x80);
}
static inline npdl_f32h npdl_every_other(__m256 pairs) { /* 0 1 4 5 2 3 6 7 of pairs, in order */
    return (npdl_f32h)_mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(pairs), 0xd8));
}
static inline npdl_f32h npdl_even_f32h(npdl_f32h lo, npdl_f32h hi) {
    return npdl_every_other(_mm256_shuffle_ps((__m256)lo, (__m256)hi, 0x88));
}
static inline npdl_f32h npdl_odd_f32h(npdl_f32h lo, npdl_f32h hi) {
    return npdl_every_other(_mm256_shuffle_ps((__m256)lo, (__m256)hi, 0xdd));
}
#else
#  define npdl_add_product_f32h npdl_add_product_f32
#  define npdl_fma_f32h npdl_fma_f32v
static inline void npdl_mix_f32h(npdl_f32h a, npdl_f32h b, npdl_f32h *to) {
    to[0] = NPDL_MIX((npdl_f32q)a, (npdl_f32q)b, 0, 4, 1, 5);
    to[1] = NPDL_MIX((npdl_f32q)a, (npdl_f32q)b, 2, 6, 3, 7);
}
static inline npdl_f32h npdl_at_least_f32h(npdl_f32h x, float least) {
    const npdl_f32h low = least - (npdl_f32h){0};
    const __typeof__(x < low) less = x < low;
    return (npdl_f32h)((less & (__typeof__(less))low) | (~less & (__typeof__(less))x));
}
static inline npdl_f32h npdl_up_f32h(npdl_f32h v, float s) {
    return NPDL_MIX(s - (npdl_f32q){0}, (npdl_f32q)v, 0, 4, 5, 6);
}
static inline npdl_f32h npdl_down_f32h(npdl_f32h v, float s) {
    return NPDL_MIX((npdl_f32q)v, s - (npdl_f32q){0}, 1, 2, 3, 4);
}
static inline npdl_f32h npdl_even_f32h(npdl_f32h lo, npdl_f32h hi) {
    return NPDL_MIX((npdl_f32q)lo, (npdl_f32q)hi, 0, 2, 4, 6);
}
static inline npdl_f32h npdl_odd_f32h(npdl_f32h lo, npdl_f32h hi) {
    return NPDL_MIX((npdl_f32q)lo, (npdl_f32q)hi, 1, 3, 5, 7);
}
#endif
#if !defined(__AVX512F__)
#  define npdl_at_least_f32v npdl_at_least_f32h
#  define npdl_up_f32v npdl_up_f32h
#  define npdl_down_f32v npdl_down_f32h
#  define npdl_even_f32v npdl_even_f32h
#  define npdl_odd_f32v npdl_odd_f32h
#  define npdl_mix_f32v npdl_mix_f32h
#endif

#else /* a compiler without vector types: "vectors" of one number, and a tile of plain loops */
#  define NPDL_VB 8
#  define NPDL_MR 4
#  define NPDL_NV 4
typedef double npdl_f64v;
typedef float npdl_f32v;
#  define npdl_fma_f32v npdl_fma_f32
#  define npdl_scaled_f32 npdl_fma_f32
#  define npdl_fma_f64v npdl_fma_f64
static inline npdl_f32v npdl_add_product_f32(npdl_f32v c, float a, npdl_f32v b) {
    return npdl_fma_f32(a, b, c);
}
static inline npdl_f64v npdl_add_product_f64(npdl_f64v c, double a, npdl_f64v b) {
    return npdl_fma_f64(a, b, c);
}
static inline void npdl_transpose4(const float *rows, ptrdiff_t step, float *c0, float *c1,
                                   float *c2, float *c3) {
    for (int i = 0; i < 4; i++) {
        c0[i] = rows[i * step];
        c1[i] = rows[i * step + 1];
        c2[i] = rows[i * step + 2];
        c3[i] = rows[i * step + 3];
    }
}
static inline void npdl_transpose(const float *from, const ptrdiff_t *from_at, float *to,
                                  const ptrdiff_t *to_at) {
    to[to_at[0]] = from[from_at[0]];
}
typedef npdl_f32v npdl_f32h;
#  define npdl_add_product_f32h npdl_add_product_f32
#  define npdl_fma_f32h npdl_fma_f32
static inline void npdl_mix_f32v(npdl_f32v a, npdl_f32v b, npdl_f32v *to) { to[0] = a, to[1] = b; }
static inline npdl_f32v npdl_up_f32v(npdl_f32v v, float s) { (void)v; return s; }
static inline npdl_f32v npdl_even_f32v(npdl_f32v lo, npdl_f32v hi) { (void)hi; return lo; }
static inline npdl_f32v npdl_odd_f32v(npdl_f32v lo, npdl_f32v hi) { (void)lo; return hi; }
static inline npdl_f32v npdl_at_least_f32v(npdl_f32v x, float least) {
    return x < least ? least : x;
}
#  define npdl_down_f32v npdl_up_f32v
#  define npdl_at_least_f32h npdl_at_least_f32v
#  define npdl_up_f32h npdl_up_f32v
#  define npdl_down_f32h npdl_up_f32v
#  define npdl_even_f32h npdl_even_f32v
#  define npdl_odd_f32h npdl_odd_f32v
#  define npdl_mix_f32h npdl_mix_f32v
#endif

/* Whether there are smaller tiles for the edges of a matrix; they make up a tenth of a module. */
#if defined(__FMA__) || defined(__AVX2__) || defined(__aarch64__)
#  define NPDL_EDGE_FORMS 1
#else
#  define NPDL_EDGE_FORMS 0
#endif
#define NPDL_TALL (NPDL_MR * NPDL_NV / 2)
#define NPDL_LANES_F32 ((int)(sizeof(npdl_f32v) / sizeof(float)))
#define NPDL_HALF_F32 ((int)(sizeof(npdl_f32h) / sizeof(float)))
#define NPDL_LANES_F64 ((int)(sizeof(npdl_f64v) / sizeof(double)))

/* Prefetch a cache line that will be read. */
static inline void npdl_prefetch(const void *p) {
#if defined(__GNUC__)
    __builtin_prefetch(p);
#else
    (void)p;
#endif
}

/* Prefetch a cache line that will be used later, into the level-2 cache. */
static inline void npdl_prefetch_far(const void *p) {
#if defined(__GNUC__)
    __builtin_prefetch(p, 0, 2);
#else
    (void)p;
#endif
}

/* Prefetch a cache line that will be written. */
static inline void npdl_prefetch_w(const void *p) {
#if defined(__GNUC__) && defined(__AVX2__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)p));
#elif defined(__GNUC__)
    __builtin_prefetch(p, 1);
#else
    (void)p;
#endif
}

/* 0 and 1 in turns, whichever threads ask. */
static inline int npdl_alternate(int *turns) {
#if defined(__GNUC__)
    return __atomic_fetch_add(turns, 1, __ATOMIC_RELAXED) & 1;
#else
    return (*(volatile int *)turns)++ & 1;
#endif
}

/* Arrays that do not overlap, for loops over so many that compilers would not check it. */
#if defined(__GNUC__) || defined(_MSC_VER)
#  define NPDL_ALONE __restrict
#else
#  define NPDL_ALONE
#endif
typedef const float *NPDL_ALONE npdl_in_f32;
typedef float *NPDL_ALONE npdl_out_f32;

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
