"""The same model through torch.export and through an ONNX file ends as the same canonical program.

Compared are operators, arguments, types and parameter values along the flow of data, from the results to the inputs;
names of values and of symbols, origins, and the order of independent nodes may differ.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sympy
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zoo.models import digits_cnn, digits_vit
from qcompiler.data import Inputs
from qcompiler.frontends.onnx_import import import_onnx
from qcompiler.frontends.torch_trace import trace_module
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import SymbolType, TensorType, TupleType, symbol_expr
from qcompiler.job import backends
from qcompiler.passes.canonical import CANONICAL
from qcompiler.pipeline import Context, run_passes
from qcompiler.targets import load_target

CLOSE = 1e-6


@dataclass
class Comparison:
    """Walks two programs side by side."""

    left: Program
    right: Program
    symbols: dict[str, str] = field(default_factory=dict)
    paired: dict[Node, Node] = field(default_factory=dict)

    def difference(self) -> str:
        """The first difference in words; empty when there is none."""
        for a, b in zip(self.left.inputs, self.right.inputs, strict=True):
            reason = self.types(a, b)
            if reason:
                return reason
        if len(self.left.outputs) != len(self.right.outputs):
            return f"{len(self.left.outputs)} results, {len(self.right.outputs)} results"
        pairs = zip(self.left.outputs, self.right.outputs, strict=True)
        reason = next((reason for a, b in pairs if (reason := self.nodes(a, b))), "")
        if not reason and len(self.left.nodes) != len(self.right.nodes):
            return f"{len(self.left.nodes)} operators, {len(self.right.nodes)} operators"
        return reason

    def nodes(self, a: Node, b: Node) -> str:
        """Why two values differ; empty when they are the same."""
        if a in self.paired:
            return "" if self.paired[a] is b else f"%{a.name} is shared differently"
        self.paired[a] = b
        if a.op != b.op or self.left.op(a) != self.right.op(b):
            return f"%{a.name} is {self.left.op(a) or a.op}, %{b.name} is {self.right.op(b) or b.op}"
        if a.op == "placeholder":
            return "" if a.target == b.target else f"input {a.target}, input {b.target}"
        if a.op == "get_attr":
            return self.params(a, b)
        reason = self.values(list(a.args), list(b.args)) or self.values(dict(a.kwargs), dict(b.kwargs))
        return f"{reason} < %{a.name}" if reason else self.types(a, b)

    def values(self, a: object, b: object) -> str:
        """Why two arguments differ."""
        if isinstance(a, Node) and isinstance(b, Node):
            return self.nodes(a, b)
        if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
            return next((reason for x, y in zip(a, b, strict=True) if (reason := self.values(x, y))), "")
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            return next((reason for key in a if (reason := self.values(a[key], b[key]))), "")
        if isinstance(a, float) and isinstance(b, int | float):
            return "" if math.isclose(a, b, rel_tol=CLOSE) else f"{a} is not {b}"
        return "" if a == b else f"{a} is not {b}"

    def params(self, a: Node, b: Node) -> str:
        """Why two parameters differ."""
        x, y = self.left.param(a), self.right.param(b)
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"%{a.name} is {x.dtype} {list(x.shape)}, %{b.name} is {y.dtype} {list(y.shape)}"
        return "" if torch.allclose(x, y, rtol=CLOSE, atol=CLOSE) else f"%{a.name} and %{b.name} hold other numbers"

    def types(self, a: Node, b: Node) -> str:
        """Why two types differ, the symbols of one renamed to those of the other as the inputs pair them."""
        x, y = self.left.type(a), self.right.type(b)
        if isinstance(x, TensorType) and isinstance(y, TensorType):
            same = x.dtype == y.dtype and x.rank == y.rank and all(map(self.dims, x.shape, y.shape))
        elif isinstance(x, SymbolType) and isinstance(y, SymbolType):
            same = self.dims(x.expr, y.expr)
        else:
            same = isinstance(x, TupleType) and isinstance(y, TupleType) and len(x.items) == len(y.items)
        return "" if same else f"%{a.name} is {x}, %{b.name} is {y}"

    def dims(self, x: int | sympy.Expr, y: int | sympy.Expr) -> bool:
        """Whether two dimensions are the same; a bare symbol pairs with a bare symbol."""
        if isinstance(x, int) or isinstance(y, int):
            return x == y
        if x.is_Symbol and y.is_Symbol:
            return self.symbols.setdefault(str(x), str(y)) == str(y)
        known = {symbol_expr(a): symbol_expr(b) for a, b in self.symbols.items()}
        return sympy.simplify(x.xreplace(known) - y) == 0


class Convolutions(nn.Module):
    """Norms on both sides, uneven padding, groups, a transposed convolution and global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.first(F.pad(x, (0, 1, 0, 1)))))
        x = F.hardswish(self.depthwise(x)) + x
        x = F.max_pool2d(self.up_norm(self.up(x)), 2)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Activations(nn.Module):
    """Every activation that exporters take apart or leave whole, a linear layer between two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(7))
        self.slope = nn.PReLU(4)

    def forward(self, x: Tensor) -> Tensor:
        functions: list[Callable[[Tensor], Tensor]] = [F.gelu, F.silu, F.mish, F.hardsigmoid, F.elu, F.softplus]
        for layer, function in zip(self.layers, functions, strict=False):
            x = function(layer(x))
        x = self.slope(self.layers[6](x))
        return F.softmax(F.leaky_relu(F.gelu(x, approximate="tanh"), 0.2), dim=-1)


class Norms(nn.Module):
    """Norms as modules and as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LayerNorm(8)
        self.weight = nn.Parameter(torch.ones(8))
        self.bias = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight
        center = x.mean(-1, keepdim=True)
        spread = (x - center).pow(2).mean(-1, keepdim=True)
        return (x - center) / torch.sqrt(spread + 1e-5) * self.weight + self.bias


class Attention(nn.Module):
    """Attention in products, with an additive mask, and a gated layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.gate = nn.Linear(8, 16, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        weights = torch.softmax(q @ k.transpose(-1, -2) / 2.0 + mask, dim=-1)
        x = x + (weights @ v).transpose(1, 2).flatten(2)
        value, gate = self.gate(x).chunk(2, dim=-1)
        return value * torch.sigmoid(gate)


def _randomized(model: nn.Module) -> nn.Module:
    """Parameters that differ from each other and from zero, so that no exporter can share or drop them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return model.eval()


def _encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True, norm_first=True)


MODELS: Mapping[str, tuple[Callable[[], nn.Module], Sequence[Tensor]]] = {
    "convolutions": (Convolutions, [torch.rand(2, 3, 9, 9)]),
    "activations": (Activations, [torch.rand(2, 4)]),
    "norms": (Norms, [torch.rand(2, 4, 8)]),
    "attention": (Attention, [torch.rand(2, 5, 8), torch.rand(2, 1, 5, 5)]),
    "encoder": (_encoder, [torch.rand(2, 5, 16)]),
}


def _canonical(program: Program) -> Program:
    return run_passes(program, CANONICAL, Context(load_target("onnxruntime", backends())))[0]


def _both(model: nn.Module, inputs: Sequence[Tensor], folder: Path) -> Comparison:
    traced = trace_module(model, Inputs(*inputs))
    free = tuple(
        {axis: torch.export.Dim.AUTO for axis, dim in enumerate(traced.shape(node)) if not isinstance(dim, int)}
        for node in traced.inputs
    )
    path = folder / "model.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, tuple(inputs), path, dynamo=True, verbose=False, dynamic_shapes=free)
    return Comparison(_canonical(traced), _canonical(import_onnx(path)))


@pytest.mark.parametrize("name", MODELS)
def test_models_agree(name: str, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    compared = _both(_randomized(make()), inputs, tmp_path)
    assert compared.difference() == "", f"{compared.left}\n{compared.right}"


@pytest.mark.parametrize("make", [digits_cnn, digits_vit])
def test_zoo_models_agree(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    compared = _both(make(), [torch.rand(2, 1, 8, 8)], tmp_path)
    assert compared.difference() == "", f"{compared.left}\n{compared.right}"


def test_a_difference_is_found(tmp_path: Path) -> None:
    first = _canonical(trace_module(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), Inputs(torch.rand(2, 4))))
    second = _canonical(trace_module(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), Inputs(torch.rand(2, 4))))
    assert "aten.relu" in Comparison(first, second).difference()
    assert (
        "other numbers"
        in Comparison(
            first, _canonical(trace_module(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), Inputs(torch.rand(2, 4))))
        ).difference()
    )
