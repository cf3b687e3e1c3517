"""Forms of quantization, each compiled, audited and run: 16-bit codes, two activations, FP8, blocks of int4."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto

from qcompiler.backends.onnx.kernels import kernel_emitters
from qcompiler.backends.onnx.legalise import legalise_file
from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.onnx.settings import settings_of
from qcompiler.backends.onnx.tensorrt import check_tensorrt
from qcompiler.backends.onnx.writer import save_model, write_model
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Builder, Node, Program
from qcompiler.ir.types import TensorType
from qcompiler.measure import sqnr_db
from qcompiler.passes.allocate import Assign
from qcompiler.passes.calibrate import Calibrate
from qcompiler.passes.lower import ApplyPlan
from qcompiler.passes.solve import Nearest, WeightRanges
from qcompiler.pipeline import Context, Options, run_passes
from qcompiler.target import LayerAudit, Target
from qcompiler.targets import load_target
from tests.onnx_quantized import BACKEND, JETSON, ORT, seeded
from tests.onnx_tools import build, typed

TENSORRT = load_target("tensorrt", {"onnx": BACKEND})
IMAGE, ROWS = typed("s0", 3, 8, 8), typed("s0", 5, 128)
Body = Callable[[Builder, Node], Node]


def layers(b: Builder, x: Node) -> Node:
    """Two linear layers around a float activation."""
    y = b.call("aten.linear", x, b.param("w1", seeded((32, 128), 1)), b.param("b1", seeded((32,), 2)), name="up")
    return b.call("aten.linear", b.call("aten.gelu", y), b.param("w2", seeded((128, 32), 3)), None, name="down")


def images(b: Builder, x: Node) -> Node:
    """A convolution with an activation, and another."""
    ones = [1, 1]
    w1, b1 = b.param("w1", seeded((8, 3, 3, 3), 1)), b.param("b1", seeded((8,), 2))
    y = b.call("aten.relu", b.call("aten.conv2d", x, w1, b1, ones, ones, ones, 1))
    return b.call("aten.conv2d", y, b.param("w2", seeded((4, 8, 3, 3), 3)), None, ones, ones, ones, 1)


def scores(b: Builder, x: Node) -> Node:
    """Rows of an image times themselves, between two convolutions."""
    ones = [1, 1]
    y = b.call("aten.conv2d", x, b.param("w1", seeded((8, 3, 3, 3), 1)), None, ones, ones, ones, 1)
    turned = b.call("aten.permute", y, [0, 1, 3, 2])
    y = b.call("aten.matmul", y, turned, name="product")
    return b.call("aten.conv2d", y, b.param("w2", seeded((4, 8, 3, 3), 3)), None, ones, ones, ones, 1)


def shipped(
    body: Body, type_: TensorType, scheme: str, folder: Path, target: Target = ORT, keep: str = ""
) -> tuple[Program, torch.Tensor, torch.Tensor, list[LayerAudit]]:
    """The lowered program, what it simulates, what its file yields, and the audit."""
    batch = seeded((4, *[int(dim) for dim in type_.shape[1:]]), 11, 1.0)
    passes = [Assign(scheme, keep=keep), ApplyPlan(), Calibrate(), WeightRanges(), Nearest()]
    quantized = run_passes(build(body, type_), passes, Context(target), [[batch]], Options(check="off"))[0]  # pyright: ignore[reportArgumentType]
    lowered = BACKEND.lower(quantized, target)
    BACKEND.emit(lowered, target, folder)
    (found,) = BACKEND.runner(folder)([batch])
    simulated = evaluate(lowered, [batch], kernels=BACKEND.meanings())[0]
    return lowered, simulated, found, list(BACKEND.audit(lowered, target, folder))


def stored_types(folder: Path) -> set[int]:
    return {item.data_type for item in onnx.load(str(folder / "model.onnx")).graph.initializer}


@pytest.mark.parametrize(("body", "type_"), [(layers, ROWS), (images, IMAGE)])
def test_codes_of_sixteen_bits(tmp_path, body, type_):
    lowered, simulated, found, audits = shipped(body, type_, "w8aint16", tmp_path)
    assert sqnr_db(simulated, found) > 60
    assert TensorProto.UINT16 in stored_types(tmp_path)
    assert all(layer.ok for layer in audits), audits
    kernels = {str(node.args[0]) for node in lowered.nodes if lowered.op(node) == "qc.kernel"}
    assert kernels <= {"conv_wide", "linear_wide"}
    assert {"uint16" in layer.requested for layer in audits} == {True}


def test_two_activations_between_codes(tmp_path):
    _, simulated, found, audits = shipped(scores, IMAGE, "w8a8", tmp_path)
    assert torch.equal(simulated, found)
    assert [layer.realised for layer in audits if layer.op == "aten.matmul"] == ["QLinearMatMul"]


def test_eight_bit_floats_for_an_engine(tmp_path):
    _, simulated, found, audits = shipped(layers, ROWS, "fp8", tmp_path, TENSORRT)
    assert sqnr_db(simulated, found) > 40
    assert TensorProto.FLOAT8E4M3FN in stored_types(tmp_path)
    assert audits == []
    assert check_tensorrt(onnx.load(str(tmp_path / "model.onnx")), (8, 9)) == ()


def chain(b: Builder, x: Node) -> Node:
    """Three convolutions, the one in the middle to be kept in float."""
    ones, y = [1, 1], x
    for number, (outer, inner) in enumerate(((8, 3), (8, 8), (4, 8))):
        weight = b.param(f"w{number}", seeded((outer, inner, 3, 3), number + 1))
        y = b.call("aten.conv2d", y, weight, None, ones, ones, ones, 1, name=f"conv{number}")
    return y


def test_what_is_kept_in_float_between_codes_stays_in_float(tmp_path):
    _, simulated, found, audits = shipped(chain, IMAGE, "w8a8", tmp_path, keep="conv1")
    assert [layer.realised for layer in audits] == ["QLinearConv", "Conv", "QLinearConv"]
    assert [layer.requested == "float" for layer in audits] == [False, True, False]
    assert all(layer.ok for layer in audits)
    assert sqnr_db(simulated, found) > 40


def test_a_float_weight_that_is_quantized_in_secret_is_told(tmp_path):
    lowered, _, _, _ = shipped(chain, IMAGE, "w8a8", tmp_path, keep="conv1")
    save_model(
        write_model(lowered, opset=23, kernel_emitters=kernel_emitters(settings_of(ORT))), tmp_path / "model.onnx"
    )
    layers = {layer.name: layer for layer in BACKEND.audit(lowered, ORT, tmp_path)}
    assert (layers["conv1"].requested, layers["conv1"].realised, layers["conv1"].ok) == ("float", "QLinearConv", False)
    assert "one scale" in layers["conv1"].reason


@pytest.mark.parametrize("target", [JETSON, TENSORRT], ids=["jetson", "tensorrt"])
def test_blocks_of_four_bits_for_an_engine(tmp_path, target):
    lowered, simulated, found, _ = shipped(layers, ROWS, "w4a16g64_sym", tmp_path, target)
    assert sqnr_db(simulated, found) > 40
    assert TensorProto.INT4 in stored_types(tmp_path)
    # 32 inputs hold no block: that layer stays in float
    assert [str(node.args[0]) for node in lowered.nodes if lowered.op(node) == "qc.kernel"] == ["linear_weight_only"]


@pytest.mark.parametrize(
    ("body", "type_", "scheme"),
    [
        *((layers, ROWS, scheme) for scheme in ("w8a8", "w8a8_dynamic", "w8aint16", "w4a16g32")),
        *((images, IMAGE, scheme) for scheme in ("w8a8", "w8aint16")),
    ],
)
def test_our_own_files_need_no_mending(tmp_path, body, type_, scheme):
    shipped(body, type_, scheme, tmp_path)
    assert legalise_file(tmp_path / "model.onnx", tmp_path / "mended.onnx") == ()
    open_session(tmp_path / "mended.onnx")
