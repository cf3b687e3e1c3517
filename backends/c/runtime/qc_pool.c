/* Threads wait for the next call by looking at its number for some microseconds, which is the usual time between two
 * layers, and only then sleep. */
#define _POSIX_C_SOURCE 200809L

#include "qc_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#define QC_SPINS 4000
#define QC_LINE 64

typedef struct {
    qc_pool *pool;
    pthread_t thread;
    size_t index;
} qc_worker;

struct qc_pool {
    /* What is to be done: written before `call` is counted up, read after it was seen to change. */
    qc_task *task;
    const void *argument;
    size_t tasks;
    size_t threads;
    int stopping;
    int sleeping; /* under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    /* Apart from each other, so that those who wait do not disturb those who finish. */
    _Alignas(QC_LINE) atomic_uint call;
    _Alignas(QC_LINE) atomic_size_t busy;
    qc_worker workers[];
};

static inline void qc_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || (defined(__ARM_ARCH) && __ARM_ARCH >= 7)
    __asm__ volatile("yield");
#endif
}

static void qc_share(const qc_pool *pool, size_t index) {
    const size_t least = pool->tasks / pool->threads, more = pool->tasks % pool->threads;
    const size_t begin = index * least + (index < more ? index : more);
    const size_t end = begin + least + (index < more);
    if (begin < end) pool->task(pool->argument, begin, end);
}

static void qc_await_call(qc_pool *pool, unsigned seen) {
    for (int spin = 0; spin < QC_SPINS; ++spin) {
        if (atomic_load_explicit(&pool->call, memory_order_acquire) != seen) return;
        qc_pause();
    }
    pthread_mutex_lock(&pool->mutex);
    ++pool->sleeping;
    while (atomic_load_explicit(&pool->call, memory_order_acquire) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    --pool->sleeping;
    pthread_mutex_unlock(&pool->mutex);
}

static void *qc_work(void *argument) {
    const qc_worker *worker = argument;
    qc_pool *pool = worker->pool;
    for (unsigned seen = 0;; ++seen) {
        qc_await_call(pool, seen);
        if (pool->stopping) return NULL;
        qc_share(pool, worker->index);
        atomic_fetch_sub_explicit(&pool->busy, 1, memory_order_release);
    }
}

static void qc_begin_call(qc_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add_explicit(&pool->call, 1, memory_order_release);
    if (pool->sleeping) pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

void qc_parallel(qc_pool *pool, qc_task *task, const void *argument, size_t tasks) {
    if (!pool || tasks < 2) {
        task(argument, 0, tasks);
        return;
    }
    pool->task = task;
    pool->argument = argument;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->busy, pool->threads - 1, memory_order_relaxed);
    qc_begin_call(pool);
    qc_share(pool, 0);
    for (int spin = 0; atomic_load_explicit(&pool->busy, memory_order_acquire); ++spin) {
        if (spin < QC_SPINS)
            qc_pause();
        else
            sched_yield(); /* there are fewer processors than threads */
    }
}

static void qc_pool_end(qc_pool *pool, size_t started) {
    pool->stopping = 1;
    qc_begin_call(pool);
    for (size_t i = 0; i < started; ++i) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

static qc_pool *qc_pool_new(size_t threads) {
    const size_t bytes = sizeof(qc_pool) + (threads - 1) * sizeof(qc_worker);
    qc_pool *pool = aligned_alloc(QC_LINE, (bytes + QC_LINE - 1) / QC_LINE * QC_LINE);
    if (!pool) return NULL;
    pool->threads = threads;
    pool->stopping = pool->sleeping = 0;
    atomic_init(&pool->call, 0);
    atomic_init(&pool->busy, 0);
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
    qc_pool *pool = qc_pool_new((size_t)threads);
    if (!pool) return NULL;
    for (size_t i = 0; i + 1 < pool->threads; ++i) {
        qc_worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->index = i + 1;
        if (pthread_create(&worker->thread, NULL, qc_work, worker)) {
            qc_pool_end(pool, i);
            return NULL;
        }
    }
    return pool;
}

void qc_pool_stop(qc_pool *pool) {
    if (pool) qc_pool_end(pool, pool->threads - 1);
}
