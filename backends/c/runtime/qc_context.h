/* What a layer of the model sees, and how it calls kernels. */
#ifndef QC_CONTEXT_H
#define QC_CONTEXT_H

#include "qc_base.h"
#include "qc_pool.h"

struct qc_kernels; /* the model's own, in qc_dispatch.h: one function for every kernel that it uses */

typedef struct {
    unsigned char *arena;         /* aligned to 64 bytes */
    const unsigned char *weights; /* likewise, behind the header of the file */
    const void *const *inputs;
    void *const *outputs;
    qc_pool *pool; /* NULL: one thread */
    const struct qc_kernels *kernels;
    const ptrdiff_t *sizes; /* that this call chose; NULL where all are fixed */
} qc_context;

/* QC_RUN(c, gemm_i8, &args, tasks) does all tasks of a kernel, shared among the threads of the pool. */
#define QC_RUN(c, kernel, args, tasks) qc_run_##kernel(c, args, tasks)

/* Threads know tasks of one type only, and calling a function through a pointer of another type is undefined: every
 * kernel gets a task that unpacks its own call. */
#define QC_TYPED_KERNEL(kernel)                                                                                        \
    typedef void qc_##kernel##_function(const qc_##kernel##_args *args, size_t begin, size_t end);                     \
    typedef struct {                                                                                                   \
        qc_##kernel##_function *function;                                                                              \
        const qc_##kernel##_args *args;                                                                                \
    } qc_##kernel##_call;                                                                                              \
    static inline void qc_##kernel##_task(const void *argument, size_t begin, size_t end) {                            \
        const qc_##kernel##_call *call = (const qc_##kernel##_call *)argument;                                         \
        call->function(call->args, begin, end);                                                                        \
    }

#define QC_TYPED_RUN(kernel)                                                                                           \
    static inline void qc_run_##kernel(const qc_context *c, const qc_##kernel##_args *args, size_t tasks) {            \
        const qc_##kernel##_call call = {c->kernels->kernel, args};                                                    \
        qc_parallel(c->pool, qc_##kernel##_task, &call, tasks);                                                        \
    }

#endif
