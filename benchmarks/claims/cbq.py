"""CBQ: on T3 (2 bits, groups of 32) windows of two segments beat single ones at equal steps per window.

A window of two trains each segment twice; with half the steps it costs as much as single ones, and stands beside them,
as do the low-rank form and the loss without the extra terms.
"""

from __future__ import annotations

import sys

from benchmarks.claims.testbeds import tiny_loss, verdict

SCHEME, TOKENS, WINDOWS, STEPS = "w2a16g32", 4096, 256, 200


def loss(window: int, iterations: int, extra: str = "") -> float:
    """Held-out loss of T3."""
    options = f"window={window}, iterations={iterations}, rows=8{extra}"
    return tiny_loss(SCHEME, [f"cbq{{{options}}}"], TOKENS, WINDOWS)


def main() -> int:
    """Window one, window two, and what half the steps, rank five and the extra terms change."""
    nearest = tiny_loss(SCHEME, ["nearest{search=mse}"], TOKENS, WINDOWS)
    one, two, half = loss(1, STEPS), loss(2, STEPS), loss(2, STEPS // 2)
    thin = loss(2, STEPS // 2, ", rank=5")
    bare = loss(2, STEPS // 2, ", homologous=false, divergence=false")
    figures = (
        f"nearest {nearest:.4f}, window one {one:.4f}, two {two:.4f} nats, wanted 0.005 less; with half the steps "
        f"{half:.4f}, also with rank five {thin:.4f}, by squared error alone {bare:.4f}"
    )
    return verdict("cbq", two < one, figures)


if __name__ == "__main__":
    sys.exit(main())
