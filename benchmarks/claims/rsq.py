"""RSQ: on T1 with a tenth of important tokens from another subspace, weights 1 against 0.05 cut their error to a third.

The error of the rest rises by at most 60 %. The loss of T3 is shown.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.claims.testbeds import linear_layer, per_row, relative_error, tiny_loss, verdict
from qcompiler.passes.solve.layers import Geometry, Inputs, Layer
from qcompiler.passes.solve.second_order import Switches, second_order


def main() -> int:
    """Ratios of the errors with and without weights, worst of three seeds."""
    gains, costs = [], []
    for seed in range(3):
        sizes = torch.exp(0.7 * torch.randn(128, generator=torch.Generator().manual_seed(seed)))
        bed, other = linear_layer(seed, scales=sizes), linear_layer(seed + 50, scales=sizes)
        important = other.train[: len(bed.train) // 10]
        x = torch.cat([important, bed.train[len(important) :]])
        counts = torch.full((len(x),), 0.05)
        counts[: len(important)] = 1.0
        errors = []
        for weights in (None, [counts / counts.mean()]):
            inputs = Inputs(lambda stream, x=x: [x], Geometry(), weights)
            found = second_order(Switches(guard=False))(Layer("bed", bed.weight, 1, per_row(3), inputs)).value()
            errors.append(
                [relative_error(part @ found.T, part @ bed.weight.T) for part in (important, x[len(important) :])]
            )
        gains.append(errors[0][0] / errors[1][0])
        costs.append(errors[1][1] / errors[0][1])
    loss, gptq = tiny_loss("w3a16", ["rsq"], 8192, 256), tiny_loss("w3a16", ["gptq"], 8192, 256)
    figures = f"important tokens {min(gains):.2f} x better (3), rest x {max(costs):.2f} (1.6); "
    figures += f"T3 3 bits {loss:.4f}, GPTQ {gptq:.4f}"
    return verdict("rsq", min(gains) >= 3 and max(costs) <= 1.6, figures)


if __name__ == "__main__":
    sys.exit(main())
