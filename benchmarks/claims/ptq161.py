"""PTQ1.61: on T1 with 256 columns, on fresh inputs, refined scales have at most 0.9 of the error of the first ones; a
mask of random columns has at least twice the error of the mask by inputs.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.claims.testbeds import linear_layer, per_row, verdict
from qcompiler.passes.solve.lowbit import Ptq161
from qcompiler.passes.solve.lowbit.fits import sign
from qcompiler.passes.solve.lowbit.ptq161 import assemble


def main() -> int:
    """The worst shares of five seeds."""
    refined, chosen, plain = [], [], []
    for seed in range(5):
        bed = linear_layer(seed, columns=256)
        layer = bed.layer(per_row(2))
        first, found = (bed.error(Ptq161(sweeps=sweeps).solve(layer).value(), True) for sweeps in (0, 3))
        mask = torch.zeros(256, dtype=torch.bool)
        mask[torch.randperm(256, generator=torch.Generator().manual_seed(seed))[:51]] = True
        refined.append(found / first)
        chosen.append(bed.error(assemble(layer, mask, 0).value(), True) / first)
        plain.append(found / bed.error(sign(bed.weight) * bed.weight.abs().mean(1, keepdim=True), True))
    figures = (
        f"refined {max(refined):.3f} of the first scales (0.9), random columns {min(chosen):.2f} times worse (2), "
    )
    figures += f"{max(plain):.3f} of plain signs"
    return verdict("ptq161", max(refined) <= 0.9 and min(chosen) >= 2, figures)


if __name__ == "__main__":
    sys.exit(main())
