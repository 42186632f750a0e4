/* Which core a worker of the pool runs on when other threads need the cores too.
 *
 * The scheduler of Linux may put a worker on the core of the thread that woke it, and leave it
 * there while the other cores are busy, even if only with spinning threads (other libraries let
 * their idle threads spin). Worker and caller then take turns on one core, and a job takes as long
 * as with one thread. The scheduler may also preempt a worker in the middle of a task, for a time
 * slice of 4 ms, and the caller waits. So:
 *
 *     npdl_leave   a worker that runs on the core of its caller moves to another one
 *     npdl_fetch   a caller that has waited for long moves an unfinished worker to its own core
 *
 * Both set the affinity of the worker. The affinity of other threads is never changed. On other
 * systems both do nothing.
 */
#ifndef NPDL_PLACEMENT_H
#define NPDL_PLACEMENT_H

#include <sched.h>

#if defined(__linux__) && defined(CPU_SETSIZE) /* defined with _GNU_SOURCE, which Python.h sets */

#include <sys/syscall.h>
#include <unistd.h>

typedef struct {
    pid_t thread;
    cpu_set_t cores; /* the worker may use these */
    cpu_set_t given; /* the affinity set here last */
} npdl_place;

/* The core of this thread; negative if unknown. */
static int npdl_core(void) { return sched_getcpu(); }

/* A worker calls this when it starts. */
static void npdl_settle(npdl_place *place) {
    place->thread = (pid_t)syscall(SYS_gettid);
    CPU_ZERO(&place->given);
    if (sched_getaffinity(0, sizeof place->cores, &place->cores)) CPU_ZERO(&place->cores);
}

/* Leave a core, if this worker may use at least `threads` cores. */
static void npdl_leave(npdl_place *place, int core, int threads) {
    cpu_set_t now;
    if (sched_getaffinity(0, sizeof now, &now)) return;
    if (!CPU_EQUAL(&now, &place->given)) place->cores = now; /* set from outside */
    if (CPU_COUNT(&place->cores) < threads) return;
    place->given = place->cores;
    CPU_CLR(core, &place->given);
    sched_setaffinity(0, sizeof place->given, &place->given);
}

/* Move a worker to the core of this thread. The scheduler may move it on from there. */
static void npdl_fetch(const npdl_place *place) {
    const int core = npdl_core();
    cpu_set_t now, here;
    if (core < 0 || !CPU_ISSET(core, &place->cores)) return;
    if (sched_getaffinity(place->thread, sizeof now, &now)) return;
    if (CPU_EQUAL(&now, &place->given)) now = place->cores;
    CPU_ZERO(&here);
    CPU_SET(core, &here);
    if (!sched_setaffinity(place->thread, sizeof here, &here))
        sched_setaffinity(place->thread, sizeof now, &now);
}

#else

typedef struct {
    char unused;
} npdl_place;

static int npdl_core(void) { return -1; }
static void npdl_settle(npdl_place *place) { (void)place; }
static void npdl_leave(npdl_place *place, int core, int threads) {
    (void)place;
    (void)core;
    (void)threads;
}
static void npdl_fetch(const npdl_place *place) { (void)place; }

#endif

#endif
