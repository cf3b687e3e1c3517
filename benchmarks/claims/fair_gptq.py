"""Fair-GPTQ: on T1 at 3 bits with differences in a space of rank 4, penalty 0.1 leaves a tenth of what the layer makes
of them, and raises its error by at most 40 %.

How much the error rises depends on the size of the differences: here each column's is that of its input.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from benchmarks.claims.testbeds import PLAIN, linear_layer, per_row, verdict
from qcompiler.passes.solve.second_order import second_order


def main() -> int:
    """The worst of three seeds."""
    biases, costs, before = [], [], []
    for seed in range(3):
        bed = linear_layer(seed)
        generator = torch.Generator().manual_seed(seed)
        space = torch.randn(4, 128, generator=generator) * bed.train.std(0)
        differences = torch.randn(len(bed.train) // 2, 4, generator=generator) @ space
        layer = bed.layer(per_row(3))
        layer.inputs.pair_moment = (2 / len(differences) * differences.T @ differences)[None]
        values = [second_order(replace(PLAIN, penalty=penalty))(layer).value() for penalty in (0.0, 0.1)]
        wanted = (differences @ bed.weight.T).square().sum()
        shares = [float((differences @ value.T).square().sum() / wanted) for value in values]
        before.append(shares[0])
        biases.append(shares[1])
        costs.append(bed.error(values[1]) / bed.error(values[0]) - 1)
    figures = f"differences from {min(before):.3f} to {max(biases):.3f} of the float layer's (0.1); "
    figures += f"error of the layer + {100 * max(costs):.0f} % (40)"
    return verdict("fair_gptq", max(biases) <= 0.1 and max(costs) <= 0.4, figures)


if __name__ == "__main__":
    sys.exit(main())
