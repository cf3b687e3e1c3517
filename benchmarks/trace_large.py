"""What tracing a large model costs: time and peak memory of trace and canonical passes, weights absent or in files.

    python -m benchmarks.trace_large [--only "7B absent"] [--folder /scratch]

Needs `transformers`. Every row is a fresh process. `absent` models have their parameters on the meta device; `files`
models read a bfloat16 checkpoint in two parts, made beforehand in a temporary folder and removed afterwards, `checked`
ones with the exactness of the canonical passes proven on real weights; `memory` loads the checkpoint first, as one does
without the compiler. `torch alone` is torch.export and its decompositions and nothing else.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from benchmarks.common import ROOT, print_table, write_results

Weights = Literal["torch alone", "absent", "files", "checked", "memory"]
Row = dict[str, object]
TOKENS = 16
GIB = 2.0**30


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder.

    Args:
        layers: number of blocks.
        hidden: width of the residual stream.
        mlp: width inside the feed-forward part.
        heads: attention heads.
    """

    layers: int
    hidden: int
    mlp: int
    heads: int


SHAPES = {"7B": Shape(32, 4096, 11008, 32), "1B": Shape(16, 2048, 5632, 32)}
CASES: tuple[tuple[str, Weights], ...] = (
    ("7B", "torch alone"),
    ("7B", "absent"),
    ("1B", "absent"),
    ("1B", "files"),
    ("1B", "checked"),
    ("1B", "memory"),
)


def make(shape: Shape, kind: Literal["skeleton", "meta", "random"]) -> object:
    """A decoder: without weights but with its buffers, all on the meta device, or with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import qcompiler

    config = LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        vocab_size=32000,
        use_cache=False,
    )
    if kind == "random":
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()
    with torch.device("meta") if kind == "meta" else qcompiler.without_weights():
        return LlamaForCausalLM(config).eval()


def write_checkpoint(shape: Shape, folder: Path) -> None:
    """Random bfloat16 weights in two files with an index."""
    import torch
    from safetensors.torch import save_file

    model = make(shape, "skeleton")
    assert isinstance(model, torch.nn.Module)
    generator = torch.Generator().manual_seed(0)
    named = dict(model.named_parameters())
    names = sorted(named)
    weight_map: dict[str, str] = {}
    for number, keys in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        tensors = {key: torch.randn(named[key].shape, generator=generator).mul_(0.02).bfloat16() for key in keys}
        save_file(tensors, folder / file)
        weight_map.update(dict.fromkeys(keys, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def measure(name: str, weights: Weights, folder: str) -> Row:
    """One row, in this process."""
    import torch

    torch.set_num_threads(1)
    shape = SHAPES[name]
    if weights == "torch alone":
        return _torch_alone(shape)
    from qcompiler import trace
    from qcompiler.job import backends
    from qcompiler.passes.canonical import CANONICAL
    from qcompiler.pipeline import Context, Options, run_passes
    from qcompiler.targets import load_target

    model = make(shape, "random" if weights == "memory" else "skeleton")
    ids = torch.zeros(2, TOKENS, dtype=torch.long)
    if weights == "memory":
        _load(model, Path(folder))
    before, cpu, started = _peak(), time.process_time(), time.perf_counter()
    traced = trace(model, {"input_ids": ids}, weights=folder if weights in ("files", "checked") else None)
    between = time.perf_counter()
    options = Options(check="stretch" if weights == "checked" else "off")
    program, _ = run_passes(traced, CANONICAL, Context(load_target("onnxruntime", backends())), options=options)
    done = time.perf_counter()
    row = _row(between - started, done - between, time.process_time() - cpu, before)
    started = time.perf_counter()
    text = str(program)
    return {**row, "text s": time.perf_counter() - started, "text MB": len(text) / 1e6, "nodes": len(program.nodes)}


def _torch_alone(shape: Shape) -> Row:
    import torch
    from torch.export import Dim

    model = make(shape, "meta")
    assert isinstance(model, torch.nn.Module)
    ids = torch.zeros(2, TOKENS, dtype=torch.long, device="meta")
    sizes = {"input_ids": {0: Dim.AUTO, 1: Dim.AUTO}}
    before, cpu, started = _peak(), time.process_time(), time.perf_counter()
    with torch.no_grad():
        torch.export.export(model, (), {"input_ids": ids}, dynamic_shapes=sizes, strict=False).run_decompositions()
    return _row(time.perf_counter() - started, 0.0, time.process_time() - cpu, before)


def _load(model: object, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    assert isinstance(model, torch.nn.Module)
    for part in sorted(folder.glob("*.safetensors")):
        model.load_state_dict(load_file(part), strict=False)


def _row(trace: float, canonical: float, cpu: float, before: float) -> Row:
    return {"trace s": trace, "canonical s": canonical, "CPU s": cpu, "peak GiB": _peak(), "of that before": before}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def run_one(name: str, weights: Weights, folder: str) -> Row:
    """One row, from a process of its own."""
    done = _child(["row", name, weights, folder])
    return {"model": name, "weights": weights, **json.loads(done.splitlines()[-1])}


def _child(arguments: Sequence[str]) -> str:
    command = [sys.executable, "-m", "benchmarks.trace_large", "--child", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout


def child(arguments: Sequence[str]) -> None:
    """What a process of its own does: writes a checkpoint, or measures and prints one row as JSON."""
    if arguments[0] == "write":
        write_checkpoint(SHAPES[arguments[1]], Path(arguments[2]))
        return
    _, name, weights, folder = arguments
    print(json.dumps(measure(name, next(each for _, each in CASES if each == weights), folder)))


def main() -> None:
    """Runs the cases, prints the table and, when nothing was left out, writes `results/trace_large.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="model and weights, such as `7B absent`")
    parser.add_argument("--folder", default=None, help="where the checkpoint (2 GB) may lie for a while")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child)
    if find_spec("transformers") is None:
        sys.exit("this benchmark needs the package transformers: pip install qcompiler[coverage]")
    cases = [case for case in CASES if options.only in ("", " ".join(case))]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if any(weights not in ("torch alone", "absent") for _, weights in cases):
            _child(["write", "1B", folder])
        rows = [run_one(name, weights, folder) for name, weights in cases]
    print_table(rows)
    if not options.only:
        note = "one thread; CPU s of trace and canonical passes; peak of the whole process, imports included"
        print(write_results("trace_large", rows, note))
    return None


if __name__ == "__main__":
    main()
