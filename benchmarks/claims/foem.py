"""FOEM: a full pull is nearest exactly; on T3 (2 bits, groups of 32, 1,024 calibration tokens) a lower loss than GPTQ.

The published gain is on models of 0.6 to 70 billion parameters. On a layer the term cannot lower the calibration error,
which is optimal without it: the figures show what it costs there.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.claims.testbeds import linear_layer, nearest_value, per_row, tiny_loss, verdict
from qcompiler.passes.solve.second_order import Switches, second_order


def main() -> int:
    """The identity, the cost on a layer, and the losses of the language model."""
    bed = linear_layer(0)
    layer = bed.layer(per_row(3))
    full = second_order(Switches(guard=False, pull=1.0))(layer).value()
    cost = bed.error(second_order(Switches(guard=False, pull=0.2))(layer).value()) / bed.error(
        second_order(Switches(guard=False))(layer).value()
    )
    loss, gptq = (tiny_loss("w2a16g32", [text], 1024, 256) for text in ("foem{beta=0.1}", "gptq"))
    figures = f"T3 2 bits, few tokens {loss:.4f}, GPTQ {gptq:.4f}; error of a layer at beta 0.2 x {cost:.3f}"
    return verdict("foem", torch.equal(full, nearest_value(layer)) and loss < gptq, figures)


if __name__ == "__main__":
    sys.exit(main())
