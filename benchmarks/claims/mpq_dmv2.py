"""MPQ-DMv2: on rows with heavy tails a base and binary planes are no worse than as many bits in the grid; planes by
kurtosis gain over one plane for every row, and numbers found together with the base over the closed form.
"""

from __future__ import annotations

import math
import sys

import torch

from benchmarks.claims.testbeds import layer_problem, relative_error, verdict
from qcompiler.passes.solve.branches import MpqDmV2
from qcompiler.passes.solve.branches.mpq_dmv2 import planes_by_kurtosis
from qcompiler.passes.solve.decompose import nearest_codes
from qcompiler.passes.solve.layers import Layer
from qcompiler.spec import QuantSpec


def bed(seed: int, bits: int) -> Layer:
    """Rows of Student's t with 3 degrees of freedom, inputs of one size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(3, 128, 256, generator=generator).square().mean(0)
    weight = torch.randn(128, 256, generator=generator) / sizes.sqrt()
    spec = QuantSpec.parse(f"int{bits} sym block=(1,-1) scale=f32")
    return layer_problem(weight, spec, torch.randn(600, 256, generator=generator))


def gains(seed: int, bits: int) -> list[float]:
    """Decibels over the nearest values: closed form, one plane for every row, planes by kurtosis."""
    layer = bed(seed, bits)
    moment, alike = layer.inputs.second_moment[0], torch.ones(128, dtype=torch.int64)
    rows = next(layer.inputs.rows())[0]
    fits = [
        nearest_codes(layer),
        MpqDmV2(sweeps=0).fit(layer, moment, alike),
        MpqDmV2().fit(layer, moment, alike),
        MpqDmV2().fit(layer, moment, planes_by_kurtosis(layer.weight, 0.1)),
    ]
    errors = [relative_error(rows @ fit.value().T, rows @ layer.weight.T) for fit in fits]
    return [10 * math.log10(errors[0] / error) for error in errors[1:]]


def main() -> int:
    """Means of three seeds at 3 and 4 bits."""
    found = torch.tensor([[gains(seed, bits) for seed in range(3)] for bits in (3, 4)]).mean(1)
    closed, alike, kurtosis = found.T
    figures = "dB over the grid at 3 and 4 bits: "
    figures += f"closed form {closed[0]:+.2f} {closed[1]:+.2f}, found together {alike[0]:+.2f} {alike[1]:+.2f}, "
    figures += f"planes by kurtosis {kurtosis[0]:+.2f} {kurtosis[1]:+.2f} (-0.25)"
    best = torch.maximum(alike, kurtosis)
    return verdict("mpq_dmv2", bool((best >= -0.25).all() and (alike >= closed).all()), figures)


if __name__ == "__main__":
    sys.exit(main())
