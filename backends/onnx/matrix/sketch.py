"""Small ONNX graphs with explicit quantization, written by hand: what the matrix of patterns is made of.

Numbers are called as in ONNX: `u8`, `s8`, `u16`, `s16`, `u4`, `s4`, `u2`, `s2`, `f8` (float8e4m3fn), `f32`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from qcompiler.backends.onnx.names import MICROSOFT

TYPES: Mapping[str, int] = {
    "u8": TensorProto.UINT8, "s8": TensorProto.INT8, "u16": TensorProto.UINT16, "s16": TensorProto.INT16,
    "u4": TensorProto.UINT4, "s4": TensorProto.INT4, "u2": TensorProto.UINT2, "s2": TensorProto.INT2,
    "f8": TensorProto.FLOAT8E4M3FN, "s32": TensorProto.INT32, "f32": TensorProto.FLOAT,
}  # fmt: skip
_ZEROS = {"u8": 128, "u16": 32768, "u4": 8, "u2": 2}


@dataclass
class Sketch:
    """A graph under construction.

    Args:
        opset: version of the standard operator set.
        nodes: so far.
        initializers: so far.
        inputs: so far.
    """

    opset: int = 21
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def input(self, shape: Sequence[int | str]) -> str:
        """A float32 input."""
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return name

    def constant(self, values: np.ndarray, number: str = "f32") -> str:
        """An initializer of element type `number`; values are rounded to it."""
        name = f"c{len(self.initializers)}"
        kind = TYPES[number]
        if number == "f8":
            raw = values.astype(ml_dtypes.float8_e4m3fn).tobytes()
            made = helper.make_tensor(name, kind, values.shape, raw, raw=True)
        else:
            made = helper.make_tensor(name, kind, values.shape, values.astype(_carrier(number)).reshape(-1).tolist())
        self.initializers.append(made)
        return name

    def ints(self, values: Sequence[int]) -> str:
        """An int64 vector."""
        name = f"c{len(self.initializers)}"
        self.initializers.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], list(values)))
        return name

    def op(
        self, kind: str, inputs: Sequence[str], attributes: Mapping[str, object] | None = None, *, domain: str = ""
    ) -> str:
        """A node with one result; an empty name stands for an input that is left out."""
        return self.ops(kind, inputs, 1, attributes, domain=domain)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[str],
        results: int,
        attributes: Mapping[str, object] | None = None,
        *,
        domain: str = "",
    ) -> list[str]:
        """A node with several results."""
        number = len(self.nodes)
        outputs = [f"v{number}.{i}" for i in range(results)]
        node = helper.make_node(kind, list(inputs), outputs, name=f"n{number}@", domain=domain, **(attributes or {}))  # pyright: ignore[reportArgumentType]
        self.nodes.append(node)
        return outputs

    def grid(self, number: str, *, scale: float = 0.02, zero: int | None = None) -> tuple[str, str]:
        """Scale and zero point of a whole tensor; unsigned numbers have theirs in the middle."""
        point = _ZEROS.get(number, 0) if zero is None else zero
        return self.constant(np.array(scale)), self.constant(np.array(point), number)

    def quantize(self, x: str, grid: tuple[str, str]) -> str:
        """QuantizeLinear."""
        return self.op("QuantizeLinear", [x, *grid])

    def dequantize(self, codes: str, grid: tuple[str, str]) -> str:
        """DequantizeLinear."""
        return self.op("DequantizeLinear", [codes, *grid])

    def pair(self, x: str, number: str, *, zero: int | None = None) -> str:
        """Quantized and dequantized at once; float is left as it is."""
        if number == "f32":
            return x
        grid = self.grid(number, zero=zero)
        return self.dequantize(self.quantize(x, grid), grid)

    def model(self, results: Sequence[str]) -> onnx.ModelProto:
        """The whole as a model."""
        outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in results]
        for output in outputs:
            output.ClearField("type")
        graph = helper.make_graph(self.nodes, "pattern", self.inputs, outputs, self.initializers)
        sets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        version = helper.find_min_ir_version_for([sets[0]])
        return helper.make_model(graph, opset_imports=sets, ir_version=version)


def codes(shape: Sequence[int], number: str) -> np.ndarray:
    """Codes that use most of a number's range, the same at every call."""
    generator = np.random.default_rng(0)
    if number == "f8":
        return generator.standard_normal(tuple(shape)).astype(np.float32)
    bits = int(number[1:])
    half = 1 << (bits - 1)
    low, high = (1 - half, half - 1) if number[0] == "s" else (0, 2 * half - 1)
    return generator.integers(low, high, tuple(shape), endpoint=True)


def middle(number: str) -> int:
    """The code of zero of a weight of this type."""
    return _ZEROS.get(number, 0)


def _carrier(number: str) -> type[np.generic]:
    return np.float32 if number == "f32" else np.int64
