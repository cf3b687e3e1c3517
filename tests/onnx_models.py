"""What the tests of the ONNX front-end share: small ONNX models, and onnxruntime to run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program

RANDOM = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return (RANDOM.random(shape) + 0.5).astype(np.float32)


def integers(low: int, high: int, *shape: int) -> np.ndarray:
    return RANDOM.integers(low, high, shape, dtype=np.int64)


@dataclass(frozen=True)
class Const:
    """An input that is an initializer."""

    array: np.ndarray


def const(values: object, dtype: type = np.int64) -> Const:
    return Const(np.array(values, dtype=dtype))


def element_type(array: np.ndarray) -> int:
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, np.ndarray],
    outputs: Sequence[str],
    constants: dict[str, np.ndarray],
    opset: int = 21,
    free: Sequence[int] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    declared = []
    example = next(iter(inputs.values()), np.zeros(()))
    for name, array in inputs.items():
        alike = array.ndim == example.ndim
        dims = [
            f"dim{axis}" if axis in free and alike and size == example.shape[axis] else size
            for axis, size in enumerate(array.shape)
        ]
        declared.append(helper.make_tensor_value_info(name, element_type(array), dims))
    untyped = [onnx.ValueInfoProto(name=name) for name in outputs]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "case", declared, untyped, initializers)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains if name)],
    )
    model.ir_version = 10 if opset < 23 else 11
    return onnx.shape_inference.infer_shapes(model)


def reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(result) for result in session.run(None, feeds)]


def results(program: Program, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        return [
            out.numpy() for out in evaluate(program, [torch.from_numpy(feeds[name]) for name in program.input_names])
        ]


def assert_same(program: Program, model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    for expected, actual in zip(reference(model, feeds), results(program, feeds), strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
