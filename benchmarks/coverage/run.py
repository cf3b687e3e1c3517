"""The coverage table: every architecture of the corpus through the compiler, each in a process of its own.

    python -m benchmarks.coverage.run [--only llama,swin] [--recipes w8a8,w4a16g32] [--limit 180] [--update]

Needs `transformers` and `diffusers`. Per model: trace, text form printed, parsed and printed again, the float program
in ONNX Runtime against eager torch, and each recipe compiled and run on samples that calibration did not see. SQNR
figures are the worst over the results of a model; `sensitivity` is what a relative error of 0.001 on every weight
(60 dB) does to the float model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from statistics import median

from benchmarks.common import RESULTS, print_table, write_results
from benchmarks.coverage.corpus import CORPUS
from benchmarks.coverage.isolated import Row, isolated
from benchmarks.coverage.measure import measure_named

RECIPES = ("w8a8", "w4a16g32")
LEAST = {"float dB": 100.0, "w8a8 dB": 15.0}
# 8-bit codes are some 20 times coarser than the noise of the sensitivity column: this much leaves nothing for them
ILL_CONDITIONED = 30.0


def run_one(name: str, recipes: Sequence[str], limit: int) -> Row:
    """The row of one architecture, from a process of its own that may take `limit` seconds."""
    row = isolated(measure_named, (name, tuple(recipes)), limit)
    return {"model": name, "failed": "process", "process error": row["error"]} if "error" in row else row


def verdict(row: Row) -> str:
    """What is wrong with a row; empty when nothing is."""
    if "failed" in row:
        return f"{row['failed']} fails"
    if row.get("text") != "same":
        return "text differs"
    low = [key for key, least in LEAST.items() if isinstance(row.get(key), float) and float(str(row[key])) < least]
    if not low:
        return ""
    sensitivity = row.get("sensitivity dB")
    ill = isinstance(sensitivity, float) and sensitivity < ILL_CONDITIONED
    return f"{low[0]} low" + (", ill-conditioned" if ill else "")


def short(row: Row, recipes: Sequence[str]) -> Row:
    """The columns that are printed."""
    shown: Row = {
        key: row.get(key) for key in ("model", "nodes", "trace s", "free", "text", "float dB", "sensitivity dB")
    }
    for recipe in recipes:
        shown[f"{recipe} dB"] = row.get(f"{recipe} dB")
        count = row.get(f"{recipe} fallbacks")
        shown[f"{recipe} fell back"] = "" if count is None else f"{count}/{row.get(f'{recipe} layers')}"
    return {**shown, "verdict": verdict(row)}


def merged(rows: Sequence[Row]) -> list[Row]:
    """These rows, and those of the last results for models that were not run."""
    path = RESULTS / "coverage.json"
    known = json.loads(path.read_text())["rows"] if path.is_file() else []
    by_name = {row["model"]: row for row in (*known, *rows)}
    return [by_name[item.name] for item in CORPUS if item.name in by_name]


def closing(rows: Sequence[Row], recipes: Sequence[str]) -> str:
    """One line about all rows."""
    good = sum(not verdict(row) for row in rows)
    parts = [f"{good} of {len(rows)} models pass every bar"]
    for key in ("float dB", *(f"{recipe} dB" for recipe in recipes)):
        values = [float(str(row[key])) for row in rows if key in row]
        if values:
            parts.append(f"{key}: {len(values)} run, lowest {min(values):.1f}, median {median(values):.1f}")
    return "; ".join(parts)


def main() -> None:
    """Runs the corpus, prints the table and, when nothing was left out, writes `results/coverage.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--limit", type=int, default=180, help="seconds per model")
    parser.add_argument("--update", action="store_true", help="put the rows into the last results")
    options = parser.parse_args()
    for package in ("transformers", "diffusers"):
        if find_spec(package) is None:
            sys.exit(f"this benchmark needs the package {package}: pip install qcompiler[coverage]")
    recipes = [recipe for recipe in options.recipes.split(",") if recipe]
    names = options.only.split(",") if options.only else [item.name for item in CORPUS]
    rows: list[Row] = []
    for name in names:
        rows.append(run_one(name, recipes, options.limit))
        errors = [f"{key}: {value}" for key, value in rows[-1].items() if key.endswith("error")]
        print(" | ".join(str(value) for value in short(rows[-1], recipes).values()), *errors, sep="\n    ", flush=True)
    if options.update:
        rows = merged(rows)
    print_table([short(row, recipes) for row in rows])
    print(closing(rows, recipes))
    if (options.update or not options.only) and tuple(recipes) == RECIPES:
        print(write_results("coverage", rows, "worst SQNR over the results of each model; tiny, random weights"))


if __name__ == "__main__":
    main()
