"""GWQ: on T3, nearest at 2 bits in groups of 32 with a hundredth of the weights kept by gradient has a loss at least
0.005 below that of nearest alone; the other scores are shown.
"""

from __future__ import annotations

import sys

from benchmarks.claims.testbeds import tiny_loss, verdict


def main() -> int:
    """The losses of the language model."""
    nearest = tiny_loss("w2a16g32", ["nearest"], 1024, 256)
    scores = {
        score: tiny_loss("w2a16g32", [f"gwq{{score={score}}}"], 1024, 256) for score in ("gradient", "size", "fisher")
    }
    figures = ", ".join(f"{score} {loss:.4f}" for score, loss in scores.items()) + f"; nearest {nearest:.4f}"
    return verdict("gwq", scores["gradient"] <= nearest - 0.005, figures)


if __name__ == "__main__":
    sys.exit(main())
