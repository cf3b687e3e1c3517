"""Requested format against the kernel that really runs, for each layer of a program that was emitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qcompiler.backends.onnx.realised import FLOAT_PRODUCTS, Realised, read_back
from qcompiler.backends.onnx.traps import BY_KERNEL
from qcompiler.backends.onnx.unpack import is_stored
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
# The weight lies packed in the file; the runtime computes it once, before the first call.
UNPACKED = "unpacked at load"
UNPACKED_MEND = "a solver that keeps codes, such as gptq, where the target has a kernel for them"


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
    return found if found is not None and (seen is node or FLOAT_PRODUCTS & set(found.kinds)) else Realised()


def _kernel_audit(program: Program, node: Node, kernel: Kernel, realised: Realised) -> LayerAudit:
    assigned = node.meta.get("assignment")
    requested = _requested(assigned) if isinstance(assigned, Assignment) else kernel.name
    shown = realised.shown
    ok = any(kind in kernel.realised for kind in realised.kinds)
    # A call that moves codes and has left no trace was merged into its neighbours.
    ok = ok or (kernel.carries and not realised.kinds)
    reason, mend = (
        ("", "") if ok else BY_KERNEL.get(realised.kernel, ("the runtime has no such kernel here", kernel.note))
    )
    op = _operator(program, node)
    return LayerAudit(node.name, program.origin(node).module, op, requested, shown, ok, reason, mend)


def _float_audit(program: Program, node: Node, realised: Realised, target: Target) -> LayerAudit:
    op = _operator(program, node)
    parts, asked = node.meta.get("decomposition"), node.meta.get("assignment")
    if isinstance(parts, Decomposition) and isinstance(asked, Assignment):
        where = program.origin(node).module
        return LayerAudit(node.name, where, op, _requested(asked), realised.main, False, parts.reason, UNPACKED_MEND)
    if isinstance(asked, Assignment) and is_stored(asked):
        where = program.origin(node).module
        return LayerAudit(node.name, where, op, _requested(asked), f"{realised.main}, {UNPACKED}", True)
    secret = realised.integer or "DequantizeLinear" in realised.kinds
    if secret and _has_float_weight(program, node):
        reason, mend = BY_KERNEL["secret"]
        where = program.origin(node).module
        return LayerAudit(node.name, where, op, "float", realised.main, False, reason, mend)
    known = any(op in kernel.ops for kernel in target.kernels)
    reason = str(node.meta.get("refusal", "" if known else f"{target.name} has no low-bit kernel for {op}"))
    return LayerAudit(node.name, program.origin(node).module, op, "float", realised.main, True, reason)


def _has_float_weight(program: Program, node: Node) -> bool:
    return any(source.op == "get_attr" and program.tensor_type(source).spec is None for source in node.all_input_nodes)


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
