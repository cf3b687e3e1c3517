"""MVQ: on normal weights, 4 of 16 kept, 512 entries, masked k-means has at most a tenth of the error of plain k-means
on what is kept, and less error in all than a dense table of the same index.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.claims.ssvq import share
from benchmarks.claims.testbeds import linear_layer, per_row, verdict
from qcompiler.formats.masks import keep_largest
from qcompiler.passes.solve.codebook import Mvq
from qcompiler.passes.solve.codebook.vectors import kmeans


def main() -> int:
    """Errors of kept weights and of all."""
    vectors = torch.randn(16384, 16, generator=torch.Generator().manual_seed(0))
    mask = keep_largest(vectors, 4, 16)
    indices, table = kmeans(vectors, 512)
    dense, dense_all = share(table[indices][mask], vectors[mask]), share(table[indices], vectors)
    indices, table = kmeans(vectors * mask, 512)
    pruned = share(table[indices][mask], vectors[mask])
    indices, table = kmeans(vectors, 512, mask.float())
    masked, masked_all = share(table[indices][mask], vectors[mask]), share(table[indices] * mask, vectors)
    bed = linear_layer(0)
    first, tuned = (
        bed.error(Mvq(64, 8, 16, steps=steps).solve(bed.layer(per_row(2))).value(), True) for steps in (0, 150)
    )
    figures = (
        f"kept weights: masked {masked:.4f}, dense {dense:.4f}, pruned {pruned:.4f} (a tenth); all: {masked_all:.4f}, "
    )
    figures += f"dense {dense_all:.4f}; table learned on T1 {tuned / first:.3f}"
    holds = masked <= 0.1 * min(dense, pruned) and masked_all < dense_all
    return verdict("mvq", holds, figures)


if __name__ == "__main__":
    sys.exit(main())
