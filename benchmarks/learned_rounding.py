"""Learned rounding on real networks: task metric of the float model and after each method, and what it costs.

    python -m benchmarks.learned_rounding [--models resnet20,resnet56] [--schemes w4a4,w4a16] [--methods adaround,brecq]

First and last layers are at 8 bits, the rest as the scheme says; quantized programs are run as they are defined, in
torch. One row per model, scheme and method; rows of one run replace those of earlier runs in the results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.common import RESULTS, print_table, write_results
from benchmarks.models import Case, cifar
from qcompiler.ir.interp import run
from qcompiler.job import prepare, run_job
from qcompiler.passes.recipes import Recipe

METHODS: dict[str, tuple[str, ...]] = {
    "nearest": ("nearest",),
    "nearest_mse": ("nearest{search=mse}",),
    "adaround": ("adaround{iterations=400}",),
    "brecq": ("brecq{iterations=400}",),
    "brecq_fixed_steps": ("brecq{iterations=400, step_rate=0}",),
    "brecq_fisher": ("brecq{iterations=400, importance=fisher}",),
    "adaquant": ("adaquant{iterations=400}",),
    "adaquant_parallel": ("adaquant{iterations=400, inputs=float}",),
    "cbq": ("cbq{iterations=200}",),
    "gradient": ("gradient_rounding{iterations=400}",),
    "nearest_repaired": ("nearest{search=mse}", "norm_reestimation", "bias_tuning{iterations=100}"),
    "brecq_repaired": ("brecq{iterations=400}", "bias_tuning{iterations=100}"),
}
IMAGES, SAMPLES = 4000, 384
MODELS: dict[str, Callable[[], Case]] = {
    "resnet20": lambda: cifar("resnet20_cifar10_jpeg", 20, IMAGES, SAMPLES),
    "resnet56": lambda: cifar("resnet56_cifar10", 56, IMAGES, SAMPLES),
}


def measure(case: Case, exact: float, scheme: str, method: str) -> dict[str, object]:
    """Solves once and measures."""
    fixed = scheme.endswith("a16")
    edges = "w8a16" if fixed else "w8a8"
    passes = [f"assign{{scheme={scheme}, edges={edges}}}", "apply_plan", *([] if fixed else ["calibrate"])]
    lines: list[str] = []
    recipe = Recipe.of("measured", [*passes, *METHODS[method]])
    job = prepare(case.module, "simulation", calibration=list(case.calibration), recipe=recipe, log=lines.append)
    started = time.process_time()
    program = run_job(job)[1]
    seconds = time.process_time() - started
    with torch.no_grad():
        found = case.metric(lambda *args: run(program, *args))
    return {
        "model": case.name,
        "scheme": scheme,
        "method": method,
        "metric": case.unit,
        "float": exact,
        "quantized": found,
        "change": found - exact,
        "cpu s": seconds,
        "said": lines[-1],
    }


def merged(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """These rows and those of earlier runs that they do not replace."""
    path = RESULTS / "learned_rounding.json"
    old = json.loads(path.read_text())["rows"] if path.is_file() else []
    found = {(row["model"], row["scheme"], row["method"]): row for row in (*old, *rows)}
    return [found[key] for key in sorted(found, key=str)]


def main() -> None:
    """Measures what was asked for and writes `results/learned_rounding.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--schemes", default="w4a4,w4a16")
    parser.add_argument("--methods", default="nearest_mse,adaround,brecq")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.models.split(","):
        case = MODELS[name]()
        with torch.no_grad():
            exact = case.metric(case.module)
        for scheme in options.schemes.split(","):
            for method in options.methods.split(","):
                rows.append(measure(case, exact, scheme, method))
                print(rows[-1], flush=True)
                note = f"{IMAGES} test images, {SAMPLES} calibration images, first and last layer at 8 bits"
                write_results("learned_rounding", merged(rows), note)
    print_table(rows)


if __name__ == "__main__":
    main()
