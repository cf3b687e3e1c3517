"""IR-QLoRA: on 4000 groups of 64 normal numbers with means, the calibrated shift raises the entropy of NF4 codes by
at least 0.05 bits over no shift, and the error does not grow.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from benchmarks.claims.testbeds import layer_problem, verdict
from qcompiler.formats import NF4
from qcompiler.passes.solve.expression import bits_per_weight
from qcompiler.passes.solve.lowbit import IrQlora
from qcompiler.passes.solve.lowbit.ir_qlora import best_shift, entropies
from qcompiler.spec import QuantSpec


def main() -> int:
    """Entropy and relative error without shift, with the median, with the calibrated shift."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(4000, 64, generator=generator) + 0.15 * torch.randn(4000, 1, generator=generator)
    grid = NF4.grid().values.float()

    def measured(shift: Tensor) -> tuple[float, float]:
        moved = groups - shift[:, None]
        scale = moved.abs().amax(1, keepdim=True)
        codes = torch.bucketize(moved / scale, (grid[1:] + grid[:-1]) / 2)
        error = (grid[codes] * scale - moved).square().mean() / groups.var()
        return float(entropies(codes, 16).mean()), float(error)

    plain, median = measured(torch.zeros(4000)), measured(groups.median(1).values)
    found = measured(best_shift(groups, NF4, 50))
    layer = layer_problem(groups.reshape(1000, 256), QuantSpec.parse("nf4 sym block=(1,64) scale=f32"), groups)
    bits = bits_per_weight(IrQlora(5).solve(layer))
    figures = (
        f"entropy {plain[0]:.3f}, median {median[0]:.3f}, calibrated {found[0]:.3f} (+0.05); error {plain[1]:.5f}, "
    )
    figures += f"{median[1]:.5f}, {found[1]:.5f}; {bits:.3f} bits per weight"
    return verdict("ir_qlora", found[0] >= plain[0] + 0.05 and found[1] <= plain[1], figures)


if __name__ == "__main__":
    sys.exit(main())
