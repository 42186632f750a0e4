/* Which core a worker of the pool runs on, where other threads want the cores too.
 *
 * The scheduler of Linux may put a worker onto the core of the thread that woke it, and leave it there
 * as long as the other cores are busy, even if it is with a thread that spins, as the idle ones of other
 * libraries do. The two then take turns on one core, and a job takes as long as with one thread. Or it
 * takes the core from a worker in the middle of a task, for a turn of 4 ms, and the caller waits. So:
 *
 *     npdl_leave   a worker that finds itself on the core of its caller goes to another one
 *     npdl_fetch   a caller who has waited for long gets a worker that is not done onto its own core
 *
 * Both by the affinity of the worker; that of a thread that is not the pool's is never touched. On
 * other systems they do nothing.
 */
#ifndef NPDL_PLACEMENT_H
#define NPDL_PLACEMENT_H

#include <sched.h>

#if defined(__linux__) && defined(CPU_SETSIZE) /* as it is with _GNU_SOURCE, which Python.h defines */

#include <sys/syscall.h>
#include <unistd.h>

typedef struct {
    pid_t thread;
    cpu_set_t cores; /* that it may use */
    cpu_set_t given; /* those that it was given here */
} npdl_place;

/* The core of this thread; negative if unknown. */
static int npdl_core(void) { return sched_getcpu(); }

/* To be called by a worker when it starts. */
static void npdl_settle(npdl_place *place) {
    place->thread = (pid_t)syscall(SYS_gettid);
    CPU_ZERO(&place->given);
    if (sched_getaffinity(0, sizeof place->cores, &place->cores)) CPU_ZERO(&place->cores);
}

/* Go away from a core, if this worker may use at least `threads` of them. */
static void npdl_leave(npdl_place *place, int core, int threads) {
    cpu_set_t now;
    if (sched_getaffinity(0, sizeof now, &now)) return;
    if (!CPU_EQUAL(&now, &place->given)) place->cores = now; /* somebody else has set it */
    if (CPU_COUNT(&place->cores) < threads) return;
    place->given = place->cores;
    CPU_CLR(core, &place->given);
    sched_setaffinity(0, sizeof place->given, &place->given);
}

/* Get a worker onto the core of this thread. From there it may go where it likes. */
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
