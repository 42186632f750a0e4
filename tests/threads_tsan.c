/* The thread pool of the kernels under ThreadSanitizer: make tsan.
 *
 * Callers at once, nested jobs, forks and a changing number of threads; each task writes memory of its
 * own, and the sums are checked. Then where the workers go. Prints how many jobs ran. */
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "threads.h"

#define CALLERS 4
#define TASKS 64

typedef struct {
    int numbers[TASKS];
    int nested;
} job;

static void inner(void *context, ptrdiff_t task, int worker) {
    (void)worker;
    ((int *)context)[task]++;
}

static void outer(void *context, ptrdiff_t task, int worker) {
    job *j = context;
    (void)worker;
    j->numbers[task] += (int)task + 1; /* twice would be seen */
    if (j->nested) {
        int counts[3] = {0, 0, 0};
        npdl_run(inner, counts, 3, 4);
        if (counts[0] + counts[1] + counts[2] != 3) abort();
    }
}

static void *caller(void *arg) {
    uint32_t random = 12345u + (uint32_t)(uintptr_t)arg;
    for (int i = 0; i < *(int *)arg; i++) {
        job j = {{0}, 0};
        void *start;
        size_t got;
        random = random * 1664525u + 1013904223u;
        const int n = (int)(random >> 16) % (TASKS + 1);
        j.nested = (random >> 8) % 4 == 0;
        char *block = npdl_take((random >> 20) + 1, &start, &got);
        if (!block) abort();
        block[random >> 20] = 1; /* borrowed memory belongs to one caller */
        npdl_run(outer, &j, n, 1 + (int)(random >> 10) % 5);
        npdl_give(start, got);
        for (int k = 0; k < TASKS; k++)
            if (j.numbers[k] != (k < n ? k + 1 : 0)) abort();
        if (i % 97 == 0) npdl_set_threads(1 + (int)(random >> 12) % 5);
        npdl_plan_alone(i % 89 == 0); /* this caller only */
        if (i % 89 == 0 && npdl_get_threads() != 1) abort();
        if (i % 513 == 0) usleep(300); /* let the workers fall asleep */
    }
    return NULL;
}

/* Leaves the core of its host, then waits to be fetched there. */
typedef struct {
    npdl_place place;
    atomic_int stage, host, visited; /* the host's core, and whether it was there again */
    int before, after;
} guest;

static void *visit(void *arg) {
    guest *g = arg;
    npdl_settle(&g->place);
    g->before = atomic_load(&g->host);
    npdl_leave(&g->place, g->before, 2);
    g->after = npdl_core();
    atomic_store(&g->stage, 1);
    while (atomic_load(&g->stage) == 1) {
        if (npdl_core() == atomic_load(&g->host)) atomic_store(&g->visited, 1);
        sched_yield();
    }
    return NULL;
}

/* Whether a thread leaves its core and can be fetched, and may go everywhere after that. */
static int placement(void) {
    static guest g;
    cpu_set_t mine, its;
    pthread_t thread;
    if (sched_getaffinity(0, sizeof mine, &mine)) return 0;
    atomic_store(&g.host, npdl_core());
    pthread_create(&thread, NULL, visit, &g);
    while (!atomic_load(&g.stage)) sched_yield();
    int fine = (g.before != g.after) == (CPU_COUNT(&mine) > 1);
    atomic_store(&g.visited, 0);
    sched_getaffinity(g.place.thread, sizeof its, &its);
    fine &= CPU_ISSET(g.before, &its) == (CPU_COUNT(&mine) == 1);
    for (int i = 0; i < 1000 && !atomic_load(&g.visited); i++) {
        atomic_store(&g.host, npdl_core());
        npdl_fetch(&g.place);
        for (int k = 0; k < 10; k++) sched_yield();
    }
    fine &= atomic_load(&g.visited);
    sched_getaffinity(g.place.thread, sizeof its, &its);
    fine &= CPU_EQUAL(&mine, &its) != 0;
    sched_getaffinity(0, sizeof its, &its);
    fine &= CPU_EQUAL(&mine, &its) != 0;
    atomic_store(&g.stage, 2);
    pthread_join(thread, NULL);
    return fine;
}

int main(int argc, char **argv) {
    int jobs = argc > 1 ? atoi(argv[1]) : 20000;
    pthread_t threads[CALLERS];
    if (npdl_threads_init()) return 1;
    npdl_set_threads(4);
    for (int i = 0; i < CALLERS; i++) pthread_create(&threads[i], NULL, caller, &jobs);
    npdl_keep_at_most((size_t)1 << 20); /* while the others take and give */
    for (int i = 0; i < 1000; i++) npdl_release(), sched_yield();
    for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 20; i++) { /* a child has a pool of its own */
        const pid_t child = fork();
        int status, few = 50;
        if (child == 0) {
            caller(&few);
            _exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) < 0 || status) return 2;
    }
    if (!placement()) return 3;
    printf("%d callers, %d jobs each, 20 forks: %d threads\n", CALLERS, jobs, npdl_get_threads());
    return 0;
}
