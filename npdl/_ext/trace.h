/* For `python -m benchmarks cores`, with -DNPDL_TRACE: runs the tasks of each job one after another
 * and measures the time of each, divided as if there were one core for each requested thread.
 *
 * Appends a record for each job to the file named by the variable NPDL_TRACE, all int64: number of
 * tasks, threads, ns since the previous job, ns of each task.
 */
#ifndef NPDL_TRACE_H
#define NPDL_TRACE_H

#include <stdio.h>

static int64_t npdl_now(void);

static void npdl_trace(npdl_task fn, void *context, ptrdiff_t n, int threads) {
    static FILE *file;
    static int within; /* inside a job */
    static int64_t before;
    int64_t *record = within ? NULL : malloc((3 + n) * sizeof *record);
    if (!record) {
        for (ptrdiff_t i = 0; i < n; i++) fn(context, i, 0);
        return;
    }
    if (!file) file = fopen(getenv("NPDL_TRACE"), "wb");
    within = 1;
    int64_t start = npdl_now();
    record[0] = n;
    record[1] = threads;
    record[2] = start - before;
    for (ptrdiff_t i = 0; i < n; i++) {
        fn(context, i, 0);
        const int64_t end = npdl_now();
        record[3 + i] = end - start;
        start = end;
    }
    fwrite(record, sizeof *record, 3 + n, file);
    fflush(file);
    free(record);
    before = npdl_now();
    within = 0;
}

#endif
