"""What onnxruntime really runs for each node of a file, read back from the graph that it optimized.

The runtime keeps the name of a node through fusion and adds suffixes, so a realised node belongs to the emitted node
with the longest name that its own name starts with; a few fusions keep only the name of their result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto

from qcompiler.backends.onnx.session import open_session

RUNTIME_VERSION: str = onnxruntime.__version__
OWNER_KEY = "qcompiler.node"
INTEGER_PRODUCTS = frozenset(
    {
        "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QAttention", "QGemm",
        "QLinearConv", "QLinearMatMul",
    }
)  # fmt: skip
PACKED_PRODUCTS = frozenset({"GatherBlockQuantized", "MatMulNBits", "QMoE"})
FLOAT_PRODUCTS = frozenset({"Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"})
_PRODUCTS = (
    INTEGER_PRODUCTS | FLOAT_PRODUCTS | {"Attention", "GroupQueryAttention", "MatMulNBits", "MultiHeadAttention"}
)
_COMPUTES = frozenset(
    {
        "AveragePool", "Clip", "Concat", "Gather", "GatherBlockQuantized", "GlobalAveragePool", "MaxPool",
        "NhwcMaxPool",
    }
)  # fmt: skip
_GLUE = frozenset(
    {
        "Cast", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear", "ReorderInput", "ReorderOutput",
        "Reshape", "Transpose",
    }
)  # fmt: skip
_CASTS = frozenset({"Cast", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
_QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_YIELD_REALS = INTEGER_PRODUCTS | PACKED_PRODUCTS | {"Cast", "DequantizeLinear"}
_QGEMM_RESULT = 7
_CODES = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16})


@dataclass(frozen=True)
class Realised:
    """What the runtime made of one node.

    Args:
        kinds: operator types in order.
        level: accuracy level of MatMulNBits, None for all else.
        reads_codes: the operator types that read codes first.
    """

    kinds: tuple[str, ...] = ()
    level: int | None = None
    reads_codes: frozenset[str] = frozenset()

    @property
    def kernel(self) -> str:
        """The operator that does the work, helpers left out; `removed` when nothing is left."""
        # Sizes computed at run time bring a Concat or Gather of their own, so products come first.
        products = [kind for kind in self.kinds if kind in _PRODUCTS]
        heavy = [kind for kind in self.kinds if kind in _COMPUTES]
        rest = [kind for kind in self.kinds if kind not in _GLUE]
        moved = [kind for kind in self.kinds if kind not in _CASTS]
        found = products or heavy or rest or moved or list(self.kinds)
        return found[0] if found else "removed"

    @property
    def main(self) -> str:
        """The kernel, all of them where one node has several products; a weight dequantized at every run shows."""
        products = " + ".join(kind for kind in self.kinds if kind in _PRODUCTS)
        unpacks = self.kernel in FLOAT_PRODUCTS and "DequantizeLinear" in self.kinds
        return f"DequantizeLinear, {products}" if unpacks else products or self.kernel

    @property
    def shown(self) -> str:
        """`main`, with the accuracy level where there is one."""
        return self.main if self.level is None else f"{self.main} accuracy_level={self.level}"

    @property
    def integer(self) -> bool:
        """Whether the kernel computes with codes, or moves them as they are."""
        kernel = self.kernel
        return (
            kernel in INTEGER_PRODUCTS or kernel.startswith("QLinear") or kernel in self.reads_codes - PACKED_PRODUCTS
        )

    def joined(self, node: onnx.NodeProto, reads_codes: bool) -> Realised:
        """With one more operator."""
        level = next((item.i for item in node.attribute if item.name == "accuracy_level"), self.level)
        codes = self.reads_codes | {node.op_type} if reads_codes else self.reads_codes
        return Realised((*self.kinds, node.op_type), level, codes)


# The weights of the optimized graph may be more than fit into one file.
WEIGHTS_BESIDE = {
    "session.optimized_model_external_initializers_file_name": "optimized.data",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}


def optimized_graph(model: Path | bytes, entries: Mapping[str, str] | None = None) -> onnx.GraphProto:
    """The graph that the runtime runs, without large weights.

    Raises:
        InputError: when the runtime refuses the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(model, threads=1, optimized=optimized, entries={**WEIGHTS_BESIDE, **(entries or {})})
        return onnx.load(str(optimized), load_external_data=False).graph


def code_readers(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes whose first input holds codes: they follow a quantizer, or move what one yielded."""
    codes = {item.name for item in graph.initializer if item.data_type in _CODES}
    readers: set[str] = set()
    for node in graph.node:
        reads = bool(node.input) and node.input[0] in codes
        if reads:
            readers.add(node.name)
        if node.op_type in _QUANTIZERS or _yields_codes(node) or (reads and node.op_type not in _YIELD_REALS):
            codes.add(node.output[0])
    return readers


def _yields_codes(node: onnx.NodeProto) -> bool:
    scaled_gemm = node.op_type == "QGemm" and len(node.input) > _QGEMM_RESULT and bool(node.input[_QGEMM_RESULT])
    return node.op_type.startswith("QLinear") or scaled_gemm


def realise(
    emitted: onnx.GraphProto, running: onnx.GraphProto, owner: Callable[[onnx.NodeProto], str]
) -> dict[str, Realised]:
    """What runs, by owner.

    Args:
        emitted: the graph that was given to the runtime.
        running: the graph that it made of that.
        owner: what an emitted node belongs to; empty for nothing that is asked for.
    """
    owners: dict[str, str] = {}
    makers: dict[str, str] = {}
    for node in emitted.node:
        name = owner(node)
        if name:
            owners[node.name] = name
            makers.update(dict.fromkeys(node.output, name))
    readers = code_readers(running)
    found: dict[str, Realised] = {}
    for node in running.node:
        name = owner_of(node, owners, makers)
        if name:
            found[name] = found.get(name, Realised()).joined(node, node.name in readers)
    return found


def owner_of(node: onnx.NodeProto, owners: Mapping[str, str], makers: Mapping[str, str]) -> str:
    """The owner of a realised node; empty when it cannot be told."""
    # A float operator in blocked layout is called after the last result that was fused into it.
    blocked = node.name.removesuffix("_nchwc")
    if blocked != node.name and blocked in makers:
        return makers[blocked]
    for end in range(len(node.name), 0, -1):
        if node.name[:end] in owners:
            return owners[node.name[:end]]
    return next((makers[name] for name in node.output if name in makers), "")


def read_back(model: Path) -> dict[str, Realised]:
    """What runs, by program node, for a file that says in its metadata which node came from where."""
    emitted = onnx.load(str(model), load_external_data=False).graph
    return realise(emitted, optimized_graph(model), _program_node)


def _program_node(node: onnx.NodeProto) -> str:
    return next((prop.value for prop in node.metadata_props if prop.key == OWNER_KEY), "")
