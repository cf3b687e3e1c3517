"""Whether audits tell the truth, and how many layers run in integers: plain exports against ours.

    python -m benchmarks.audit [--only resnet18,swin] [--limit 300] [--fresh]

Needs `transformers` and `diffusers`. Per architecture of the coverage corpus, each in a process of its own:

- `static`: `torch.onnx.export` and `onnxruntime.quantization.quantize_static`, then the same file legalised;
- `plain`: our graph in the plain form that most exporters write (float biases, activations in front of quantizers),
  then the same file legalised;
- `ours`: what `qcompiler.compile` writes for onnxruntime.

`layers` are convolutions and linear layers that were asked to run in 8 bits, `integer` those that do; a false answer is
a kernel on which audit and the profile of a run disagree. Results are kept after every model, so that an interrupted
run goes on where it stopped; `--fresh` starts anew.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import qcompiler
from benchmarks.common import RESULTS, print_table, write_results
from benchmarks.coverage.corpus import CORPUS, find
from benchmarks.coverage.isolated import Row, isolated
from benchmarks.coverage.peer_export import export
from benchmarks.coverage.peer_quantize import CALIBRATION, given, quantize_onnxruntime, read_calls
from qcompiler.backends.onnx.foreign import audit_file
from qcompiler.backends.onnx.legalise import legalise_file
from qcompiler.backends.onnx.profile import executed, false_answers
from qcompiler.job import backends
from qcompiler.target import LayerAudit
from qcompiler.targets import load_target

FORMS = ("static", "static legalised", "plain", "plain legalised", "ours")
PRODUCTS = ("Conv", "Gemm", "MatMul", "aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.linear")
PLAIN = {"linear": "matmul", "bias": "float", "absorbed": "reals"}
NAME = "audit"


def measure(name: str) -> Row:
    """The row of one architecture; what fails is written into it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    row: Row = {"model": name, "family": find(name).family}
    with tempfile.TemporaryDirectory() as place:
        for key, part in (("static", _static), ("ours", _ours)):
            try:
                row.update(part(name, Path(place)))
            except Exception as error:
                row[f"{key} error"] = f"{type(error).__name__}: {error}"[:300]
    return row


def _static(name: str, folder: Path) -> Row:
    export(name, str(folder))
    calls = given(folder / "model.onnx", read_calls(folder / "samples.npz"))
    quantized = quantize_onnxruntime(folder, calls[:CALIBRATION])
    sample = {key: torch.from_numpy(value) for key, value in calls[0].items()}
    return _both("static", quantized, folder, sample)


def _both(key: str, source: Path, folder: Path, sample: dict[str, torch.Tensor]) -> Row:
    """A file as it is, and legalised."""
    row = _judged(key, source, sample)
    mended = folder / f"{key}_legal.onnx"
    row[f"{key} rewrites"] = len(legalise_file(source, mended))
    return row | _judged(f"{key} legalised", mended, sample)


def _judged(key: str, path: Path, sample: dict[str, torch.Tensor]) -> Row:
    return _told(key, audit_file(path), path, sample)


def _told(key: str, layers: Sequence[LayerAudit], path: Path, sample: dict[str, torch.Tensor]) -> Row:
    asked = [layer for layer in layers if layer.op in PRODUCTS and layer.requested != "float"]
    fallen = [layer for layer in asked if not layer.ok]
    reasons = sorted({f"{layer.op}: {layer.requested}: {layer.reason}" for layer in fallen})
    return {
        f"{key} layers": len(asked),
        f"{key} integer": len(asked) - len(fallen),
        f"{key} false": list(false_answers(layers, executed(path, sample))),
        f"{key} reasons": reasons[:8],
    }


def _ours(name: str, folder: Path) -> Row:
    architecture = find(name)
    samples = architecture.samples(CALIBRATION)
    traced = qcompiler.trace(architecture.module(), samples[0])
    row: Row = {}
    for key, changes in (("plain", PLAIN), ("ours", {})):
        target = load_target("onnxruntime", backends())
        target = replace(target, settings={**target.settings, **changes})
        artifact = qcompiler.compile(traced, target=target, calibration=list(samples), recipe="w8a8")
        sample = {key: value for key, value in samples[0].items() if key in traced.input_names}
        if key == "plain":
            row |= _both(key, artifact.onnx, folder, sample)
            continue
        fallen = {layer.name for layer in artifact.report.fallbacks}
        layers = [
            LayerAudit(
                each.name, each.module, each.op, each.requested, each.realised, each.name not in fallen, each.reason
            )
            for each in artifact.report.layers
        ]
        row |= _told(key, layers, artifact.onnx, sample)
        row["ours foreign"] = list(false_answers(audit_file(artifact.onnx), executed(artifact.onnx, sample)))
    return row


def short(row: Row) -> Row:
    """The columns that are printed."""
    shown: Row = {"model": row["model"]}
    for form in FORMS:
        known = f"{form} layers" in row
        shown[form] = f"{row[f'{form} integer']}/{row[f'{form} layers']}" if known else ""
    wrong = [str(text) for key, texts in row.items() if key.endswith(("false", "foreign")) for text in list(texts)]  # pyright: ignore[reportArgumentType, reportCallIssue]
    shown["false answers"] = len(wrong)
    shown["failed"] = ", ".join(key for key in row if key.endswith("error"))
    return shown


def closing(rows: Sequence[Row]) -> str:
    """One line about all rows."""
    parts = []
    for form in FORMS:
        known = [row for row in rows if f"{form} layers" in row]
        layers, integer = (sum(int(str(row[f"{form} {what}"])) for row in known) for what in ("layers", "integer"))
        parts.append(f"{form} {integer}/{layers} ({100 * integer / max(layers, 1):.1f} %, {len(known)} models)")
    wrong = sum(int(str(short(row)["false answers"])) for row in rows)
    return f"layers on integer kernels: {'; '.join(parts)}; false answers: {wrong}"


def main() -> None:
    """Runs what is missing, prints the table and writes `results/audit.json` after every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--limit", type=int, default=300, help="seconds per model")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args()
    path = RESULTS / f"{NAME}.json"
    known = json.loads(path.read_text())["rows"] if path.is_file() and not options.fresh else []
    rows: dict[str, Row] = {row["model"]: row for row in known}
    names = options.only.split(",") if options.only else [item.name for item in CORPUS]
    for name in names:
        if name in rows and not options.only:
            continue
        found = isolated(measure, (name,), options.limit)
        rows[name] = {"model": name, **found} if "error" in found else found
        print(" | ".join(str(value) for value in short(rows[name]).values()), flush=True)
        ordered = [rows[item.name] for item in CORPUS if item.name in rows]
        write_results(NAME, ordered, closing(ordered))
    ordered = [rows[item.name] for item in CORPUS if item.name in rows]
    print_table([short(row) for row in ordered])
    print(closing(ordered))


if __name__ == "__main__":
    main()
