/* Product of e4m3 codes, as `qc_product.cuh` says: input and weight are rows of bytes, filled up to 16 with zeros.
 *
 * Products are exact; the order of the float32 sums within an instruction, and the bits they keep there, are the
 * device's: 14 bits behind the leading one were observed (DeepSeek-AI 2024, "DeepSeek-V3 Technical Report"), so 2^-13
 * of the sum of magnitudes bounds the difference. Where the instruction is none, as on Hopper, the compiler makes it of
 * halves, slower and with more bits.
 */
#pragma once

#include "qc_gemm_i8.cuh"

struct qc_e4m3 : qc_plain {
    typedef float Total;
    static QC_MEMBER void multiply(float (&total)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        qc::mma_e4m3(total, a, b);
    }
};

template <class Tile> QC_DEVICE void qc_gemm_f8(const qc_product_args &args) {
    qc_gemm_plain<Tile, qc_e4m3>(args, (args.depth + 15) / 16 * 16);
}
