"""What a model weighs in each number format, and what a model beyond 2 GiB costs to write, load and run.

    python -m benchmarks.packed_files [--models resnet20,code_lm]   one row per model and format
    python -m benchmarks.packed_files --large 2.2                   writes, loads and runs so many GiB of weights

Bound: `bits_per_element` of the spec times the elements of each quantized weight, and all other parameters as float32.
What the file holds beyond it is the graph: operators, names, provenance.
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import qcompiler
from benchmarks.common import print_table, write_results
from benchmarks.models import Case, cifar, code_lm
from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.onnx.writer import save_model, write_model
from qcompiler.errors import QCompilerError
from qcompiler.ir.fill import Fill
from qcompiler.ir.program import Program, Signature, Stage
from qcompiler.ir.types import Symbol, TensorType, symbol_expr
from qcompiler.passes.recipes import Recipe
from qcompiler.spec import bits_per_element

MODELS: dict[str, Callable[[], Case]] = {"resnet20": lambda: cifar("resnet20_cifar10_jpeg", 20), "code_lm": code_lm}
FORMATS = (
    "binary sym channel scale=f16",
    "ternary sym group=64 scale=f16",
    "int2 sym group=64 scale=f16",
    "int3 sym channel scale=f32",
    "nf3 sym group=64 scale=f16",
    "nf4 sym group=64 scale=f16",
    "fp4e2m1 sym group=16 scale=e4m3 outer=f32",
    "fp4e2m1 sym group=32 scale=e8m0",
    "log2_4 sym channel scale=f16",
    "int5 sym group=64 scale=f16",
    "fp6e2m3 sym group=32 scale=e8m0",
    "int6 sym channel scale=f32",
    "fp8e3m4 sym channel scale=f32",
)
_GIB = 1 << 30
_WIDTH = 8192


def weigh(case: Case, number: str) -> dict[str, object]:
    """The file of a model whose weights are all of one format, against the bound."""
    chosen = f"assign{{scheme=w16a16, weight={number}}}"
    recipe = Recipe.of("packed", [chosen, "apply_plan", "nearest"])
    row: dict[str, object] = {"model": case.name, "format": number}
    try:
        artifact = qcompiler.compile(case.module, inputs=case.calibration[0], recipe=recipe)
    except QCompilerError as error:
        return row | {"refused": error.what}
    program = artifact.program
    bound, count = 0.0, 0
    for node in program.param_nodes:
        type_ = program.tensor_type(node)
        shape = [int(dim) for dim in type_.shape]
        if type_.spec is not None:
            bound += bits_per_element(type_.spec, shape) * math.prod(shape) / 8
            count += math.prod(shape)
        elif not any(str(node.target).endswith(end) for end in ("scale", "scale_1", "zero_point")):
            bound += 4 * math.prod(shape)
    size = sum(
        (artifact.folder / name).stat().st_size for name in artifact.manifest.files if name.startswith("model.onnx")
    )
    nodes = len(program.nodes)
    return row | {
        "quantized weights": count,
        "file, bytes": size,
        "bound, bytes": round(bound),
        "beyond, bytes": round(size - bound),
        "beyond, %": 100 * (size / bound - 1),
        "program nodes": nodes,
        "sqnr, dB": artifact.report.sqnr_db,
    }


def large(gib: float) -> dict[str, object]:
    """Linear layers whose weights are made one at a time, written, loaded and run once."""
    layers = math.ceil(gib * _GIB / (4 * _WIDTH * _WIDTH))
    program = Program("large", stage=Stage.CANONICAL)
    program.dimensions.add("rows", Symbol(1))
    x = program.add_input("x", TensorType(torch.float32, (symbol_expr("rows"), _WIDTH)))
    builder = program.append()
    for place in range(layers):
        weight = builder.param(f"layer{place}", Fill("zeros"), TensorType(torch.float32, (_WIDTH, _WIDTH)))
        x = builder.call("aten.linear", x, weight)
    program.set_outputs([x])
    program.signature = Signature.flat(1, 1)
    with tempfile.TemporaryDirectory() as folder:
        path, started = Path(folder) / "model.onnx", time.perf_counter()
        save_model(write_model(program), path)
        written, peak = time.perf_counter(), _peak()
        data = path.with_name("model.onnx.data").stat().st_size
        session = open_session(path, threads=1)
        loaded = time.perf_counter()
        (result,) = session.run({"x": torch.ones(1, _WIDTH)})
        ran = time.perf_counter()
        return {
            "weights, GiB": data / _GIB,
            "model, bytes": path.stat().st_size,
            "write, s": written - started,
            "peak memory while writing, GiB": peak,
            "load, s": loaded - written,
            "run, s": ran - loaded,
            "peak memory, GiB": _peak(),
            "result is right": bool((result == 0).all()),
        }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB


def main() -> None:
    """Prints a table and writes one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--formats", default="", help="comma-separated words; only formats that hold one of them")
    parser.add_argument("--large", type=float, default=0.0, help="GiB of weights")
    options = parser.parse_args()
    if options.large:
        rows = [large(options.large)]
        print_table(rows)
        write_results("packed_files_large", rows)
        return
    words = options.formats.split(",")
    rows = []
    for name in options.models.split(","):
        case = MODELS[name]()
        for number in FORMATS:
            if any(word in number for word in words):
                rows.append(weigh(case, number))
                print(rows[-1], flush=True)
    print_table(rows)
    write_results("packed_files", rows, "bound: bits_per_element x elements, all else as float32")


if __name__ == "__main__":
    main()
