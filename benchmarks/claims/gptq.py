"""GPTQ: on T1 at most half the error of nearest at 4, 3 and 2 bits (0.55 on fresh inputs); act-order 0.8 of plain."""

from __future__ import annotations

import sys

from benchmarks.claims.testbeds import linear_layer, nearest_value, per_row, verdict
from qcompiler.passes.solve.second_order import Switches, second_order


def main() -> int:
    """The worst shares over bits and seeds."""
    seen, fresh, ordered = [], [], []
    for bits in (4, 3, 2):
        for seed in range(3):
            bed = linear_layer(seed)
            layer = bed.layer(per_row(bits))
            nearest = nearest_value(layer)
            plain = second_order(Switches(act_order=False))(layer).value()
            act_order = second_order(Switches())(layer).value()
            seen.append(bed.error(plain) / bed.error(nearest))
            fresh.append(bed.error(plain, True) / bed.error(nearest, True))
            ordered.append(bed.error(act_order) / bed.error(plain))
    figures = f"{max(seen):.3f} of nearest (0.5), {max(fresh):.3f} fresh (0.55), act-order {max(ordered):.3f} (0.8)"
    return verdict("gptq", max(seen) <= 0.5 and max(fresh) <= 0.55 and max(ordered) <= 0.8, figures)


if __name__ == "__main__":
    sys.exit(main())
