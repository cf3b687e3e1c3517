/* A few threads that share the tasks of one call after another. Without QC_THREADS everything runs where it is called,
 * and nothing of an operating system is needed. */
#ifndef QC_POOL_H
#define QC_POOL_H

#include <stddef.h>

typedef struct qc_pool qc_pool;

/* Tasks [begin, end) of a call. */
typedef void qc_task(const void *argument, size_t begin, size_t end);

#ifdef QC_THREADS

/* Starts `threads` - 1 threads beside the one that calls `qc_parallel`; NULL when the system refuses. */
qc_pool *qc_pool_start(int threads);
void qc_pool_stop(qc_pool *pool);

/* Does tasks [0, tasks) in equal runs, one per thread at most, and returns when all are done. A NULL pool is one thread.
 * Only one thread may be in here at a time. Nothing is allocated. */
void qc_parallel(qc_pool *pool, qc_task *task, const void *argument, size_t tasks);

#else

static inline void qc_parallel(qc_pool *pool, qc_task *task, const void *argument, size_t tasks) {
    (void)pool;
    task(argument, 0, tasks);
}

#endif

#endif
