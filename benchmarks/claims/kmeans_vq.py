"""Vector quantization: on T1, 64 entries of 8 elements, weighting by the inputs and compensation each lower the error
of plain k-means, both together most.
"""

from __future__ import annotations

import sys

from benchmarks.claims.testbeds import linear_layer, per_row, verdict
from qcompiler.passes.solve.codebook import KMeansVq


def main() -> int:
    """The worst shares of three seeds on fresh inputs."""
    weighted, compensated, both, learned = [], [], [], []
    for seed in range(3):
        bed = linear_layer(seed)
        layer = bed.layer(per_row(2))
        plain = bed.error(KMeansVq(64, 8, False, False).solve(layer).value(), True)
        for on, found in (((True, False), weighted), ((False, True), compensated), ((True, True), both)):
            found.append(bed.error(KMeansVq(64, 8, *on).solve(layer).value(), True) / plain)
        learned.append(bed.error(KMeansVq(64, 8, steps=150).solve(layer).value(), True) / plain)
    figures = f"weighted {max(weighted):.3f}, compensated {max(compensated):.3f}, both {max(both):.3f}, table learned "
    figures += f"after that {max(learned):.3f} of plain k-means"
    holds = max(weighted) < 0.8 and max(compensated) < 0.8 and max(both) < min(max(weighted), max(compensated))
    return verdict("kmeans_vq", holds, figures)


if __name__ == "__main__":
    sys.exit(main())
