/* qc_lookup, code by code. */
#include "qc_lookup.h"

void qc_lookup_portable(const qc_lookup_args *args, size_t begin, size_t end) {
    const qc_act *middle = args->table + (QC_SIGNED_ACTIVATIONS ? 128 : 0);
    const size_t last = qc_lookup_end(args, end);
    for (size_t i = begin * QC_LOOKUP_RUN; i < last; ++i) args->out[i] = middle[args->input[i]];
}
