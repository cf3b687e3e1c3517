"""JLCM: on T1 with 64 columns, 32 rows and 8 scalars, learning table and indices together leaves at most 0.75 of the
error of k-means, where the table alone leaves nearly all of it.
"""

from __future__ import annotations

import sys

from benchmarks.claims.testbeds import linear_layer, per_row, verdict
from qcompiler.passes.solve.codebook import Jlcm
from qcompiler.passes.solve.codebook.learn import tuned_table
from qcompiler.passes.solve.codebook.vectors import cut, kmeans


def main() -> int:
    """The worst shares of four seeds."""
    table_only, joint, fresh, grouped = [], [], [], []
    for seed in range(4):
        bed = linear_layer(seed, rows=32, columns=64)
        layer = bed.layer(per_row(3))
        pieces = cut(layer, 1)
        indices, table = kmeans(pieces.vectors, 8)
        plain = float(pieces.error(table[indices]))
        table_only.append(float(pieces.error(tuned_table(pieces, indices, table, 300)[indices])) / plain)
        found = Jlcm(1).solve(layer).value()
        joint.append(bed.error(found) / plain)
        fresh.append(bed.error(found, True) / plain)
        grouped.append(bed.error(Jlcm(4).solve(layer).value(), True) / bed.error(found, True))
    figures = (
        f"{max(joint):.3f} of k-means (0.75), {max(fresh):.3f} on fresh inputs, the table alone {max(table_only):.3f}; "
    )
    figures += f"four groups of rows {min(grouped):.3f}..{max(grouped):.3f} of one"
    return verdict("jlcm", max(joint) <= 0.75 and max(joint) < min(table_only), figures)


if __name__ == "__main__":
    sys.exit(main())
