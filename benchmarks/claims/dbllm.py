"""DB-LLM: refitted dual planes in groups of 64 have at most 0.7 of the weight error of 2-bit integers, and more than
half of their bits are zero.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.claims.testbeds import linear_layer, nearest_value, verdict
from qcompiler.passes.solve.lowbit import DbLlm
from qcompiler.passes.solve.lowbit.dbllm import dual_fit, initial_fit
from qcompiler.spec import QuantSpec

SPEC = QuantSpec.parse("uint2 asym block=(1,64) scale=f16")


def main() -> int:
    """The worst shares of four seeds."""
    first, refitted, empty, output = [], [], [], []
    for seed in range(4):
        bed = linear_layer(seed)
        layer = bed.layer(SPEC)
        groups = bed.weight.split(64, 1)
        plain = float((nearest_value(layer) - bed.weight).square().sum())
        fits = [dual_fit(group) for group in groups]
        first.append(sum(float((initial_fit(w).value() - w).square().sum()) for w in groups) / plain)
        refitted.append(sum(float((f.value() - w).square().sum()) for f, w in zip(fits, groups, strict=True)) / plain)
        empty.append(1 - float(torch.stack([plane for fit in fits for plane in fit.planes]).mean()))
        output.append(bed.error(DbLlm().solve(layer).value(), True) / bed.error(nearest_value(layer), True))
    figures = (
        f"first planes {max(first):.3f}, refitted {max(refitted):.3f} of 2-bit integers (0.7), {min(empty):.3f} of "
    )
    figures += f"the bits zero (0.5); compensated output {max(output):.3f}"
    return verdict("dbllm", max(refitted) <= 0.7 and max(refitted) < max(first) and min(empty) > 0.5, figures)


if __name__ == "__main__":
    sys.exit(main())
