"""What `make demo` runs: two real models compiled for ONNX Runtime and measured on real data.

Compiles the small CNN and the small vision transformer of `benchmarks/zoo` to 8 bits with the calibration images that
lie beside them, runs both artefacts on the 500 test images, prints the reports and where the artefacts lie.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

import qcompiler
from benchmarks.zoo.data import CALIBRATION_FILE, load_test
from benchmarks.zoo.models import digits_cnn, digits_vit

OUTPUT = Path("demo-artifact")
MODELS = (("digits_cnn", digits_cnn), ("digits_vit", digits_vit))


def accuracy(model: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Share of the test images that a model names rightly, in percent."""
    test = load_test()
    with torch.no_grad():
        named = model(torch.from_numpy(test.x)).argmax(1)
    return 100 * (named == torch.from_numpy(test.y)).double().mean().item()


def compile_one(name: str, build: Callable[[], torch.nn.Module]) -> tuple[str, ...]:
    """Compiles one model, saves and prints it; returns its row of the closing table."""
    started = time.perf_counter()
    artifact = qcompiler.compile(
        build(), target="onnxruntime", calibration=CALIBRATION_FILE, recipe="w8a8", evaluate=accuracy
    )
    seconds = time.perf_counter() - started
    folder = OUTPUT / name
    artifact.save(folder, force=True)
    artifact.report.print()
    print(f"artefact: {folder}\n")
    report = artifact.report
    return (
        name,
        f"{report.metric_float:.1f} %",
        f"{accuracy(qcompiler.load(folder)):.1f} %",
        f"{report.sqnr_db:.1f} dB",
        f"{report.float_bytes / report.quantized_bytes:.2f}x",
        f"{seconds:.1f} s",
        str(folder / "report.html"),
    )


def main() -> None:
    """Compiles both models and prints one line for each."""
    OUTPUT.mkdir(exist_ok=True)
    rows = [compile_one(name, build) for name, build in MODELS]
    headings = ("model", "float", "8 bits in ONNX Runtime", "output SQNR", "smaller", "compiled in", "report")
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    for row in (headings, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
