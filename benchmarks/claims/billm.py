"""BiLLM: on T1 with 256 columns at most 0.45 of the error of plain signs without compensation, less with it; below
2-bit integers, though it stores more bits than they do; errors measured on the weight, not on the salience.
"""

from __future__ import annotations

import sys

from benchmarks.claims.testbeds import linear_layer, nearest_value, verdict
from qcompiler.passes.solve.expression import bits_per_weight
from qcompiler.passes.solve.lowbit import BiLlm
from qcompiler.passes.solve.lowbit.fits import sign
from qcompiler.spec import QuantSpec

SPEC = QuantSpec.parse("uint2 asym block=(1,128) scale=f16")


def main() -> int:
    """The worst shares of three seeds."""
    alone, exact, two_bits, diagonal = [], [], [], []
    bits = 0.0
    for seed in range(3):
        bed = linear_layer(seed, rows=256, columns=256, tokens=1024)
        layer = bed.layer(SPEC)
        plain = bed.error(sign(bed.weight) * bed.weight.abs().mean(1, keepdim=True))
        errors = {name: bed.error(BiLlm(name).solve(layer).value()) for name in ("none", "exact", "diag")}
        alone.append(errors["none"] / plain)
        exact.append(errors["exact"] / errors["none"])
        diagonal.append(errors["diag"] / errors["exact"])
        two_bits.append(errors["exact"] / bed.error(nearest_value(layer)))
        bits = bits_per_weight(BiLlm().solve(layer))
    figures = f"{max(alone):.3f} of signs (0.45), compensated {max(exact):.3f} of that (0.85), diagonal "
    figures += (
        f"{min(diagonal):.3f}..{max(diagonal):.3f} of exact; {max(two_bits):.3f} of 2-bit integers at {bits:.2f} bits"
    )
    return verdict("billm", max(alone) <= 0.45 and max(exact) <= 0.85 and max(two_bits) < 1, figures)


if __name__ == "__main__":
    sys.exit(main())
