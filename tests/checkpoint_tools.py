"""Small models and hand-packed checkpoints for the tests of other projects' formats."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import qcompiler
from qcompiler.ir.program import Program
from qcompiler.job import backends
from qcompiler.passes.allocate import Assign
from qcompiler.passes.canonical import CANONICAL
from qcompiler.passes.lower import ApplyPlan
from qcompiler.passes.solve import Nearest
from qcompiler.pipeline import Context, Options, Pass, run_passes
from qcompiler.spec import dequantize
from qcompiler.targets import load_target


class Two(nn.Module):
    """Two linear layers, the first with a bias."""

    def __init__(self, columns: int = 64, rows: int = 48, out: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(columns, rows)
        self.second = nn.Linear(rows, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def two(seed: int = 0, columns: int = 64, rows: int = 48, out: int = 32) -> Two:
    """The model with seeded weights, in eval mode."""
    torch.manual_seed(seed)
    return Two(columns, rows, out).eval()


@functools.cache
def canonical_two() -> Program:
    """The seeded model of `two`, traced once for all tests that quantize it in many ways."""
    return _after(qcompiler.trace(two(), (torch.ones(4, 64),)), *CANONICAL)


def quantized_two(assign: Assign) -> Program:
    """The seeded model of `two` after a recipe that needs no data."""
    return _after(canonical_two(), assign, ApplyPlan(), Nearest())


def quantized(model: nn.Module, x: Tensor, assign: Assign) -> Program:
    """Any model after a recipe that needs no data."""
    return _after(qcompiler.trace(model, (x,)), *CANONICAL, assign, ApplyPlan(), Nearest())


def _after(program: Program, *passes: Pass) -> Program:
    context = Context(load_target("simulation", backends()))
    return run_passes(program, passes, context, options=Options(check="off"))[0]


def weight_of(program: Program, name: str) -> Tensor:
    """The real numbers of a weight that a program holds in codes."""
    node = next(node for node in program.nodes if node.name == f"{name.replace('.', '_')}_dq")
    bound = program.bind(node)
    scale = bound["scale"]
    scales = [program.param(item) for item in (scale if isinstance(scale, list | tuple) else [scale])]  # pyright: ignore[reportArgumentType]
    zero = program.constant(bound["zero_point"])
    spec = program.tensor_type(bound["codes"]).spec  # pyright: ignore[reportArgumentType]
    codes = program.param(bound["codes"])  # pyright: ignore[reportArgumentType]
    assert spec is not None
    return dequantize(codes, scales[0] if len(scales) == 1 else tuple(scales), zero, spec)


def write(folder: Path, tensors: dict[str, Tensor], settings: dict[str, object] | None = None) -> Path:
    """A checkpoint folder."""
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    if settings is not None:
        (folder / "config.json").write_text(json.dumps({"quantization_config": settings}))
    return folder
