/* The epilogues of qc_epilogue.h, four vectors at a time. Columns behind the last one are computed like any other and
 * not stored.
 */
#ifndef QC_FINISH_X86_H
#define QC_FINISH_X86_H

#include "qc_epilogue.h"
#include "qc_vectors_x86.h"

/* What the codes of all rows are made with. */
typedef struct {
    qc_floats most; /* less the zero point */
    qc_ints zero_point, low;
} qc_limits;

QC_INLINE qc_limits qc_limits_of(const qc_epilogue *e) {
    return (qc_limits){QC_VECTOR(set1_ps)(e->high - e->zero_point), QC_VECTOR(set1_epi16)((int16_t)e->zero_point),
                       QC_VECTOR(set1_epi8)((char)(uint8_t)e->low)};
}

/* Codes of four vectors; when the columns stood in order, every 128-bit lane now has four of each vector. Clipping from
 * above before rounding is the same, as bounds are whole; what is far below becomes the least integer, which packing
 * keeps low and the last line lifts.
 */
QC_INLINE qc_ints qc_pack(const qc_limits *limits, const qc_floats steps[4]) {
    qc_ints whole[4];
    QC_EACH(v) whole[v] = QC_VECTOR(cvtps_epi32)(QC_VECTOR(min_ps)(steps[v], limits->most));
    const qc_ints first = QC_VECTOR(adds_epi16)(QC_VECTOR(packs_epi32)(whole[0], whole[1]), limits->zero_point);
    const qc_ints last = QC_VECTOR(adds_epi16)(QC_VECTOR(packs_epi32)(whole[2], whole[3]), limits->zero_point);
    return QC_VECTOR(max_epu8)(QC_VECTOR(packus_epi16)(first, last), limits->low);
}

/* How four vectors of sums lie: `across` (1, 2 or 4) of each of 4 / across rows. */
typedef struct {
    size_t row, rows; /* the first, and how many of the 4 / across there are */
    size_t column;    /* the first, in the vectors of the epilogue */
    size_t count;     /* columns to store, up to QC_LANES * across */
    char *out;        /* the first result */
    size_t row_bytes; /* from row to row of results */
} qc_block;

QC_INLINE void qc_store_words(const qc_ints words[4], size_t across, const qc_block *block) {
    QC_EACH(v) {
        const size_t column = v % across * QC_LANES;
        char *out = block->out + v / across * block->row_bytes + column * 4;
        if (v / across < block->rows && column < block->count)
            qc_store_lanes((int32_t *)out, words[v], block->count - column);
    }
}

QC_INLINE void qc_store_codes(qc_ints codes, size_t across, const qc_block *block) {
    QC_EACH(r) {
        if (r * across < 4 && r < block->rows)
            qc_store_bytes(block->out + r * block->row_bytes, codes, r * across * QC_LANES, block->count);
    }
}

/* Codes of four vectors of steps and of what is added to them (qc_residual), as qc_pack leaves them. */
QC_INLINE qc_ints qc_pack_added(const qc_epilogue *e, const qc_limits *limits, const size_t row[4],
                                const size_t column[4], const qc_floats steps[4]) {
    const qc_residual *r = &e->residual;
    const qc_floats least = QC_VECTOR(set1_ps)(e->low - e->zero_point);
    const qc_floats zero = QC_VECTOR(set1_ps)(e->zero_point - r->own_shift), shift = QC_VECTOR(set1_ps)(r->shift);
    const qc_floats own = QC_VECTOR(set1_ps)(r->own), factor = QC_VECTOR(set1_ps)(r->factor);
    const qc_floats constant = QC_VECTOR(set1_ps)(r->constant);
    const qc_limits last = {QC_VECTOR(set1_ps)(r->high - r->result_shift),
                            QC_VECTOR(set1_epi16)((int16_t)r->result_shift),
                            QC_VECTOR(set1_epi8)((char)(uint8_t)r->low)};
    qc_floats sums[4];
    QC_EACH(v) {
        const qc_floats within = QC_VECTOR(max_ps)(qc_nearest(QC_VECTOR(min_ps)(steps[v], limits->most)), least);
        const qc_floats code = QC_VECTOR(add_ps)(within, zero);
        const qc_floats other = QC_VECTOR(sub_ps)(qc_load_codes(r->codes + row[v] * r->stride + column[v]), shift);
        if (r->leads)
            sums[v] = QC_VECTOR(fmadd_ps)(other, factor, QC_VECTOR(fmadd_ps)(code, own, constant));
        else
            sums[v] = QC_VECTOR(fmadd_ps)(code, own, QC_VECTOR(fmadd_ps)(other, factor, constant));
    }
    return qc_pack(&last, sums);
}

/* Finishes and stores one block; `sums` have the bias. With `lanes` the columns of sums and those of the vectors of the
 * epilogue stand in lanes; results are stored in order either way.
 */
QC_INLINE void qc_finish_block(const qc_epilogue *e, const qc_limits *limits, const qc_ints sums[4], size_t across,
                               bool lanes, const qc_block *block) {
    const bool biased = e->finish == QC_REALS_BIASED || e->finish == QC_CODES_BIASED;
    size_t column[4], row[4];
    qc_ints totals[4];
    qc_floats reals[4];
    QC_EACH(v) {
        totals[v] = sums[v];
        column[v] = block->column + v % across * QC_LANES;
        row[v] = block->row + (v / across < block->rows ? v / across : 0);
    }
    if (e->row_zero) {
        QC_EACH(v) {
            const qc_ints weights = qc_load_ints(e->column_sum + column[v]);
            const qc_ints zero = QC_VECTOR(set1_epi32)(e->row_zero[row[v]]);
            totals[v] = QC_VECTOR(sub_epi32)(totals[v], QC_VECTOR(mullo_epi32)(zero, weights));
        }
    }
    if (e->finish == QC_INT32) {
        if (lanes) qc_in_order(totals);
        qc_store_words(totals, across, block);
        return;
    }
    QC_EACH(v) reals[v] = QC_VECTOR(loadu_ps)(e->factor + column[v]);
    if (e->row_scale) {
        QC_EACH(v) reals[v] = QC_VECTOR(mul_ps)(QC_VECTOR(set1_ps)(e->row_scale[row[v]]), reals[v]);
    }
    QC_EACH(v) reals[v] = QC_VECTOR(mul_ps)(QC_VECTOR(cvtepi32_ps)(totals[v]), reals[v]);
    if (biased) {
        QC_EACH(v) reals[v] = QC_VECTOR(add_ps)(reals[v], QC_VECTOR(loadu_ps)(e->float_bias + column[v]));
    }
    if (e->finish == QC_REALS || e->finish == QC_REALS_BIASED) {
        QC_EACH(v) totals[v] = qc_bits_of(reals[v]);
        if (lanes) qc_in_order(totals);
        qc_store_words(totals, across, block);
        return;
    }
    if (biased) {
        QC_EACH(v) reals[v] = QC_VECTOR(div_ps)(reals[v], QC_VECTOR(set1_ps)(e->scale));
    }
    const bool added = e->residual.codes && !biased && !lanes;
    const qc_ints codes = added ? qc_pack_added(e, limits, row, column, reals) : qc_pack(limits, reals);
    qc_store_codes(lanes ? codes : qc_packed_in_order(codes), across, block);
}

#endif
