/* Which of the builds for x86-64 this CPU and operating system can run: 0 base, 1 v3, 2 v4.
 *
 * Levels as in the x86-64 psABI. The CPUID bits are from Intel's manual, volume 2. XCR0 says which
 * registers the operating system saves.
 */
#ifndef NPDL_CPU_H
#define NPDL_CPU_H

#if defined(__x86_64__) || defined(_M_X64)

#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
static void npdl_cpuid(unsigned leaf, unsigned sub, unsigned r[4]) {
    __cpuidex((int *)r, (int)leaf, (int)sub);
}
static unsigned npdl_xcr0(void) { return (unsigned)_xgetbv(0); }
#else
#include <cpuid.h>
static void npdl_cpuid(unsigned leaf, unsigned sub, unsigned r[4]) {
    __cpuid_count(leaf, sub, r[0], r[1], r[2], r[3]);
}
static unsigned npdl_xcr0(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}
#endif

static int npdl_has(unsigned reg, unsigned mask) { return (reg & mask) == mask; }

static int npdl_cpu_level(void) {
    unsigned r[4], xcr0;
    npdl_cpuid(0, 0, r);
    if (r[0] < 7) return 0;
    npdl_cpuid(1, 0, r);
    /* FMA, MOVBE, OSXSAVE, AVX, F16C */
    if (!npdl_has(r[2], 1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29)) return 0;
    xcr0 = npdl_xcr0();
    if (!npdl_has(xcr0, 0x6)) return 0; /* xmm, ymm */
    npdl_cpuid(0x80000001u, 0, r);
    if (!npdl_has(r[2], 1u << 5)) return 0; /* LZCNT */
    npdl_cpuid(7, 0, r);
    if (!npdl_has(r[1], 1u << 3 | 1u << 5 | 1u << 8)) return 0; /* BMI1, AVX2, BMI2 */
    /* AVX512 F, DQ, CD, BW, VL */
    if (!npdl_has(r[1], 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31)) return 1;
    return npdl_has(xcr0, 0xe6) ? 2 : 1; /* opmask, zmm */
}

#else
static int npdl_cpu_level(void) { return 0; } /* one build, for the architecture's baseline */
#endif
#endif
