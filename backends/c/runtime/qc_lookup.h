/* Codes looked up in a table of 256: any function of one code.
 *
 *   out[i] = table[input[i]], where the table begins with the least code, as stored
 *
 * `out` may be `input`.
 *
 * Tasks are runs of QC_LOOKUP_RUN codes.
 */
#ifndef QC_LOOKUP_H
#define QC_LOOKUP_H

#include "qc_base.h"

#define QC_LOOKUP_RUN 1024
#define QC_LOOKUP_TASKS(count) (((count) + QC_LOOKUP_RUN - 1) / QC_LOOKUP_RUN)

typedef struct {
    const qc_act *input;
    size_t count;
    const qc_act *table; /* [256] */
    qc_act *out;
} qc_lookup_args;

void qc_lookup_portable(const qc_lookup_args *args, size_t begin, size_t end);
void qc_lookup_avx512(const qc_lookup_args *args, size_t begin, size_t end);
void qc_lookup_neon(const qc_lookup_args *args, size_t begin, size_t end);

/* Where the codes of some tasks end. */
static inline size_t qc_lookup_end(const qc_lookup_args *args, size_t end) {
    return end * QC_LOOKUP_RUN < args->count ? end * QC_LOOKUP_RUN : args->count;
}

#endif
