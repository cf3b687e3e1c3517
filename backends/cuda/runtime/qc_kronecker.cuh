/* Rows times a Kronecker product of two small matrices, then codes with a scale for every row.
 *
 *   X = the row as [outer, inner], U = X right in float32, rounded to the input's kind, y = leftᵀ U in float32;
 *   codes of y as `qc_codes.cuh` says
 *
 * Products of the input's kind on tensor cores, all sums in float32: y differs from the exact product of what is stored
 * by 2^-11 (bfloat16: 2^-8) of |left|ᵀ |X| |right| and by the roundings of the sums.
 *
 * A block makes Rows rows one after the other with both matrices in shared memory; a warp makes sixteen of Outer rows
 * of each product. Chunks of 16 bytes of a row r of a matrix lie at chunk ^ (r % 8), so that the eight rows that a load
 * of matrices reads, and the eight that a warp writes, are in different banks; units of eight codes likewise.
 *
 * Source: Sun et al. 2024, "FlatQuant: Flatness Matters for LLM Quantization"; the same as qc.kronecker.
 */
#pragma once

#include "qc_codes.cuh"

struct qc_kronecker_args {
    const void *input; /* [rows, stride], of which outer * inner count; at a multiple of 16 bytes */
    const void *left;  /* its transpose, [Outer, Outer] of the input's kind, zeros behind `outer` */
    const void *right; /* [Inner, Inner], zeros behind `inner` */
    void *out;         /* [rows, out_width] codes or reals */
    float *scale;      /* [rows], or NULL */
    int32_t *zero;     /* [rows], as stored, or NULL */
    int32_t *sum;      /* [rows], of the codes as stored, or NULL; not for e4m3 */
    int32_t rows;
    int32_t outer;
    int32_t inner;     /* a multiple of 8 */
    int32_t stride;    /* a multiple of 8 */
    int32_t out_width; /* a multiple of 8; that of reals is outer * inner */
    int32_t format;    /* one of QC_CODES */
    int32_t symmetric;
    float lowest; /* codes of the program */
    float highest;
    float shift;       /* what is stored less the code */
    float fixed_scale; /* 0: every row has its own */
    float fixed_zero;
};

QC_DEVICE void qc_kind_mma(qc_half, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    qc::mma_f16(c, a, b);
}
QC_DEVICE void qc_kind_mma(qc_bfloat, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    qc::mma_bf16(c, a, b);
}

/* Where chunk c of row r lies in a matrix of Width elements of 16 bits to a row. */
template <int Width> QC_DEVICE unsigned char *qc_chunk(unsigned char *matrix, int r, int c) {
    return matrix + r * Width * 2 + (c ^ (r & 7)) * 16;
}

/* Copies a matrix of `height` rows of `width` elements, `stride` apart, and zeros up to Height and Width. */
template <int Height, int Width>
QC_DEVICE void qc_copy_matrix(unsigned char *to, const uint16_t *from, int height, int width, int stride) {
    for (int i = (int)qc::thread(); i < Height * Width / 8; i += (int)qc::threads()) {
        const int r = i / (Width / 8), c = i % (Width / 8);
        const bool inside = r < height && 8 * c < width;
        const uint16_t *at = inside ? from + (int64_t)r * stride + 8 * c : from;
        qc::copy_async<16>(qc_chunk<Width>(to, r, c), at, inside ? 16 : 0);
    }
    qc::commit();
}

/* Rows `first` to first + 15 of A B, A [., Depth] and B [Depth, Width]; `depth` of Depth are not zero. */
template <class In, int Depth, int Width>
QC_DEVICE void qc_stripe(float (&out)[Width / 8][4], unsigned char *a_at, unsigned char *b_at, int first, int depth) {
    const int lane = (int)qc::lane();
    QC_UNROLL
    for (int n = 0; n < Width / 8; ++n) {
        QC_UNROLL
        for (int i = 0; i < 4; ++i) out[n][i] = 0.0f;
    }
    for (int k = 0; k < depth; k += 16) {
        uint32_t a[4];
        qc::load_matrices(a, qc_chunk<Depth>(a_at, first + lane % 16, k / 8 + lane / 16));
        QC_UNROLL
        for (int n = 0; n < Width / 8; n += 2) {
            uint32_t both[4];
            qc::load_matrices_transposed(both, qc_chunk<Width>(b_at, k + lane % 16, n + lane / 16));
            const uint32_t even[2] = {both[0], both[1]}, odd[2] = {both[2], both[3]};
            qc_kind_mma(In(), out[n], a, even);
            qc_kind_mma(In(), out[n + 1], a, odd);
        }
    }
}

template <class In, int Outer, int Inner, int Rows> QC_DEVICE void qc_kronecker(const qc_kronecker_args &args) {
    constexpr int warps = Outer / 16, tiles = Inner / 8;
    unsigned char *left = qc::shared(), *right = left + Outer * Outer * 2, *work = right + Inner * Inner * 2;
    float *room = (float *)(work + Outer * Inner * 2);
    const int lane = (int)qc::lane(), first = (int)qc::warp() * 16, row_at = first + lane / 4, pair = lane % 4 * 2;
    const int width = args.outer * args.inner, units = args.inner / 8;
    qc_copy_matrix<Outer, Outer>(left, (const uint16_t *)args.left, Outer, Outer, Outer);
    qc_copy_matrix<Inner, Inner>(right, (const uint16_t *)args.right, Inner, Inner, Inner);

    for (int64_t row = (int64_t)qc::block_x() * Rows; row < (int64_t)(qc::block_x() + 1) * Rows; ++row) {
        if (row >= args.rows) return;
        const uint16_t *input = (const uint16_t *)args.input + row * args.stride;
        qc_copy_matrix<Outer, Inner>(work, input, args.outer, args.inner, args.inner);
        qc::wait<0>();
        qc::sync();
        float y[tiles][4];
        qc_stripe<In, Inner, Inner>(y, work, right, first, args.inner);
        /* No other warp reads these sixteen rows, but all lanes of this one do. */
        qc::sync_warp();
        QC_UNROLL
        for (int n = 0; n < tiles; ++n) {
            QC_UNROLL
            for (int upper = 0; upper < 2; ++upper) {
                const uint32_t both = In::pack(y[n][2 * upper]) | (uint32_t)In::pack(y[n][2 * upper + 1]) << 16;
                qc::store_shared(qc_chunk<Inner>(work, row_at + 8 * upper, n) + 2 * pair, both);
            }
        }
        qc::sync();
        qc_stripe<In, Outer, Inner>(y, left, work, first, args.outer);

        float reach[2] = {0.0f, 0.0f};
        QC_UNROLL
        for (int n = 0; n < tiles; ++n) qc_reach(reach, y[n], args.symmetric && args.lowest < 0.0f);
        qc_combine_row<32 * warps>(reach, room, [](float a, float b) { return qc::maximum(a, b); });
        const qc_grid grid = qc_choose_grid(args, -reach[0], reach[1]);
        const int offset = qc::round_even(grid.zero + args.shift);
        QC_UNROLL
        for (int n = 0; n < tiles; ++n) {
            QC_UNROLL
            for (int upper = 0; upper < 2; ++upper) {
                const int r = row_at + 8 * upper;
                float a = y[n][2 * upper], b = y[n][2 * upper + 1];
                if (args.format == QC_CODES_REAL) {
                    const uint32_t both = In::pack(a) | (uint32_t)In::pack(b) << 16;
                    qc::store_shared(qc_chunk<Inner>(work, r, n) + 2 * pair, both);
                } else {
                    if (!grid.plain) a = qc_limited(grid, a), b = qc_limited(grid, b);
                    const uint16_t both = (uint16_t)qc_two_bytes(grid, a, b, offset, args.format);
                    qc::store_shared(work + r * Inner + (n ^ (r & 7)) * 8 + pair, both);
                }
            }
        }
        qc::sync();
        int total = 0;
        for (int i = (int)qc::thread(); i < args.out_width / 8; i += 32 * warps) {
            const int r = i / units, n = i % units;
            if (args.format == QC_CODES_REAL) {
                const uint4 reals = qc::load_shared<uint4>(qc_chunk<Inner>(work, r, n));
                qc::store_global((uint16_t *)args.out + row * args.out_width + 8 * i, reals);
                continue;
            }
            uint2 bytes = make_uint2(0, 0);
            if (8 * i < width) bytes = qc::load_shared<uint2>(work + r * Inner + (n ^ (r & 7)) * 8);
            total += qc_store_bytes(args, row, 8 * i, bytes);
        }
        float sum[1] = {qc::to_float(total)};
        qc_combine_row<32 * warps>(sum, room + 2 * warps, [](float a, float b) { return a + b; });
        if (qc::thread() == 0) qc_store_grid(args, row, grid, offset, sum[0]);
    }
}
