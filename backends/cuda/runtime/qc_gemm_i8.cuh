/* Product of int8 codes on tensor cores, as `qc_product.cuh` says. Input and weight: int8 [.., depth], depth a
 * multiple of 16.
 */
#pragma once

#include "qc_sums.cuh"

/* A product whose sums need nothing but `qc_finish`; a row of inputs and of weights has `size` bytes. */
template <class Tile, class Product> QC_DEVICE void qc_gemm_plain(const qc_product_args &args, int size) {
    const qc_source<Tile, Product> from(args, qc_spot_of_block(), size, size);
    const auto fetch = [&](unsigned char *to, int i) { from.fetch(to, i); };
    qc_loop<Tile, Product>::start(fetch);
    typename Product::Total total[Tile::CountM][Tile::CountN][4];
    qc_multiply_codes<Tile, Product, 0>(from, fetch, total);
    if (qc_gather<Tile>(args, total)) qc_finish<Tile>(args, from.spot, total, false);
}

template <class Tile> QC_DEVICE void qc_gemm_i8(const qc_product_args &args) {
    qc_gemm_plain<Tile, qc_s8>(args, args.depth);
}
