/* One pool of threads for every kernel, and the scratch memory that kernels borrow.
 *
 * A job is n tasks; npdl_run() returns when all are done. At most `workers` threads take part, and
 * each task receives the number of its thread, below `workers`. The caller works too, and the
 * workers that are awake help. A sleeping worker takes 30-100 us to wake, so no job waits for one.
 * Each thread starts with its own part of the tasks: in the next job, or the next training step, it
 * works on much of the same memory again, which is then in its caches. Tasks write disjoint memory
 * and none depends on which thread runs it, so results have the same bits for any number of
 * threads.
 *
 * `state` is the number of the current job, odd while it is open. A worker that sees an open job
 * increments `active` and reads `state` again; the caller closes the job and then waits for
 * `active` to reach 0. So either the caller sees the worker and waits for it, or the worker sees
 * that the job is closed. Both variables are sequentially consistent.
 *
 * An idle worker spins for a short time, then sleeps. It spins longer if no other thread waits for
 * its core. The only test for that is to yield the core, and this must be rare: if a thread that
 * spins for long (the idle threads of other libraries do) is waiting, the worker loses the core for
 * a whole time slice of milliseconds, while a thread that sleeps and is woken usually gets it back
 * sooner. A worker that ends a job on the core of the caller sleeps at once. placement.h handles
 * shared cores. A call from within a task, or while another thread uses the pool, runs on the
 * calling thread only. After fork() the child starts without workers and creates its own.
 */
#ifndef NPDL_THREADS_H
#define NPDL_THREADS_H

#include <stddef.h>
#include <stdlib.h>

#define NPDL_MAX_THREADS 64
#define NPDL_MAX_BLOCKS 16
#define NPDL_ALIGN 64

typedef void (*npdl_task)(void *context, ptrdiff_t task, int worker);

#if defined(_WIN32) || defined(__EMSCRIPTEN__) /* no POSIX threads: one thread */

static void npdl_run(npdl_task fn, void *context, ptrdiff_t n, int workers) {
    (void)workers;
    for (ptrdiff_t i = 0; i < n; i++) fn(context, i, 0);
}
static void npdl_set_threads(int n) { (void)n; }
static int npdl_get_threads(void) { return 1; }
static void npdl_plan_alone(int on) { (void)on; }
static int npdl_threads_init(void) { return 0; }
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
static SRWLOCK npdl_lock = SRWLOCK_INIT; /* guards the scratch blocks */
#define NPDL_LOCK() AcquireSRWLockExclusive(&npdl_lock)
#define NPDL_UNLOCK() ReleaseSRWLockExclusive(&npdl_lock)
#else
#define NPDL_LOCK()
#define NPDL_UNLOCK()
#endif

#else

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "placement.h"
#if defined(NPDL_TRACE)
#include "trace.h"
#endif

#if defined(__x86_64__)
#define NPDL_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define NPDL_PAUSE() __asm__ volatile("yield")
#else
#define NPDL_PAUSE()
#endif
#define NPDL_IDLE_NS 60000 /* before a worker sleeps, or tests if it is alone on its core */
#define NPDL_IDLE_ALONE_NS 300000 /* before it sleeps if it is alone */
#define NPDL_SHARED_NS 100000000 /* once a core was shared, all count as shared for this time */
#define NPDL_SPINS 1000 /* of a waiting caller, before it yields its core */
#define NPDL_PATIENCE 1200 /* spins and yields before it moves a worker to its own core */

static struct {
    pthread_mutex_t lock; /* guards started, the condition and the scratch blocks */
    pthread_cond_t wake;
    atomic_int threads; /* limit for a job, including the caller */
    int started; /* number of workers that exist */
    atomic_int sleeping;
    atomic_flag busy; /* a thread is using the pool */
    /* the job */
    npdl_task fn;
    void *context;
    ptrdiff_t n;
    atomic_int helpers; /* workers with a higher number do not take part */
    int core; /* of the caller */
    atomic_size_t state;
    atomic_int active;
    atomic_llong shared_until; /* time of npdl_now(): until then the cores count as shared */
} npdl_pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 1, 0, 0, ATOMIC_FLAG_INIT,
               NULL, NULL, 0, 0, 0, 0, 0, 0};

/* The next task of each part of the job, each in its own cache line. */
static struct {
    _Alignas(NPDL_ALIGN) atomic_ptrdiff_t next;
} npdl_parts[NPDL_MAX_THREADS];

static struct {
    npdl_place place;
    atomic_int working;
} npdl_workers[NPDL_MAX_THREADS];

#define NPDL_LOCK() pthread_mutex_lock(&npdl_pool.lock)
#define NPDL_UNLOCK() pthread_mutex_unlock(&npdl_pool.lock)

static int64_t npdl_now(void) { /* ns */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The first task of a part of the job, and the end of the part before it. */
static ptrdiff_t npdl_first(int part) {
    return npdl_pool.n * part / (npdl_pool.helpers + 1);
}

/* Run the worker's own part first, then the remaining tasks of the other parts. */
static void npdl_work(int worker) {
    const int parts = npdl_pool.helpers + 1;
    for (int turn = 0; turn < parts; turn++) {
        const int part = (worker + turn) % parts;
        const ptrdiff_t end = npdl_first(part + 1);
        ptrdiff_t i;
        while ((i = atomic_fetch_add(&npdl_parts[part].next, 1)) < end)
            npdl_pool.fn(npdl_pool.context, i, worker);
    }
}

static void npdl_share_cores(void) {
    atomic_store(&npdl_pool.shared_until, npdl_now() + NPDL_SHARED_NS);
}
static int npdl_cores_shared(void) { return npdl_now() < atomic_load(&npdl_pool.shared_until); }

/* Whether no other thread waits for this core. If one does, it runs first. */
static int npdl_alone(void) {
    const int64_t before = npdl_now();
    sched_yield();
    if (npdl_now() - before < 200000) return 1;
    npdl_share_cores();
    return 0;
}

static int npdl_on_callers_core(void) {
    const int core = npdl_core();
    return core >= 0 && core == npdl_pool.core;
}

/* Run a worker's share of the open job. */
static void npdl_help(int me) {
    if (me > npdl_pool.helpers) return;
    if (npdl_on_callers_core()) {
        npdl_leave(&npdl_workers[me].place, npdl_pool.core, npdl_pool.helpers + 1);
        npdl_share_cores();
    }
    atomic_store(&npdl_workers[me].working, 1);
    npdl_work(me);
    atomic_store(&npdl_workers[me].working, 0);
}

static void *npdl_worker(void *arg) {
    const int me = (int)(ptrdiff_t)arg;
    size_t seen = 0;
    int64_t since = npdl_now(); /* when it became idle; 0 if it must not spin */
    int alone = 0; /* on its core, by the last test */
    npdl_settle(&npdl_workers[me].place);
    for (;;) {
        size_t now = atomic_load(&npdl_pool.state);
        if ((now & 1) && now != seen && me > atomic_load(&npdl_pool.helpers)) {
            seen = now; /* not needed; touching `active` would cost all cores a cache miss */
            since = npdl_now();
        } else if ((now & 1) && now != seen) {
            atomic_fetch_add(&npdl_pool.active, 1);
            now = atomic_load(&npdl_pool.state);
            if (now & 1) { /* open: its fields do not change until this worker is done */
                npdl_help(me);
                seen = now;
                since = npdl_on_callers_core() ? 0 : npdl_now();
            }
            atomic_fetch_sub(&npdl_pool.active, 1);
            alone = 0;
        } else if (npdl_now() - since < (alone ? NPDL_IDLE_ALONE_NS : NPDL_IDLE_NS)) {
            for (int i = 0; i < 16; i++) NPDL_PAUSE();
        } else if (!alone && !npdl_cores_shared()) {
            alone = npdl_alone();
        } else {
            NPDL_LOCK();
            atomic_fetch_add(&npdl_pool.sleeping, 1);
            while (atomic_load(&npdl_pool.state) == now)
                pthread_cond_wait(&npdl_pool.wake, &npdl_pool.lock);
            atomic_fetch_sub(&npdl_pool.sleeping, 1);
            NPDL_UNLOCK();
            since = npdl_now();
            alone = 0;
        }
    }
    return NULL;
}

/* Start the missing workers; fewer if the system refuses. */
static void npdl_start_workers(void) {
    NPDL_LOCK();
    while (npdl_pool.started < atomic_load(&npdl_pool.threads) - 1) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, npdl_worker, (void *)(ptrdiff_t)(npdl_pool.started + 1)))
            break;
        pthread_detach(thread);
        npdl_pool.started++;
    }
    NPDL_UNLOCK();
}

/* Wait until no worker is running a task of the job. */
static void npdl_wait(void) {
    int worker = 1; /* the next one to move to this core, if needed */
    for (int turns = 1; atomic_load(&npdl_pool.active); turns++) {
        NPDL_PAUSE();
        if (turns > NPDL_SPINS) sched_yield(); /* a worker may be waiting for this very core */
        if (turns % NPDL_PATIENCE == 0 && npdl_cores_shared()) {
            while (worker <= npdl_pool.helpers && !atomic_load(&npdl_workers[worker].working))
                worker++;
            if (worker <= npdl_pool.helpers) npdl_fetch(&npdl_workers[worker++].place);
        }
    }
}

static void npdl_run(npdl_task fn, void *context, ptrdiff_t n, int workers) {
    int threads = atomic_load(&npdl_pool.threads); /* read once: it may change at any moment */
    if (threads > workers) threads = workers;
    if (threads > n) threads = n < 1 ? 1 : (int)n;
#if defined(NPDL_TRACE)
    npdl_trace(fn, context, n, threads);
    return;
#endif
    if (n <= 1 || threads <= 1 || atomic_flag_test_and_set(&npdl_pool.busy)) {
        for (ptrdiff_t i = 0; i < n; i++) fn(context, i, 0);
        return;
    }
    if (npdl_pool.started < threads - 1) npdl_start_workers();
    npdl_pool.fn = fn;
    npdl_pool.context = context;
    npdl_pool.n = n;
    npdl_pool.helpers = threads - 1;
    npdl_pool.core = npdl_core();
    for (int part = 0; part < threads; part++)
        atomic_store_explicit(&npdl_parts[part].next, npdl_first(part), memory_order_relaxed);
    atomic_fetch_add(&npdl_pool.state, 1); /* open */
    if (atomic_load(&npdl_pool.sleeping)) {
        NPDL_LOCK();
        pthread_cond_broadcast(&npdl_pool.wake);
        NPDL_UNLOCK();
    }
    npdl_work(0);
    atomic_fetch_add(&npdl_pool.state, 1); /* closed */
    npdl_wait();
    atomic_flag_clear(&npdl_pool.busy);
}

static void npdl_set_threads(int n) {
    atomic_store(&npdl_pool.threads, n < 1 ? 1 : n > NPDL_MAX_THREADS ? NPDL_MAX_THREADS : n);
}

/* Whether this thread prepares kernels for one thread. */
static _Thread_local int npdl_plans_alone;

static void npdl_plan_alone(int on) { npdl_plans_alone = on; }
static int npdl_get_threads(void) {
    return npdl_plans_alone ? 1 : atomic_load(&npdl_pool.threads);
}

static void npdl_before_fork(void) { NPDL_LOCK(); }
static void npdl_after_fork(void) { NPDL_UNLOCK(); }
static void npdl_in_child(void) {
    pthread_mutex_init(&npdl_pool.lock, NULL);
    pthread_cond_init(&npdl_pool.wake, NULL);
    npdl_pool.started = 0;
    atomic_store(&npdl_pool.sleeping, 0);
    atomic_store(&npdl_pool.active, 0);
    atomic_store(&npdl_pool.state, 0);
    for (int i = 0; i < NPDL_MAX_THREADS; i++) atomic_store(&npdl_workers[i].working, 0);
    atomic_flag_clear(&npdl_pool.busy);
}
static int npdl_threads_init(void) {
    return pthread_atfork(npdl_before_fork, npdl_after_fork, npdl_in_child);
}

#endif

/* Large blocks lie in huge pages, where the system has them: a kernel that walks through many
 * places of a block would otherwise wait for the addresses of its pages. */
#if defined(__linux__)
#include <sys/mman.h>
#define NPDL_HUGE ((size_t)2 << 20)
#endif

static void *npdl_malloc(size_t size) {
#if defined(NPDL_HUGE) && defined(MADV_HUGEPAGE)
    if (size >= NPDL_HUGE) {
        void *start = NULL;
        const size_t whole = (size + NPDL_HUGE - 1) & ~(NPDL_HUGE - 1);
        if (posix_memalign(&start, NPDL_HUGE, whole)) return NULL;
        madvise(start, whole, MADV_HUGEPAGE); /* if it fails, the pages are small */
        return start;
    }
#endif
    return malloc(size);
}

/* Scratch memory: a kernel takes one block at its start and gives it back at its end. Returned
 * blocks are kept, up to `npdl_keep` bytes, and the last one returned is reused first, so that a
 * kernel that is called again allocates nothing. npdl_release() frees them. */
static struct {
    void *start; /* what malloc returned */
    size_t size;
} npdl_blocks[NPDL_MAX_BLOCKS];
static int npdl_n_blocks = 0;
static size_t npdl_kept = 0; /* bytes in them */
static size_t npdl_keep = (size_t)256 << 20;

/* The aligned block, and the pointer to pass to npdl_give(); NULL if out of memory. */
static char *npdl_take(size_t size, void **start, size_t *got) {
    *start = NULL;
    *got = 0;
    NPDL_LOCK();
    if (npdl_n_blocks) {
        npdl_n_blocks--;
        *start = npdl_blocks[npdl_n_blocks].start;
        *got = npdl_blocks[npdl_n_blocks].size;
        npdl_kept -= *got;
    }
    NPDL_UNLOCK();
    if (!*start || *got < size) {
        free(*start);
        *start = npdl_malloc(size + NPDL_ALIGN);
        *got = *start ? size : 0;
    }
    if (!*start) return NULL;
    return (char *)(((size_t)*start + NPDL_ALIGN - 1) & ~(size_t)(NPDL_ALIGN - 1));
}

static void npdl_give(void *start, size_t size) {
    NPDL_LOCK();
    if (npdl_n_blocks < NPDL_MAX_BLOCKS && size <= npdl_keep && npdl_kept <= npdl_keep - size) {
        npdl_blocks[npdl_n_blocks].start = start;
        npdl_blocks[npdl_n_blocks].size = size;
        npdl_n_blocks++;
        npdl_kept += size;
        start = NULL;
    }
    NPDL_UNLOCK();
    free(start);
}

/* Free all blocks that no kernel is using, and return their number of bytes. */
static size_t npdl_release(void) {
    void *starts[NPDL_MAX_BLOCKS];
    NPDL_LOCK();
    int n = npdl_n_blocks;
    size_t bytes = npdl_kept;
    for (int i = 0; i < n; i++) starts[i] = npdl_blocks[i].start;
    npdl_n_blocks = 0;
    npdl_kept = 0;
    NPDL_UNLOCK();
    for (int i = 0; i < n; i++) free(starts[i]);
    return bytes;
}

static void npdl_keep_at_most(size_t bytes) {
    NPDL_LOCK();
    npdl_keep = bytes;
    NPDL_UNLOCK();
}

#endif
