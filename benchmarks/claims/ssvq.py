"""SSVQ: on normal weights at 2 bits, signs apart and 256 sizes of 8 elements have at most 1.05 of the error of 256
vectors of 4; on T1 learned signs and sizes gain more than a learned table at equal bits does.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from benchmarks.claims.testbeds import linear_layer, per_row, verdict
from qcompiler.passes.solve.codebook.learn import tuned_table
from qcompiler.passes.solve.codebook.ssvq import learn_signs
from qcompiler.passes.solve.codebook.vectors import Cut, cut, kmeans

STEPS = 300


def share(found: Tensor, wanted: Tensor) -> float:
    """Squared error over the squared weight."""
    return float((found - wanted).square().sum() / wanted.square().sum())


def gains(whole: Cut, halved: Cut) -> tuple[float, float]:
    """What learning leaves of the error: of a table of vectors, of a table of sizes with signs."""
    indices, table = kmeans(whole.vectors, 64, whole.costs)
    plain = whole.error(tuned_table(whole, indices, table, STEPS)[indices]) / whole.error(table[indices])
    indices, table = kmeans(halved.vectors.abs(), 64, halved.costs)
    plane, sizes = learn_signs(halved, indices, table, STEPS)
    signed = halved.error(plane * sizes[indices]) / halved.error(halved.vectors.sign() * table[indices])
    return float(plain), float(signed)


def main() -> int:
    """Parity on normal weights, and the gains on three seeds of T1 at 64 entries: 2 bits of 3 and of 6 elements."""
    weight = torch.randn(1 << 17, generator=torch.Generator().manual_seed(0))
    vectors, longer = weight.reshape(-1, 4), weight.reshape(-1, 8)
    indices, table = kmeans(vectors, 256, steps=12)
    plain = share(table[indices], vectors)
    indices, table = kmeans(longer.abs(), 256, steps=12)
    signed = share(table[indices] * longer.sign(), longer)
    indices, table = kmeans(longer, 256, steps=12)
    unsigned = share(table[indices], longer)
    found = [gains(*(cut(linear_layer(seed).layer(per_row(2)), length) for length in (3, 6))) for seed in range(3)]
    figures = f"vectors {plain:.4f}, signs and sizes {signed:.4f} (1.05), long vectors {unsigned:.4f}; learning leaves "
    figures += ", ".join(f"{ours:.3f} ({theirs:.3f})" for theirs, ours in found)
    parity = signed <= 1.05 * plain
    return verdict("ssvq", parity and all(ours < theirs for theirs, ours in found), figures)


if __name__ == "__main__":
    sys.exit(main())
