"""ResComp: on T3 at 3 bits the variant on GPTAQ has a lower loss than GPTAQ, the variant on GPTQ than GPTQ.

The published gains are on models of billions of parameters. Where the streams are one, the term is FOEM's without the
pull and can only shrink: the verdict is that of the variant on GPTAQ, the other's figures are shown.
"""

from __future__ import annotations

import sys

from benchmarks.claims.testbeds import tiny_loss, verdict


def main() -> int:
    """The losses of the language model."""
    texts = ("rescomp{alpha=0.25}", "gptaq", "rescomp", "gptq")
    both, gptaq, plain, gptq = (tiny_loss("w3a16", [text], 8192, 256) for text in texts)
    figures = f"T3 3 bits on GPTAQ {both:.4f}, GPTAQ {gptaq:.4f}; on GPTQ {plain:.4f}, GPTQ {gptq:.4f}"
    return verdict("rescomp", both < gptaq, figures)


if __name__ == "__main__":
    sys.exit(main())
