"""Runs the claims of all methods and writes `benchmarks/results/claims.json`.

    python -m benchmarks.claims [method ...]

Exits with 1 when a claim does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import time
from pathlib import Path

from benchmarks.common import print_table, write_results

HERE = Path(__file__).parent
SHARED_PARTS = ("__init__", "__main__", "testbeds")


def methods() -> list[str]:
    """Every method with a script."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in SHARED_PARTS)


def measure(method: str) -> dict[str, object]:
    """Runs one script and keeps what it said."""
    module = importlib.import_module(f"benchmarks.claims.{method}")
    said = io.StringIO()
    started = time.process_time()
    with contextlib.redirect_stdout(said):
        failed = module.main()
    figures = said.getvalue().strip().removeprefix(f"{method}: ")
    return {"method": method, "holds": not failed, "figures": figures, "cpu s": time.process_time() - started}


def main() -> int:
    """Runs the scripts asked for, all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=methods())
    asked = parser.parse_args().methods
    rows = []
    for method in asked:
        rows.append(measure(method))
        print(rows[-1], flush=True)
    print_table(rows)
    if asked == methods():
        print(write_results("claims", rows, "small-scale checks of each method's claim; see benchmarks/claims"))
    return int(not all(row["holds"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
