"""Accuracy of real models before and after compilation, measured in ONNX Runtime.

    python -m benchmarks.accuracy [--models resnet20,vit_mnist] [--recipes w8a8,w8a16]

One row per model and recipe: task metric of the float module and of the artefact, output SQNR, share of the linear and
convolution layers that run as the audit says they should, size, compile time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence

import torch

import qcompiler
from benchmarks.common import print_table, write_results
from benchmarks.models import CASES, Case

RECIPES: dict[str, tuple[str, ...]] = {
    "cnn": ("w8a8",),
    "vit": ("w8a8", "w8a8_dynamic"),
    "sr": ("w8a8",),
    "diffusion": ("w8a8", "w4a16g32"),
    "lm": ("w8a8", "w8a8_dynamic", "w8a16", "w4a16g32", "w4a16g128"),
}
MATRIX_OPS = ("aten.conv1d", "aten.conv2d", "aten.linear")


def measure(case: Case, recipe: str) -> dict[str, object]:
    """Compiles once and measures."""
    started = time.perf_counter()
    artifact = qcompiler.compile(case.module, calibration=list(case.calibration), recipe=recipe)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        before = case.metric(case.module)
    after = case.metric(artifact)
    layers = [layer for layer in artifact.report.layers if layer.op in MATRIX_OPS or layer.op.startswith("conv")]
    return {
        "model": case.name,
        "recipe": recipe,
        "metric": case.unit,
        "float": before,
        "quantized": after,
        "change": after - before,
        "change %": 100 * (after - before) / before,
        "output SQNR dB": artifact.report.sqnr_db,
        "low-bit layers": integer_share(artifact.report.to_dict()),
        "size ratio": artifact.report.ratio,
        "compile s": seconds,
        "layers": len(layers),
    }


def integer_share(report: Mapping[str, object]) -> str:
    """How many linear and convolution layers run the kernel that was asked for, of all there are."""
    layers = report["layers"]
    if not isinstance(layers, Sequence):
        return ""
    matrix = [layer for layer in layers if str(layer["op"]) in MATRIX_OPS]
    running = [layer for layer in matrix if layer["requested"] != "float" and not layer["reason"]]
    return f"{len(running)}/{len(matrix)}"


def main() -> None:
    """Runs the cases asked for and writes `results/accuracy.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--recipes", default="")
    options = parser.parse_args()
    rows = []
    for name in options.models.split(","):
        case = CASES[name]()
        for recipe in options.recipes.split(",") if options.recipes else RECIPES[case.kind]:
            rows.append(measure(case, recipe))
            print(rows[-1], flush=True)
    print_table(rows)
    if options.models == ",".join(CASES) and not options.recipes:
        print(write_results("accuracy", rows, "task metrics in ONNX Runtime; low-bit layers by the audit"))


if __name__ == "__main__":
    main()
