/* Scaled dot-product attention of heads that lie anywhere, with a softmax that needs no memory for scores.
 *
 *   score[l][s] = (sum over e of q[l][e] * k[s][e]) * scale + mask[l][s]
 *   out[l]      = sum over s of softmax(score[l])[s] * v[s]
 *
 * Key s is seen by row l if `keep` allows it (there is none, or it is not 0) and, when causal, s <= l + past. A row that
 * sees nothing, or only minus infinity, is zero. Keys behind the last one that a row sees, or to which `mask` adds more
 * than minus infinity, are not read: a token costs what the cache holds, not what it could. `shared` = heads / key_heads neighbouring heads share a key head.
 *
 * Products over e are chains of fused multiply-adds from 0. Keys go in blocks of 64. With m the largest score so far
 * (0 while that is minus infinity), m' that after the block and w = exp(m - m'): p[s] = exp(score[s] - m'),
 * total = total * w + sum of p, made in 16 lanes as qc_total says, and each element of the result is multiplied by w and
 * goes on as a chain of fused multiply-adds over the block's p[s] * v[s]. At the end it is
 * multiplied by 1 / total.
 *
 * Tasks are (batch, key head, QC_ATTENTION_ROWS rows of the `shared * length` ones that share its keys): see
 * QC_ATTENTION_TASKS. 18 KiB of stack. What is read may be read up to QC_SLACK bytes behind its end.
 *
 * Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2022, "FlashAttention".
 */
#ifndef QC_ATTENTION_H
#define QC_ATTENTION_H

#include "qc_lanes.h"

#define QC_ATTENTION_ROWS 32
#define QC_ATTENTION_TASKS(batch, key_heads, shared, length)                                                           \
    ((batch) * (key_heads) * (((shared) * (length) + QC_ATTENTION_ROWS - 1) / QC_ATTENTION_ROWS))

/* Steps, in elements, from one batch, head or row to the next; within a row floats lie side by side. */
typedef struct {
    size_t batch, head, row;
} qc_attention_steps;

typedef struct {
    const float *query, *key, *value;
    qc_attention_steps query_steps, key_steps, value_steps, out_steps;
    const float *mask;   /* added to scores, or NULL */
    const uint8_t *keep; /* or NULL */
    qc_attention_steps mask_steps, keep_steps; /* 0 where it is the same for all; head counts heads of the query */
    size_t key_heads, shared, length, keys, depth, width; /* depth of q and k, width of v and of the result */
    int causal;
    size_t past;
    float scale;
    float *out;
} qc_attention_args;

void qc_attention_portable(const qc_attention_args *args, size_t begin, size_t end);

#endif
