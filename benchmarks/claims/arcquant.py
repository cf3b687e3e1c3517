"""ARCQuant: residual channels raise a layer in NVFP4 with outlier inputs by at least 1.5 dB; on the outlier channels
two stages of NVFP4 are at least as fine as MXFP8, where one stage is far from it.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from benchmarks.claims.testbeds import relative_error, verdict
from qcompiler.passes.solve.branches.arcquant import nearest, residual_count, two_stages
from qcompiler.spec import QuantSpec

NVFP4 = QuantSpec.parse("fp4e2m1 sym block=(1,16) scale=e4m3 block=(-1,-1) scale=f32 dynamic")
MXFP8 = QuantSpec.parse("fp8e4m3 sym block=(1,32) scale=e8m0 dynamic")


def decibels(found: Tensor, wanted: Tensor) -> float:
    """Signal to error."""
    return -10 * math.log10(relative_error(found, wanted))


def measure(seed: int) -> list[float]:
    """Decibels of the output and of the outlier channels: plain, with residual channels, inputs in MXFP8."""
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(512, 512, generator=generator) for _ in range(2))
    x[:, :24] *= 20
    x[:, 24:64] *= 5
    order = x.abs().amax(0).argsort()
    x, weight = x[:, order], weight[:, order]
    count, wanted, rounded = residual_count(x, 64), x @ weight.T, nearest(weight, NVFP4)
    reads = (nearest(x, NVFP4), two_stages(x, NVFP4, count), nearest(x, MXFP8))
    outputs = [decibels(read @ rounded.T, wanted) for read in reads]
    return outputs + [decibels(read[:, -count:], x[:, -count:]) for read in reads]


def main() -> int:
    """Means of three seeds."""
    plain, arc, full, one, two, eight = torch.tensor([measure(seed) for seed in range(3)]).mean(0).tolist()
    figures = f"NVFP4 {plain:.1f} dB, with residual channels {arc:.1f} (+1.5), inputs in MXFP8 {full:.1f}; "
    figures += f"outlier channels {one:.1f} dB in one stage, {two:.1f} in two, {eight:.1f} in MXFP8"
    return verdict("arcquant", arc >= plain + 1.5 and two >= eight, figures)


if __name__ == "__main__":
    sys.exit(main())
