"""VQ4ALL: one table of 4096 entries of 4 drawn from three normal sources and one Laplace source leaves at most 0.05
of each, and about as much of a normal layer it has not seen; a table of the layer's own is better, one of 256 worse.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from benchmarks.claims.ssvq import share
from benchmarks.claims.testbeds import linear_layer, per_row, verdict
from qcompiler.passes.solve.codebook import Vq4All
from qcompiler.passes.solve.codebook.vectors import kmeans, nearest
from qcompiler.passes.solve.codebook.vq4all import density_table

COUNT = 12_000


def main() -> int:
    """Errors of every source, of a new one, and of a layer of T1 before and after learning."""
    generator = torch.Generator().manual_seed(0)
    sources = [torch.randn(COUNT, 4, generator=generator) for _ in range(3)]
    uniform = torch.rand(COUNT, 4, generator=generator) - 0.5
    sources.append(-uniform.sign() * (1 - 2 * uniform.abs()).log() / 2**0.5)
    table = density_table(sources, 4096, 0)

    def error(vectors: Tensor) -> float:
        return share(table[nearest(vectors, table)[0]], vectors)

    errors, fresh = [error(source) for source in sources], torch.randn(COUNT, 4, generator=generator)
    indices, own = kmeans(fresh, 256, steps=10)
    small = share(own[indices], fresh)
    bed = linear_layer(0)
    first, found = (bed.error(Vq4All(steps=steps).solve(bed.layer(per_row(3))).value(), True) for steps in (0, 150))
    figures = (
        f"sources {', '.join(f'{value:.4f}' for value in errors)} (0.05), unseen {error(fresh):.4f}, own table of 256 "
    )
    figures += f"{small:.4f}; learned on T1 {found / first:.3f} of nearest entries"
    return verdict("vq4all", max(errors) <= 0.05 and error(fresh) <= 0.05 < small and found < first, figures)


if __name__ == "__main__":
    sys.exit(main())
