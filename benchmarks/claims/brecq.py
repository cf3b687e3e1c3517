"""BRECQ: on T3 (2 bits, groups of 32) learning whole segments beats learning layers, and both beat nearest."""

from __future__ import annotations

import sys

from benchmarks.claims.testbeds import tiny_loss, verdict

SCHEME, TOKENS, WINDOWS = "w2a16g32", 4096, 256


def main() -> int:
    """Losses of nearest, of layers and of segments."""
    nearest, layers, segments = (
        tiny_loss(SCHEME, [solver], TOKENS, WINDOWS)
        for solver in ("nearest{search=mse}", "adaround{iterations=200, rows=8}", "brecq{iterations=200, rows=8}")
    )
    figures = f"nearest {nearest:.4f}, layers {layers:.4f}, segments {segments:.4f} nats"
    return verdict("brecq", segments < layers < nearest, figures)


if __name__ == "__main__":
    sys.exit(main())
