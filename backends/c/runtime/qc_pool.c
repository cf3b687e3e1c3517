/* A call is cut into equal pieces, one per thread at most. Whoever is awake claims the next one, so that a thread that
 * sleeps or lost its processor delays nobody: the others do its piece. Threads wait for the next call by looking for some
 * microseconds, which is the usual time between two layers, and only then sleep. */
#define _POSIX_C_SOURCE 200809L

#include "qc_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#define QC_SPINS 2000
#define QC_LINE 64
#define QC_MOST_THREADS 1024

/* The call's number, its pieces, and the next one that nobody claimed, in one word: a claim succeeds only on the call
 * that it was meant for. A call of no pieces ends the threads. */
#define QC_STATE(call, pieces) ((uint64_t)(call) << 32 | (uint64_t)(pieces) << 16)
#define QC_CALL(state) ((uint32_t)((state) >> 32))
#define QC_PIECES(state) ((state) >> 16 & 0xffff)
#define QC_NEXT(state) ((state) & 0xffff)

struct qc_pool {
    /* What is to be done: written before `state`, read after a piece was claimed, constant until all are done. */
    qc_task *task;
    const void *argument;
    size_t tasks;
    size_t threads;
    int sleeping; /* under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    /* Apart from each other, so that those who wait do not disturb those who finish. */
    _Alignas(QC_LINE) _Atomic uint64_t state;
    _Alignas(QC_LINE) atomic_size_t done;
    pthread_t others[];
};

static inline void qc_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || (defined(__ARM_ARCH) && __ARM_ARCH >= 7)
    __asm__ volatile("yield");
#endif
}

/* Does pieces until none is left. */
static void qc_help(qc_pool *pool) {
    uint64_t state = atomic_load_explicit(&pool->state, memory_order_acquire);
    while (QC_NEXT(state) < QC_PIECES(state)) {
        if (!atomic_compare_exchange_weak_explicit(&pool->state, &state, state + 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        const size_t index = QC_NEXT(state), pieces = QC_PIECES(state);
        const size_t least = pool->tasks / pieces, more = pool->tasks % pieces;
        const size_t begin = index * least + (index < more ? index : more);
        pool->task(pool->argument, begin, begin + least + (index < more));
        atomic_fetch_add_explicit(&pool->done, 1, memory_order_release);
        state = atomic_load_explicit(&pool->state, memory_order_acquire);
    }
}

static uint64_t qc_await_call(qc_pool *pool, uint32_t seen) {
    uint64_t state = 0;
    for (int spin = 0; spin < QC_SPINS; ++spin) {
        state = atomic_load_explicit(&pool->state, memory_order_acquire);
        if (QC_CALL(state) != seen) return state;
        qc_pause();
    }
    pthread_mutex_lock(&pool->mutex);
    ++pool->sleeping;
    while (QC_CALL(state = atomic_load_explicit(&pool->state, memory_order_acquire)) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    --pool->sleeping;
    pthread_mutex_unlock(&pool->mutex);
    return state;
}

static void *qc_work(void *argument) {
    qc_pool *pool = argument;
    for (uint32_t seen = 0;;) {
        const uint64_t state = qc_await_call(pool, seen);
        if (QC_PIECES(state) == 0) return NULL;
        seen = QC_CALL(state);
        qc_help(pool);
    }
}

static void qc_begin_call(qc_pool *pool, size_t pieces) {
    pthread_mutex_lock(&pool->mutex);
    const uint64_t state = atomic_load_explicit(&pool->state, memory_order_relaxed);
    atomic_store_explicit(&pool->state, QC_STATE(QC_CALL(state) + 1, pieces), memory_order_release);
    if (pool->sleeping) pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

void qc_parallel(qc_pool *pool, qc_task *task, const void *argument, size_t tasks) {
    if (!pool || tasks < 2) {
        task(argument, 0, tasks);
        return;
    }
    const size_t pieces = tasks < pool->threads ? tasks : pool->threads;
    pool->task = task;
    pool->argument = argument;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    qc_begin_call(pool, pieces);
    qc_help(pool);
    for (int spin = 0; atomic_load_explicit(&pool->done, memory_order_acquire) < pieces; ++spin) {
        if (spin < QC_SPINS)
            qc_pause();
        else
            sched_yield(); /* there are fewer processors than threads */
    }
}

static void qc_pool_end(qc_pool *pool, size_t started) {
    qc_begin_call(pool, 0);
    for (size_t i = 0; i < started; ++i) pthread_join(pool->others[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

static qc_pool *qc_pool_new(size_t threads) {
    const size_t bytes = sizeof(qc_pool) + (threads - 1) * sizeof(pthread_t);
    qc_pool *pool = aligned_alloc(QC_LINE, (bytes + QC_LINE - 1) / QC_LINE * QC_LINE);
    if (!pool) return NULL;
    pool->threads = threads;
    pool->sleeping = 0;
    atomic_init(&pool->state, 0);
    atomic_init(&pool->done, 0);
    if (pthread_mutex_init(&pool->mutex, NULL)) {
        free(pool);
        return NULL;
    }
    if (pthread_cond_init(&pool->wake, NULL)) {
        pthread_mutex_destroy(&pool->mutex);
        free(pool);
        return NULL;
    }
    return pool;
}

qc_pool *qc_pool_start(int threads) {
    qc_pool *pool = threads < 1 || threads > QC_MOST_THREADS ? NULL : qc_pool_new((size_t)threads);
    if (!pool) return NULL;
    for (size_t i = 0; i + 1 < pool->threads; ++i) {
        if (pthread_create(&pool->others[i], NULL, qc_work, pool)) {
            qc_pool_end(pool, i);
            return NULL;
        }
    }
    return pool;
}

void qc_pool_stop(qc_pool *pool) {
    if (pool) qc_pool_end(pool, pool->threads - 1);
}
