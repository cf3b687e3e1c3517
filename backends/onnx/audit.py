"""Requested format against the kernel that really runs, read back from onnxruntime's own optimized graph.

The runtime keeps the name of a node through fusion and adds suffixes, so a realised node belongs to the emitted node
with the longest name that its own name starts with; a few fusions keep only the name of their result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from qcompiler.backends.onnx.session import open_session
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.plan import Assignment, Decomposition
from qcompiler.spec import QuantSpec
from qcompiler.target import Kernel, LayerAudit, Target

_HEAVY = (
    "aten.conv",
    "aten.linear",
    "aten.matmul",
    "aten.mm",
    "aten.bmm",
    "aten.embedding",
    "aten.scaled_dot_product_attention",
)
_MULTIPLIES = frozenset(
    {
        "Attention", "Conv", "ConvTranspose", "DynamicQuantizeMatMul", "FusedConv", "FusedGemm", "FusedMatMul",
        "Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QGemm", "QLinearConv",
        "QLinearMatMul",
    }
)  # fmt: skip
_COMPUTES = frozenset(
    {
        "AveragePool", "Clip", "Concat", "Gather", "GatherBlockQuantized", "GlobalAveragePool", "MaxPool",
        "NhwcMaxPool",
    }
)  # fmt: skip
UNPACKED_MEND = "a solver that keeps codes, such as gptq, where the target has a kernel for them"
_FLOAT = frozenset({"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
_GLUE = frozenset(
    {
        "Cast", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear", "ReorderInput", "ReorderOutput",
        "Reshape", "Transpose",
    }
)  # fmt: skip
_TRAPS: Mapping[str, tuple[str, str]] = {
    "FusedConv": (
        "the runtime fused the convolution with an activation in float before it looked for integer patterns",
        "quantize the activation's result with zero point 0, or let the kernel absorb it",
    ),
    "Conv": (
        "a convolution becomes an integer one only between quantized input, weight and result",
        "quantize its result too",
    ),
    "Gemm": (
        "a float bias or a missing weight zero point keeps Gemm in float",
        "write the bias as int32 codes and the zero point of the weight",
    ),
    "MatMul": ("the product was not recognised as an integer pattern", "see the notes of the target's kernel rows"),
}


@dataclass(frozen=True)
class Realised:
    """What the runtime made of one program node: operator types in order, domains and attributes left out."""

    kinds: tuple[str, ...] = ()
    level: int | None = None

    @property
    def main(self) -> str:
        """The kernel that does the work, helpers left out; a weight that is dequantized at every run shows."""
        # Sizes computed at run time bring a Concat or Gather of their own, so products come first.
        products = [kind for kind in self.kinds if kind in _MULTIPLIES]
        heavy = [kind for kind in self.kinds if kind in _COMPUTES]
        rest = [kind for kind in self.kinds if kind not in _GLUE]
        found = products or heavy or rest or list(self.kinds)
        shown = found[0] if found else "removed"
        return f"DequantizeLinear, {shown}" if shown in _FLOAT and "DequantizeLinear" in self.kinds else shown


def audit(model: Path, program: Program, target: Target) -> tuple[LayerAudit, ...]:
    """One record for each kernel call, and for each layer with products that stayed in float.

    Args:
        model: the emitted file.
        program: what it was emitted from, at stage lowered.
        target: whose kernel rows say how each kernel shows itself.

    Raises:
        InputError: when the runtime refuses the file.
    """
    realised = read_back(model)
    kernels = {kernel.name: kernel for kernel in target.kernels}
    found: list[LayerAudit] = []
    varying: set[Node] = set(program.inputs)
    for node in program.nodes:
        if varying.isdisjoint(node.all_input_nodes):
            # What only puts a weight together is no layer.
            continue
        varying.add(node)
        kernel = kernels.get(str(node.args[0])) if node.target is ops.kernel else None
        if kernel is not None:
            found.append(_kernel_audit(program, node, kernel, realised.get(node.name, Realised())))
        elif _operator(program, node).startswith(_HEAVY):
            found.append(_float_audit(program, node, _behind(node, realised), target))
    return tuple(found)


def _operator(program: Program, node: Node) -> str:
    """The operator, of a kernel call the one it stands for."""
    return str(node.kwargs["op"]) if node.target is ops.kernel else program.op(node)


def _behind(node: Node, realised: Mapping[str, Realised]) -> Realised:
    """What runs for a float operator; one fused with its successors goes by the name of the last of them."""
    found, seen = realised.get(node.name), node
    while found is None and len(seen.users) == 1:
        seen = next(iter(seen.users))
        found = realised.get(seen.name)
    return found if found is not None and (seen is node or _FLOAT & set(found.kinds)) else Realised()


def read_back(model: Path) -> dict[str, Realised]:
    """What runs, by program node."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(model, threads=1, optimized=optimized)
        running = onnx.load(str(optimized), load_external_data=False).graph
    emitted = onnx.load(str(model), load_external_data=False).graph
    owners, makers = _owners(emitted)
    found: dict[str, Realised] = {}
    for node in running.node:
        owner = _owner_of(node, owners, makers)
        if owner:
            known = found.get(owner, Realised())
            level = next((item.i for item in node.attribute if item.name == "accuracy_level"), known.level)
            found[owner] = Realised((*known.kinds, node.op_type), level)
    return found


def _owners(graph: onnx.GraphProto) -> tuple[dict[str, str], dict[str, str]]:
    """Program node by name of the emitted node, and by name of its results."""
    owners: dict[str, str] = {}
    makers: dict[str, str] = {}
    for node in graph.node:
        owner = next((prop.value for prop in node.metadata_props if prop.key == "qcompiler.node"), "")
        if owner:
            owners[node.name] = owner
            makers.update(dict.fromkeys(node.output, owner))
    return owners, makers


def _owner_of(node: onnx.NodeProto, owners: Mapping[str, str], makers: Mapping[str, str]) -> str:
    # A float operator in blocked layout is called after the last result that was fused into it.
    blocked = node.name.removesuffix("_nchwc")
    if blocked != node.name and blocked in makers:
        return makers[blocked]
    for end in range(len(node.name), 0, -1):
        if node.name[:end] in owners:
            return owners[node.name[:end]]
    return next((makers[name] for name in node.output if name in makers), "")


def _kernel_audit(program: Program, node: Node, kernel: Kernel, realised: Realised) -> LayerAudit:
    assigned = node.meta.get("assignment")
    requested = _requested(assigned) if isinstance(assigned, Assignment) else kernel.name
    shown = realised.main
    ok = any(kind in kernel.realised for kind in realised.kinds)
    if realised.level is not None:
        shown = f"{shown} accuracy_level={realised.level}"
    # A call that moves codes and has left no trace was merged into its neighbours.
    ok = ok or (kernel.carries and not realised.kinds)
    reason, mend = (
        ("", "")
        if ok
        else _TRAPS.get(realised.main.split(", ")[-1], ("the runtime has no such kernel here", kernel.note))
    )
    op = _operator(program, node)
    return LayerAudit(node.name, program.origin(node).module, op, requested, shown, ok, reason, mend)


def _float_audit(program: Program, node: Node, realised: Realised, target: Target) -> LayerAudit:
    op = _operator(program, node)
    parts, asked = node.meta.get("decomposition"), node.meta.get("assignment")
    if isinstance(parts, Decomposition) and isinstance(asked, Assignment):
        where = program.origin(node).module
        return LayerAudit(node.name, where, op, _requested(asked), realised.main, False, parts.reason, UNPACKED_MEND)
    known = any(op in kernel.ops for kernel in target.kernels)
    reason = str(node.meta.get("refusal", "" if known else f"{target.name} has no low-bit kernel for {op}"))
    return LayerAudit(node.name, program.origin(node).module, op, "float", realised.main, True, reason)


def _requested(assigned: Assignment) -> str:
    operands = " x ".join(_brief(spec) for spec in assigned.inputs.values())
    return operands + (f" -> {_brief(assigned.result)}" if assigned.result is not None else "")


def _brief(spec: QuantSpec) -> str:
    words = [spec.format.name, "per", spec.granularity] + (["dynamic"] if spec.dynamic else [])
    return " ".join(words)


def integer_share(audits: Sequence[LayerAudit], prefixes: tuple[str, ...]) -> float:
    """The part of the layers whose operator starts with one of `prefixes` that run as low-bit kernels."""
    layers = list(_of(audits, prefixes))
    return sum(layer.ok and layer.requested != "float" for layer in layers) / max(len(layers), 1)


def _of(audits: Sequence[LayerAudit], prefixes: tuple[str, ...]) -> Iterator[LayerAudit]:
    return (layer for layer in audits if layer.op.startswith(prefixes))
