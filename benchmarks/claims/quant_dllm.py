"""Quant-dLLM: on T1 with 128 rows two planes with row and column scales have at most 0.8 of the error of two with row
scales alone, three at most half of two; weighting by the inputs helps. What did not hold: the mask of three
deviations (at two planes) and moving planes between blocks, which is why both are off by default; their figures are
printed.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from benchmarks.claims.testbeds import linear_layer, per_row, verdict
from qcompiler.passes.solve.lowbit import QuantDllm
from qcompiler.passes.solve.lowbit.fits import sign
from qcompiler.spec import QuantSpec


def row_planes(weight: Tensor, count: int) -> Tensor:
    """Planes of signs with a scale per row, one after the other."""
    found = torch.zeros_like(weight)
    for _ in range(count):
        rest = weight - found
        found = found + sign(rest) * rest.abs().mean(1, keepdim=True)
    return found


def moved_planes(seed: int) -> float:
    """Error with planes moved between blocks of 64 columns, as a share of that without."""
    bed = linear_layer(seed, columns=1280, tokens=2560)
    layer = bed.layer(QuantSpec.parse("uint2 asym block=(1,64) scale=f16"))
    fixed, moved = (bed.error(QuantDllm(share=share).solve(layer).value(), True) for share in (0.0, 0.05))
    return moved / fixed


def main() -> int:
    """The worst shares of four seeds."""
    columns, third, weighted, salient = [], [], [], []
    for seed in range(4):
        bed = linear_layer(seed, rows=128)
        layer = bed.layer(per_row(2))

        def error(planes: int, importance: str) -> float:
            method = QuantDllm(planes, importance, 0.0, "none")  # pyright: ignore[reportArgumentType]
            return bed.error(method.solve(layer).value())  # noqa: B023

        two = error(2, "none")
        columns.append(two / bed.error(row_planes(bed.weight, 2)))
        third.append(error(3, "none") / two)
        weighted.append(error(2, "inputs") / two)
        salient.append(error(2, "salient") / two)
    figures = f"{max(columns):.3f} of row scales (0.8), third plane {max(third):.3f} (0.5), weighted by inputs "
    figures += f"{max(weighted):.3f} (1); salient mask {min(salient):.3f}..{max(salient):.3f}, moved planes "
    figures += f"{moved_planes(0):.3f}"
    return verdict("quant_dllm", max(columns) <= 0.8 and max(third) <= 0.5 and max(weighted) < 1, figures)


if __name__ == "__main__":
    sys.exit(main())
