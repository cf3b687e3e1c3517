"""Requested format against the kernel that really runs, for any ONNX file, whoever wrote it.

What is asked for stands in the file: DequantizeLinear in front of an operator, QuantizeLinear behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, inliner

from qcompiler.backends.onnx.realised import (
    FLOAT_PRODUCTS,
    INTEGER_PRODUCTS,
    PACKED_PRODUCTS,
    Realised,
    optimized_graph,
    realise,
)
from qcompiler.backends.onnx.traps import trap
from qcompiler.errors import InputError
from qcompiler.target import LayerAudit

EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_WRITTEN = (
    INTEGER_PRODUCTS | PACKED_PRODUCTS | {"Attention", "FusedMatMul", "GroupQueryAttention", "MultiHeadAttention"}
)
_JOINING = frozenset(
    {"Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid", "Softmax", "Where"}
)
_BEHIND = frozenset({"Add", "Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})
_NAMES: Mapping[int, str] = {
    TensorProto.UINT8: "uint8", TensorProto.INT8: "int8", TensorProto.UINT16: "uint16", TensorProto.INT16: "int16",
    TensorProto.UINT4: "uint4", TensorProto.INT4: "int4", TensorProto.UINT2: "uint2", TensorProto.INT2: "int2",
    TensorProto.INT32: "int32", TensorProto.FLOAT8E4M3FN: "float8e4m3fn", TensorProto.FLOAT8E5M2: "float8e5m2",
    TensorProto.FLOAT4E2M1: "float4e2m1",
}  # fmt: skip
_FAST_LEVEL = 4


@dataclass(frozen=True)
class Operand:
    """What an operator reads.

    Args:
        number: the number it was dequantized from, or that its codes have; empty for float.
        grain: `tensor`, `channel` or `block`.
        constant: whether it is stored in the file.
        dynamic: whether its scale is found at run time.
    """

    number: str = ""
    grain: str = "tensor"
    constant: bool = False
    dynamic: bool = False

    def __str__(self) -> str:
        return f"{self.number} per {self.grain}{' dynamic' if self.dynamic else ''}" if self.number else "float"


@dataclass(frozen=True)
class Wiring:
    """Who makes and who reads each value of a graph."""

    makers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, Sequence[onnx.NodeProto]]
    stored: Mapping[str, onnx.TensorProto]
    types: Mapping[str, int]

    @staticmethod
    def of(graph: onnx.GraphProto) -> Wiring:
        """Reads a graph."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        makers = {name: node for node in graph.node for name in node.output}
        stored = {item.name: item for item in graph.initializer}
        known = (*graph.value_info, *graph.input, *graph.output)
        types = {item.name: item.type.tensor_type.elem_type for item in known}
        return Wiring(makers, readers, stored, types | {name: item.data_type for name, item in stored.items()})

    def maker(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        """The node behind a value when it is one of `kinds`."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type in kinds else None

    def operand(self, name: str) -> Operand:
        """What a value was dequantized from; transpositions and reshapes in between change nothing."""
        node = self.maker(name, "DequantizeLinear", "Transpose", "Reshape", "Identity")
        while node is not None and node.op_type != "DequantizeLinear":
            node = self.maker(node.input[0], "DequantizeLinear", "Transpose", "Reshape", "Identity")
        if node is None:
            return Operand(constant=name in self.stored)
        return Operand(
            self.number(node), self.grain(node), self.is_stored(node.input[0]), node.input[1] not in self.stored
        )

    def is_stored(self, codes: str) -> bool:
        """Whether codes are in the file, or are those of a stored tensor."""
        quantizer = self.maker(codes, "QuantizeLinear")
        return codes in self.stored or (quantizer is not None and quantizer.input[0] in self.stored)

    def number(self, node: onnx.NodeProto) -> str:
        """The element type of the codes of a QuantizeLinear or DequantizeLinear."""
        if len(node.input) > 2 and node.input[2] in self.types:
            return _NAMES.get(self.types[node.input[2]], "codes")
        if node.op_type == "QuantizeLinear":
            stated = next((item.i for item in node.attribute if item.name == "output_dtype"), TensorProto.UINT8)
            return _NAMES.get(stated or TensorProto.UINT8, "codes")
        quantizer = self.maker(node.input[0], "QuantizeLinear")
        if quantizer is not None:
            return self.number(quantizer)
        if self.maker(node.input[0], "DynamicQuantizeLinear") is not None:
            return "uint8"
        return _NAMES.get(self.types.get(node.input[0], 0), "codes")

    def grain(self, node: onnx.NodeProto) -> str:
        """What shares a scale."""
        if any(item.name == "block_size" and item.i for item in node.attribute):
            return "block"
        scale = self.stored.get(node.input[1])
        return "channel" if scale is not None and len(scale.dims) == 1 and scale.dims[0] > 1 else "tensor"

    def result(self, node: onnx.NodeProto) -> str:
        """The number that the result is quantized to by all who read it, an activation in between included."""
        name = node.output[0]
        while True:
            readers = self.readers.get(name, ())
            if readers and all(reader.op_type == "QuantizeLinear" for reader in readers):
                return self.number(readers[0])
            if len(readers) != 1 or readers[0].op_type not in ("Relu", "Clip"):
                return ""
            name = readers[0].output[0]


def audit_file(path: Path) -> tuple[LayerAudit, ...]:
    """One record for each product and each operator between codes, in the order of the file.

    Nodes inside branches and loops are left out: the runtime does not write down what it makes of them.

    Raises:
        InputError: when the file cannot be read or the runtime refuses it.
    """
    model = numbered(read_model(path))
    external = {EXTERNAL_FOLDER: str(path.parent.resolve())}
    running = optimized_graph(model.SerializeToString(), external)
    realised = realise(model.graph, running, lambda node: node.name)
    wiring = Wiring.of(model.graph)
    return tuple(found for node in model.graph.node if (found := _layer(node, wiring, realised)) is not None)


def read_model(path: Path) -> onnx.ModelProto:
    """A model without its external weights, functions written out.

    Raises:
        InputError: when there is no such file or it is no ONNX model.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot read the ONNX file: {error}", where=str(path)) from error
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        raise InputError("this is no ONNX file", where=str(path)) from error
    return inliner.inline_local_functions(model) if model.functions else model


def numbered(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with node names that are unique and none of which starts another; what was there stays in front."""
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.name or node.op_type}#{number}@"
    return model


def plain_name(name: str) -> str:
    """The name of a node before it was numbered."""
    return name.rpartition("#")[0]


def _layer(node: onnx.NodeProto, wiring: Wiring, realised: Mapping[str, Realised]) -> LayerAudit | None:
    if node.op_type in _WRITTEN or node.op_type.startswith("QLinear"):
        found = realised.get(node.name, Realised())
        return LayerAudit(plain_name(node.name), "", node.op_type, node.op_type, found.shown, True)
    operands = [wiring.operand(name) for name in _data(node)]
    result = wiring.result(node)
    joins = node.op_type in _JOINING and bool(operands) and all(each.number for each in operands) and bool(result)
    table = node.op_type == "Gather" and bool(operands[0].number) and operands[0].constant
    if node.op_type not in PRODUCTS and not joins and not table:
        return None
    if not table and all(operand.constant for operand in operands):
        return None
    found = _behind(node, wiring, realised)
    requested = " x ".join(map(str, operands)) + (f" -> {result}" if result else "")
    if not any(operand.number for operand in operands):
        return LayerAudit(plain_name(node.name), "", node.op_type, "float", found.shown, True)
    problem = _problem(operands, found)
    reason, mend = ("", "") if not problem else trap(node, operands, result, found)
    return LayerAudit(plain_name(node.name), "", node.op_type, requested, found.shown, not problem, reason, mend)


def _data(node: onnx.NodeProto) -> Sequence[str]:
    """Inputs that hold what is computed with: operands, not biases, shapes or rows."""
    if node.op_type in PRODUCTS:
        return node.input[:2]
    if node.op_type == "Where":
        return node.input[1:]
    return node.input if node.op_type in ("Add", "Concat", "Mul") else node.input[:1]


def _problem(operands: Sequence[Operand], found: Realised) -> bool:
    """Whether what runs is not what was asked for."""
    if all(operand.number for operand in operands):
        return not found.integer
    if any(operand.constant and operand.number for operand in operands):
        # Weights alone were asked to be narrow: a kernel that quantizes activations too is not what was asked for.
        return found.kernel not in PACKED_PRODUCTS or found.level == _FAST_LEVEL
    # Float weights: the runtime may have quantized them all the same, in an integer kernel or in front of a float one.
    return found.integer or "DequantizeLinear" in found.kinds


def _behind(node: onnx.NodeProto, wiring: Wiring, realised: Mapping[str, Realised]) -> Realised:
    """What runs for a node; a float one that was fused with its successors goes by the name of the last of them."""
    found, seen = realised.get(node.name), node
    while found is None or (seen is not node and not FLOAT_PRODUCTS & set(found.kinds)):
        readers = wiring.readers.get(seen.output[0], ())
        if len(readers) != 1 or readers[0].op_type not in _BEHIND:
            return realised.get(node.name, Realised())
        seen = readers[0]
        found = realised.get(seen.name)
    return found
