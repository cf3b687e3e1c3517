"""AdaRound: on T1 (64 columns, 32 rows, 3 bits) at most 0.75 times the error of rounding to nearest."""

from __future__ import annotations

import sys

from benchmarks.claims.testbeds import mean_errors, verdict


def main() -> int:
    """The measured share and whether it is small enough."""
    nearest = mean_errors("w3a16", ["nearest{search=mse}"])
    learned = mean_errors("w3a16", ["adaround{iterations=2000}"])
    seen, fresh = (learned / nearest).tolist()
    return verdict("adaround", seen <= 0.75, f"{seen:.3f} of nearest, {fresh:.3f} on fresh tokens; wanted 0.75")


if __name__ == "__main__":
    sys.exit(main())
