"""The coverage corpus in generated C: every architecture compiled for this machine, each in a process of its own.

    python -m benchmarks.coverage_c [--only llama,swin] [--recipes w8a8] [--limit 300] [--fresh]

Needs `transformers` and `diffusers`, and a C compiler. Per model: the float program as C against eager torch, then each
recipe, on samples that calibration did not see; the worst SQNR over the results of a model, the bytes of the generated
layers and of the arena. Goes on where an earlier run stopped, unless `--fresh` or `--only` is given.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from statistics import median

import torch

import qcompiler
from benchmarks.common import RESULTS, print_table, write_results
from benchmarks.coverage.architecture import Inputs
from benchmarks.coverage.corpus import CORPUS, find
from benchmarks.coverage.isolated import Row, isolated
from benchmarks.coverage.measure import results, stage, worst_sqnr
from qcompiler.backends.c.backend import FOLDER
from qcompiler.backends.c.project import read_project
from qcompiler.ir.program import Program
from qcompiler.ir.structure import describe
from qcompiler.passes.recipes import Recipe

NAME = "coverage_c"
TARGET = "host"
CALIBRATION = 4
HELD_OUT = 2
LEAST_DB = 90.0
FLOAT = Recipe.of("float", ("apply_plan",))
NOTE = "worst SQNR over the results of each model against eager torch; tiny, random weights"


def measure(name: str, recipes: Sequence[str]) -> Row:
    """The row of the architecture of that name; what fails is written into it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    architecture = find(name)
    row: Row = {"model": name, "family": architecture.family}
    module = architecture.module()
    samples = architecture.samples(CALIBRATION + HELD_OUT)
    traced = qcompiler.trace(module, samples[0], dynamic="none")
    wanted = [results(module, sample) for sample in samples[CALIBRATION:]]
    for recipe in (FLOAT, *recipes):
        label = recipe if isinstance(recipe, str) else recipe.name
        with stage(row, label):
            row |= compiled(traced, samples, wanted, recipe, label)
    return row


def compiled(
    traced: Program,
    samples: Sequence[Inputs],
    wanted: Sequence[Sequence[torch.Tensor]],
    recipe: str | Recipe,
    label: str,
) -> Row:
    """Compiles and runs: SQNR, nodes, bytes of layers and arena."""
    artifact = qcompiler.compile(traced, TARGET, calibration=list(samples[:CALIBRATION]), recipe=recipe)
    found = [describe(artifact(**sample))[1] for sample in samples[CALIBRATION:]]
    project = artifact.folder / FOLDER
    row: Row = {
        f"{label} dB": worst_sqnr(wanted, found),
        f"{label} C bytes": (project / "model.c").stat().st_size,
        f"{label} arena": read_project(project).arena_bytes,
    }
    return row | ({"nodes": len(traced.nodes)} if isinstance(recipe, Recipe) else {})


def short(row: Row, recipes: Sequence[str]) -> Row:
    """The columns that are printed."""
    shown: Row = {key: row.get(key) for key in ("model", "nodes", "float dB", "float C bytes", "float arena")}
    return shown | {f"{recipe} dB": row.get(f"{recipe} dB") for recipe in recipes}


def closing(rows: Sequence[Row], recipes: Sequence[str]) -> str:
    """One line about all rows."""
    parts: list[str] = []
    for label in ("float", *recipes):
        values = [float(str(row[f"{label} dB"])) for row in rows if f"{label} dB" in row]
        if values:
            run = f"{label}: {len(values)} of {len(rows)} run"
            parts.append(f"{run}, lowest {min(values):.1f} dB, median {median(values):.1f}")
    low = [str(row["model"]) for row in rows if float(str(row.get("float dB", LEAST_DB))) < LEAST_DB]
    return "; ".join([*parts, f"below {LEAST_DB:.0f} dB in float: {', '.join(low) or 'none'}"])


def known_rows() -> list[Row]:
    """The rows of the last run."""
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def main() -> None:
    """Runs the corpus, writes `results/coverage_c.json` after every model, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--recipes", default="w8a8")
    parser.add_argument("--limit", type=int, default=300, help="seconds per model")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    options = parser.parse_args()
    for package in ("transformers", "diffusers"):
        if find_spec(package) is None:
            sys.exit(f"this benchmark needs the package {package}: pip install qcompiler[coverage]")
    recipes = [recipe for recipe in options.recipes.split(",") if recipe]
    done = set() if options.fresh or options.only else {row["model"] for row in known_rows()}
    names = options.only.split(",") if options.only else [item.name for item in CORPUS if item.name not in done]
    rows: list[Row] = [] if options.fresh else known_rows()
    for name in names:
        row = isolated(measure, (name, tuple(recipes)), options.limit)
        row = row if "error" not in row else {"model": name, "float error": row["error"]}
        rows = [other for other in rows if other["model"] != name] + [row]
        errors = [f"{key}: {value}" for key, value in row.items() if key.endswith("error")]
        print(" | ".join(str(value) for value in short(row, recipes).values()), *errors, sep="\n    ", flush=True)
        write_results(NAME, rows, NOTE)
    print_table([short(row, recipes) for row in rows])
    print(closing(rows, recipes))


if __name__ == "__main__":
    main()
