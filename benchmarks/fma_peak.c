/* The peak rate of multiply-adds: every thread runs a loop that touches nothing but registers.
 *
 *     cc -O3 -march=native -ffp-contract=fast -pthread fma_peak.c -o fma_peak
 *     ./fma_peak THREADS        prints GFLOP/s, float32, the best of some rounds
 *
 * Twelve chains that do not depend on each other keep two FMA units with a latency of four to six
 * cycles busy. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#if defined(__aarch64__)
#define KEEP "+w"
#else
#define KEEP "+x"
#endif
typedef float vec __attribute__((vector_size(BYTES)));

enum { CHAINS = 12, LANES = BYTES / sizeof(float), TURNS = 4000000, ROUNDS = 8, MOST = 256 };

static pthread_barrier_t gate;
static volatile float factor = 0.5f, sink;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void *work(void *times) {
    vec k = {0}, r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, ra, rb;
    double *time = times;
    k += factor; /* a number that the compiler can't know */
    r0 = r1 = r2 = r3 = r4 = r5 = r6 = r7 = r8 = r9 = ra = rb = k;
    pthread_barrier_wait(&gate);
    time[0] = now();
    for (long i = 0; i < TURNS; i++) {
        r0 = r0 * k + k; r1 = r1 * k + k; r2 = r2 * k + k; r3 = r3 * k + k;
        r4 = r4 * k + k; r5 = r5 * k + k; r6 = r6 * k + k; r7 = r7 * k + k;
        r8 = r8 * k + k; r9 = r9 * k + k; ra = ra * k + k; rb = rb * k + k;
        /* Keep the chains apart: to the compiler they look all the same. */
        __asm__ volatile("" : KEEP(r0), KEEP(r1), KEEP(r2), KEEP(r3), KEEP(r4), KEEP(r5));
        __asm__ volatile("" : KEEP(r6), KEEP(r7), KEEP(r8), KEEP(r9), KEEP(ra), KEEP(rb));
    }
    time[1] = now();
    r0 += r1 + r2 + r3 + r4 + r5 + r6 + r7 + r8 + r9 + ra + rb;
    sink = r0[0];
    return NULL;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    pthread_t id[MOST];
    double time[MOST][2], best = 0;
    if (threads < 1 || threads > MOST) return 1;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_barrier_init(&gate, NULL, threads);
        for (int t = 0; t < threads; t++)
            if (pthread_create(&id[t], NULL, work, time[t])) return 1;
        for (int t = 0; t < threads; t++) pthread_join(id[t], NULL);
        pthread_barrier_destroy(&gate);
        double start = time[0][0], end = time[0][1];
        for (int t = 1; t < threads; t++) {
            if (time[t][0] < start) start = time[t][0];
            if (time[t][1] > end) end = time[t][1];
        }
        double rate = 2.0 * CHAINS * LANES * TURNS * threads / (end - start) / 1e9;
        if (rate > best) best = rate;
    }
    printf("%.2f\n", best);
    return 0;
}
