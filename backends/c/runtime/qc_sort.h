/* Stable order of numbers: merges of ever longer runs, from one array of positions to another and back.
 *
 *   qc_sort_T(x, stride, count, descending, order, spare): x[order[0] * stride], x[order[1] * stride], ... do not fall,
 *   or do not rise; equal ones stay as they were, NaN counts as the largest. `spare` has room for `count` positions.
 */
#ifndef QC_SORT_H
#define QC_SORT_H

#include "qc_base.h"

#define QC_SORT(type)                                                                                                  \
    static inline int qc_before_##type(type a, type b) { return a < b || (b != b && a == a); }                         \
                                                                                                                       \
    static inline __attribute__((unused)) void qc_sort_##type(const type *x, ptrdiff_t stride, size_t count,           \
                                                              int descending, int64_t *order, int64_t *spare) {        \
        int64_t *from = order, *to = spare;                                                                            \
        for (size_t i = 0; i < count; ++i) from[i] = (int64_t)i;                                                       \
        for (size_t run = 1; run < count; run *= 2) {                                                                  \
            for (size_t start = 0; start < count; start += 2 * run) {                                                  \
                const size_t middle = start + run < count ? start + run : count;                                       \
                const size_t end = middle + run < count ? middle + run : count;                                        \
                size_t left = start, right = middle;                                                                   \
                for (size_t i = start; i < end; ++i) {                                                                 \
                    int take = left < middle;                                                                          \
                    if (take && right < end) {                                                                         \
                        const type a = x[from[left] * stride], b = x[from[right] * stride];                            \
                        take = !(descending ? qc_before_##type(a, b) : qc_before_##type(b, a));                        \
                    }                                                                                                  \
                    to[i] = take ? from[left++] : from[right++];                                                       \
                }                                                                                                      \
            }                                                                                                          \
            int64_t *const other = from;                                                                               \
            from = to;                                                                                                 \
            to = other;                                                                                                \
        }                                                                                                              \
        if (from != order) memcpy(order, from, count * sizeof *order);                                                 \
    }

QC_SORT(float)
QC_SORT(int64_t)
QC_SORT(int32_t)
QC_SORT(uint8_t)

#endif
