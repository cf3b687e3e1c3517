/* What inner loops tell the compiler about order and registers, and where the rows that they read start. */
#ifndef QC_ORDER_NEON_H
#define QC_ORDER_NEON_H

#include <arm_neon.h>

#include "qc_base.h"

/* Written out, not a loop: compilers keep an array in registers only when they see every index. */
#define QC_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)

/* What inner loops say about order, without an instruction. Left alone, compilers gather the products of many sums
 * first and need more registers than there are, and tear loads of pairs apart. */
#define QC_HERE __asm__ volatile
/* Four vectors are in registers now, so that those side by side are loaded in pairs. */
#define QC_LOADED(v) QC_HERE("" : : "w"((v)[0]), "w"((v)[1]), "w"((v)[2]), "w"((v)[3]))
/* The same of sums, and nothing is added to them before. */
#define QC_SUMMED(v) QC_HERE("" : "+w"((v)[0]), "+w"((v)[1]), "+w"((v)[2]), "+w"((v)[3]))
#define QC_SUMMED_2(v) QC_HERE("" : "+w"((v)[0]), "+w"((v)[1]))

QC_INLINE size_t qc_smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Where pixels [begin, end) start, `width` of them in a row. */
QC_INLINE void qc_pixel_bases(
    const int8_t *input, size_t width, size_t inner_stride, size_t outer_stride, size_t begin, size_t end,
    const int8_t *bases[]) {
    size_t x = begin % width;
    input += begin / width * outer_stride;
    for (size_t m = begin; m < end; ++m) {
        *bases++ = input + x * inner_stride;
        if (++x == width) x = 0, input += outer_stride;
    }
}

#endif
