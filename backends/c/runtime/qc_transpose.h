/* Turns 16 x 16 floats, those from `at` on of 16 rows: rows become columns. */
#ifndef QC_TRANSPOSE_H
#define QC_TRANSPOSE_H

#include "qc_lanes.h"

#if defined(__AVX512F__)

/* Pairs of rows, then of pairs, within quarters of a register; then the quarters, twice. */
QC_INLINE void qc_transpose(const float *const *from, size_t at, float *to) {
    __m512 a[16], b[16];
    QC_UNROLL for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(from[i] + at);
    QC_UNROLL for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    QC_UNROLL for (int i = 0; i < 16; i += 4) {
        QC_UNROLL for (int j = 0; j < 2; ++j) {
            const __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + j + 2]);
            a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    QC_UNROLL for (int i = 0; i < 16; i += 8) {
        QC_UNROLL for (int j = 0; j < 4; ++j) {
            b[i + j] = _mm512_shuffle_f32x4(a[i + j], a[i + j + 4], 0x88);
            b[i + j + 4] = _mm512_shuffle_f32x4(a[i + j], a[i + j + 4], 0xdd);
        }
    }
    QC_UNROLL for (int j = 0; j < 4; ++j) {
        _mm512_storeu_ps(to + 16 * j, _mm512_shuffle_f32x4(b[j], b[j + 8], 0x88));
        _mm512_storeu_ps(to + 16 * (j + 4), _mm512_shuffle_f32x4(b[j + 4], b[j + 12], 0x88));
        _mm512_storeu_ps(to + 16 * (j + 8), _mm512_shuffle_f32x4(b[j], b[j + 8], 0xdd));
        _mm512_storeu_ps(to + 16 * (j + 12), _mm512_shuffle_f32x4(b[j + 4], b[j + 12], 0xdd));
    }
}

#elif defined(__AVX2__) && defined(__FMA__)

QC_INLINE void qc_transpose(const float *const *from, size_t at, float *to) {
    for (size_t block = 0; block < 4; ++block) {
        const float *const *rows = from + block / 2 * 8;
        const size_t column = at + block % 2 * 8;
        float *y = to + block % 2 * 8 * QC_LANES + block / 2 * 8;
        __m256 a[8], b[8];
        QC_UNROLL for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(rows[i] + column);
        QC_UNROLL for (int i = 0; i < 8; i += 2) {
            b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
            b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
        }
        QC_UNROLL for (int i = 0; i < 8; i += 4) {
            QC_UNROLL for (int j = 0; j < 2; ++j) {
                a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
                a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xee);
            }
        }
        QC_UNROLL for (int j = 0; j < 4; ++j) {
            _mm256_storeu_ps(y + j * QC_LANES, _mm256_permute2f128_ps(a[j], a[j + 4], 0x20));
            _mm256_storeu_ps(y + (j + 4) * QC_LANES, _mm256_permute2f128_ps(a[j], a[j + 4], 0x31));
        }
    }
}

#elif defined(__aarch64__)

QC_INLINE void qc_transpose(const float *const *from, size_t at, float *to) {
    for (size_t row = 0; row < QC_LANES; row += 4) {
        for (size_t column = 0; column < QC_LANES; column += 4) {
            const float *const *x = from + row;
            const size_t place = at + column;
            float *y = to + column * QC_LANES + row;
            const float32x4x2_t upper = vtrnq_f32(vld1q_f32(x[0] + place), vld1q_f32(x[1] + place));
            const float32x4x2_t lower = vtrnq_f32(vld1q_f32(x[2] + place), vld1q_f32(x[3] + place));
            QC_UNROLL for (int i = 0; i < 2; ++i) {
                vst1q_f32(y + i * QC_LANES, vcombine_f32(vget_low_f32(upper.val[i]), vget_low_f32(lower.val[i])));
                vst1q_f32(y + (i + 2) * QC_LANES, vcombine_f32(vget_high_f32(upper.val[i]), vget_high_f32(lower.val[i])));
            }
        }
    }
}

#else

QC_INLINE void qc_transpose(const float *const *from, size_t at, float *to) {
    for (size_t i = 0; i < QC_LANES; ++i)
        for (size_t j = 0; j < QC_LANES; ++j) to[j * QC_LANES + i] = from[i][at + j];
}

#endif

#endif
