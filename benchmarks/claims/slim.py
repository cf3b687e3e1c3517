"""SliM-LLM: on T1 with 512 columns in groups of 32 whose inputs differ in size, mixed widths have at most 0.6 of the
error of 2 bits everywhere; where groups are alike they are no worse than uniform ones.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.claims.testbeds import linear_layer, verdict
from qcompiler.passes.solve.expression import bits_per_weight
from qcompiler.passes.solve.second_order import Switches, second_order
from qcompiler.passes.solve.slim import Slim
from qcompiler.spec import QuantSpec

SPEC = QuantSpec.parse("uint2 asym block=(1,32) scale=f16")


def main() -> int:
    """Worst shares of three seeds."""
    shares, alike, bits = [], [], []
    for seed in range(3):
        sizes = torch.exp(torch.randn(16, generator=torch.Generator().manual_seed(seed))).repeat_interleave(32)
        for scales, found in ((sizes, shares), (torch.ones(512), alike)):
            bed = linear_layer(seed, columns=512, tokens=1024, scales=scales)
            layer = bed.layer(SPEC)
            mixed = Slim().solve(layer)
            uniform = second_order(Switches(act_order=False, search="mse"))(layer)
            found.append(bed.error(mixed.value()) / bed.error(uniform.value()))
            bits.append(bits_per_weight(mixed) - bits_per_weight(uniform))
    figures = f"{max(shares):.3f} of uniform (0.6), {max(alike):.3f} where groups are alike (1.05); "
    figures += f"{max(bits):+.3f} bits per weight"
    return verdict("slim", max(shares) <= 0.6 and max(alike) <= 1.05, figures)


if __name__ == "__main__":
    sys.exit(main())
