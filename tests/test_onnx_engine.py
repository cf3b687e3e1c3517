"""Explicit quantization for TensorRT: signed codes, zero zero points, nothing between what an engine fuses."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from qcompiler.measure import sqnr_db
from tests.onnx_quantized import BACKEND, JETSON, ready, residual, simulate


def jetson_graph(folder: Path) -> onnx.GraphProto:
    _, lowered, batch = ready(residual, JETSON)
    BACKEND.emit(lowered, JETSON, folder)
    (shipped,) = BACKEND.runner(folder)([batch])
    assert sqnr_db(simulate(lowered, batch), shipped) > 40
    return onnx.load(str(folder / "model.onnx")).graph


def test_jetson_codes_are_signed_with_zero_point_zero(tmp_path):
    graph = jetson_graph(tmp_path)
    types = {item.data_type for item in graph.initializer}
    assert TensorProto.UINT8 not in types
    assert TensorProto.INT32 not in types
    named = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    zeros = [named[node.input[2]] for node in graph.node if node.op_type.endswith("quantizeLinear")]
    zeros += [named[node.input[2]] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert zeros
    assert all((zero == 0).all() for zero in zeros)


def test_jetson_keeps_activations_next_to_their_convolutions(tmp_path):
    graph = jetson_graph(tmp_path)
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    after_conv = [readers[node.output[0]] for node in graph.node if node.op_type == "Conv"]
    assert after_conv == [["Relu"], ["Add"], ["Relu"]]


def test_jetson_quantizes_the_residual_branch_of_an_add_alone(tmp_path):
    graph = jetson_graph(tmp_path)
    makers = {name: node.op_type for node in graph.node for name in node.output}
    (add,) = [node for node in graph.node if node.op_type == "Add"]
    assert [makers[name] for name in add.input] == ["DequantizeLinear", "Conv"]


def test_jetson_is_not_audited_here(tmp_path):
    _, lowered, _ = ready(residual, JETSON)
    BACKEND.emit(lowered, JETSON, tmp_path)
    assert BACKEND.audit(lowered, JETSON, tmp_path) == ()
