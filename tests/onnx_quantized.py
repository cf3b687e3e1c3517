"""Small quantized programs, lowered for ONNX: what the tests of the backend share."""

from __future__ import annotations

import torch

from qcompiler.backends.onnx.backend import OnnxBackend
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Builder, Node, Program
from qcompiler.passes.allocate import Assign
from qcompiler.passes.calibrate import Calibrate
from qcompiler.passes.lower import ApplyPlan
from qcompiler.passes.solve import Nearest, WeightRanges
from qcompiler.pipeline import Context, Options, run_passes
from qcompiler.target import Target
from qcompiler.targets import load_target
from tests.onnx_tools import build, typed

BACKEND = OnnxBackend()
ORT = load_target("onnxruntime", {"onnx": BACKEND})
JETSON = load_target("jetson", {"onnx": BACKEND})
IMAGE, ROWS = typed("s0", 3, 8, 8), typed("s0", 5, 24)


def seeded(shape: tuple[int, ...], seed: int, scale: float = 0.3) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def residual(b: Builder, x: Node) -> Node:
    """Convolutions with relu and relu6, a residual add, pools and a classifier."""
    ones = [1, 1]
    y = b.call(
        "aten.conv2d", x, b.param("w1", seeded((8, 3, 3, 3), 1)), b.param("b1", seeded((8,), 2)), ones, ones, ones, 1
    )
    y = b.call("aten.relu", y, name="first")
    z = b.call(
        "aten.conv2d", y, b.param("w2", seeded((8, 8, 3, 3), 3)), b.param("b2", seeded((8,), 4)), ones, ones, ones, 1
    )
    y = b.call("aten.relu", b.call("aten.add.Tensor", y, z))
    y = b.call("aten.max_pool2d", y, [2, 2], [2, 2], [0, 0], ones, False)
    y = b.call("aten.conv2d", y, b.param("w3", seeded((8, 1, 3, 3), 5)), None, ones, ones, ones, 8)
    y = b.call("aten.reshape", b.call("aten.mean.dim", b.call("aten.clamp", y, 0.0, 0.5), [2, 3], True), [-1, 8])
    return b.call("aten.linear", y, b.param("w4", seeded((5, 8), 6)), b.param("b4", seeded((5,), 7)))


def block(b: Builder, x: Node) -> Node:
    """Two linear layers around a float activation, and a residual add."""
    y = b.call("aten.linear", x, b.param("w1", seeded((32, 24), 1)), b.param("b1", seeded((32,), 2)), name="up")
    y = b.call("aten.linear", b.call("aten.gelu", y), b.param("w2", seeded((24, 32), 3)), None, name="down")
    return b.call("aten.add.Tensor", x, y)


def quantize(program: Program, batch: torch.Tensor, scheme: str = "w8a8", target: Target = ORT) -> Program:
    passes = [Assign(scheme), ApplyPlan(), Calibrate(), WeightRanges(), Nearest()]
    return run_passes(program, passes, Context(target), [[batch]], Options(check="off"))[0]


def ready(body: object, target: Target = ORT, scheme: str = "w8a8") -> tuple[Program, Program, torch.Tensor]:
    """Quantized and lowered program, and a batch."""
    type_ = IMAGE if body is residual else ROWS
    program = build(body, type_)  # pyright: ignore[reportArgumentType]
    batch = seeded((4, *[int(dim) for dim in type_.shape[1:]]), 11, 1.0)
    quantized = quantize(program, batch, scheme, target)
    return quantized, BACKEND.lower(quantized, target), batch


def simulate(lowered: Program, batch: torch.Tensor) -> torch.Tensor:
    return evaluate(lowered, [batch], kernels=BACKEND.meanings())[0]
