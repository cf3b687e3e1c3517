"""A model, its data, an ONNX file and a program, as command lines name them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qcompiler.cli.app import run

MODULE = """
import dataclasses
import torch


@dataclasses.dataclass
class Size:
    width: int = 8


def build():
    torch.manual_seed(0)
    width = Size().width
    layers = [torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.BatchNorm2d(width), torch.nn.ReLU(), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(width * 16, 4))


def wants(width):
    return torch.nn.Linear(width, width)
"""
TEXT = """program @tiny stage=canonical {
  input %x : f32[2,4]
  param %w : f32[3,4] = normal(seed=1)
  %linear = aten.linear %x, %w, none : f32[2,3]
  %relu = aten.relu %linear : f32[2,3]
  return %relu
}
"""


def make_folder(home: Path) -> Path:
    """Fills a folder with a module, its data, an ONNX file and a program."""
    (home / "net.py").write_text(MODULE)
    (home / "tiny.qir").write_text(TEXT)
    samples = np.random.default_rng(0).normal(size=(16, 1, 4, 4)).astype(np.float32)
    np.savez(home / "samples.npz", input=samples)
    np.savez(home / "one.npz", input=samples[:1])
    write_onnx(home / "net.onnx")
    return home


def compile_line(folder: Path) -> list[str]:
    return ["compile", f"{folder}/net.py:build", "--calibration", f"{folder}/samples.npz"]


def write_onnx(path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(16, 8)).astype(np.float32), "w")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 16), ("y", 8))
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def make_run(folder: Path, *options: str) -> tuple[Path, Path]:
    """Compiles the module; the artefact and the folder of the run."""
    output, kept = folder / "compiled", folder / "run"
    line = [*compile_line(folder), "-o", str(output), "--progress", "none", "--dump-dir", str(kept), *options]
    assert run(line) == 0
    return output, kept
