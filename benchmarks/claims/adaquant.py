"""AdaQuant: on T1 (64 columns, 32 rows, 3 bits) at most 0.65 times the error of nearest, on seen and fresh tokens."""

from __future__ import annotations

import sys

from benchmarks.claims.testbeds import mean_errors, verdict


def main() -> int:
    """The measured shares and whether they are small enough."""
    nearest = mean_errors("w3a16", ["nearest{search=mse}"])
    seen, fresh = (mean_errors("w3a16", ["adaquant"]) / nearest).tolist()
    return verdict("adaquant", max(seen, fresh) <= 0.65, f"{seen:.3f} of nearest, {fresh:.3f} on fresh; wanted 0.65")


if __name__ == "__main__":
    sys.exit(main())
