"""Rotated and smoothed float programs against the originals, in float64, over the architectures of the coverage corpus.

    python -m benchmarks.symmetry_exact [--only llama,vit] [--front-ends torch,onnx] [--limit 180] [--update]

Needs `transformers` and `diffusers`. Every model is prepared (canonical, every layer assigned 4-bit numbers), rotated
and smoothed, once as torch.export sees it and once as imported from the ONNX file that torch writes. `error` is the
largest difference of a result relative to its size; `proved` tells for every step how many values the independent
checker compared, or what it objects to.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.common import RESULTS, print_table, write_results
from benchmarks.coverage.architecture import Architecture
from benchmarks.coverage.corpus import find
from benchmarks.coverage.isolated import Row, isolated
from qcompiler.analysis.groups import Action, SymmetryGroup
from qcompiler.analysis.symmetry import symmetries
from qcompiler.data import Inputs, flat_batch
from qcompiler.frontends.onnx_import import import_onnx
from qcompiler.frontends.torch_trace import trace_module
from qcompiler.ir.program import Program
from qcompiler.job import backends
from qcompiler.pass_text import parse_passes
from qcompiler.passes.canonical import CANONICAL
from qcompiler.passes.recipes import catalogue
from qcompiler.pipeline import Context, Options, difference, run_passes
from qcompiler.targets import load_target
from tests.certificate_checker import WrongCertificate, check

MODELS = (
    "llama",
    "qwen3",
    "gemma2",
    "gpt2",
    "gptneox",
    "opt",
    "bloom",
    "mixtral",
    "deepseek_v3",
    "mamba",
    "bert",
    "modernbert",
    "t5",
    "whisper",
    "wav2vec2",
    "vit",
    "dinov2",
    "swin",
    "convnext",
    "resnet",
    "mobilenet_v2",
    "segformer",
    "detr",
    "clip",
    "unet_conditioned",
    "dit",
    "pixart",
    "flux",
)
PASSES = (
    "assign{scheme=w4a4, weight=int4 sym channel scale=f32, activation=int4 sym token scale=f32 dynamic}, "
    "rotate{guard=false}, smoothquant{alpha=0.5}"
)
OPSET = 18
TOLERANCE = 1e-9


def measure(name: str, front_end: str) -> Row:
    """One architecture through one front-end."""
    warnings.simplefilter("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    architecture = find(name)
    context = Context(load_target("simulation", backends()))
    example = architecture.samples(1)[0]
    traced = TRACES[front_end](architecture, example)
    batch = flat_batch(traced, example, "inputs")
    program, _ = run_passes(traced, CANONICAL, context, sample=batch)
    started = time.process_time()
    found = symmetries(program)
    seconds = time.process_time() - started
    rotated = [group for group in found.orthogonal if rotates(group)]
    with tempfile.TemporaryDirectory() as folder:
        options = Options(check="off", dump_dir=Path(folder))
        passes = parse_passes(PASSES, catalogue())
        after, steps = run_passes(program, passes, context, [batch], options, batch)
        proved = [verdict(certificate) for certificate in sorted(Path(folder).glob("*.certificate"))]
    return {
        "model": name,
        "family": architecture.family,
        "front-end": front_end,
        "nodes": len(program.nodes),
        "analysis s": seconds,
        "rotatable": len(rotated),
        "widest": max((group.size for group in rotated), default=0),
        "scales": len(found.scales),
        "edits": sum(step.edits for step in steps[1:]),
        "online": sum("qc." in after.op(node) for node in after.nodes),
        "proved": "; ".join(proved),
        "error": difference(program, after, batch),
    }


def verdict(certificate: Path) -> str:
    """How many values a certificate proves, or what is wrong with it."""
    try:
        return str(check(certificate))
    except WrongCertificate as wrong:
        return str(wrong)


def rotates(group: SymmetryGroup) -> bool:
    """Whether more than permutations and scales may act."""
    return bool(group.actions & {Action.GENERAL, Action.ORTHOGONAL, Action.ORTHOGONAL_KEEPING_MEAN})


def from_torch(architecture: Architecture, example: dict[str, torch.Tensor]) -> Program:
    """As torch.export sees it."""
    return trace_module(architecture.module(), Inputs(**example))


def from_onnx(architecture: Architecture, example: dict[str, torch.Tensor]) -> Program:
    """As the ONNX file says that torch writes."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            architecture.module(),
            (),
            path,
            kwargs=example,
            input_names=list(example),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            external_data=False,
        )
        return import_onnx(path)


TRACES = {"torch": from_torch, "onnx": from_onnx}


def merged(rows: Sequence[Row]) -> list[Row]:
    """These rows, and those of the last results for what was not run."""
    path = RESULTS / "symmetry_exact.json"
    known = json.loads(path.read_text())["rows"] if path.is_file() else []
    found = {(row["model"], row["front-end"]): row for row in (*known, *rows)}
    return [found[key] for key in sorted(found, key=str)]


def closing(rows: Sequence[Row]) -> str:
    """One line about all rows."""
    exact = [
        row
        for row in rows
        if "error" in row and float(str(row["error"])) <= TOLERANCE and "%" not in str(row["proved"])
    ]
    good = {name for name in {row["model"] for row in exact} if sum(row["model"] == name for row in exact) == 2}
    worst = max((float(str(row["error"])) for row in exact), default=0.0)
    return f"{len(good)} models are exact and proved through both front-ends; largest error of those {worst:.2g}"


def main() -> None:
    """Runs what is asked for, prints the table and writes `results/symmetry_exact.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(MODELS), help="names, separated by commas")
    parser.add_argument("--front-ends", default="torch,onnx")
    parser.add_argument("--limit", type=int, default=180, help="seconds per model and front-end")
    parser.add_argument("--update", action="store_true", help="put the rows into the last results")
    options = parser.parse_args()
    for package in ("transformers", "diffusers"):
        if find_spec(package) is None:
            sys.exit(f"this benchmark needs the package {package}: pip install qcompiler[coverage]")
    rows: list[Row] = []
    for name in options.only.split(","):
        for front_end in options.front_ends.split(","):
            row = isolated(measure, (name, front_end), options.limit)
            failed = {"model": name, "front-end": front_end, "failed": str(row.get("error")).splitlines()[0]}
            rows.append(failed if isinstance(row.get("error"), str) else row)
            print(" | ".join(f"{value:.2g}" if isinstance(value, float) else str(value) for value in rows[-1].values()))
            sys.stdout.flush()
    rows = merged(rows) if options.update else rows
    print_table([row for row in rows if "failed" not in row])
    print(closing(rows))
    if options.update or options.only == ",".join(MODELS):
        print(write_results("symmetry_exact", rows, "tiny models with random weights, differences in float64"))


if __name__ == "__main__":
    main()
