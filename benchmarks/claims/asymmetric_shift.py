"""Asymmetric pre-shift: on T2 at most 0.7 of GPTQ's error to the float stream at shift 1; on T3 a half beats GPTAQ."""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.claims.testbeds import PLAIN, per_row, tiny_loss, two_layer_share, verdict


def main() -> int:
    """Worst share over 4, 3 and 2 bits, and the losses of the language model."""
    shares = [two_layer_share(per_row(bits), replace(PLAIN, shift=1.0)) for bits in (4, 3, 2)]
    half, gptaq, gptq = (tiny_loss("w3a16", [text], 8192, 256) for text in ("gptq{shift=0.5}", "gptaq", "gptq"))
    figures = f"{max(shares):.3f} of GPTQ (0.7); T3 3 bits {half:.4f}, GPTAQ {gptaq:.4f}, GPTQ {gptq:.4f}"
    return verdict("asymmetric_shift", max(shares) <= 0.7 and half < min(gptaq, gptq), figures)


if __name__ == "__main__":
    sys.exit(main())
