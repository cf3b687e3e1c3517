"""Operators that compute every row of an axis from the same row of their operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch.fx.node import Argument

from qcompiler.ir.program import Node, Program

END = 2**63 - 1
HEAVY = frozenset(
    {"aten.linear", "aten.matmul", "aten.scaled_dot_product_attention", "aten.layer_norm", "aten.rms_norm"}
)


@dataclass(frozen=True)
class Pick:
    """Neighbouring rows of an axis.

    Args:
        axis: counted from the front.
        start: first row; counted from the back when negative.
        stop: behind the last row.
        count: how many they are.
    """

    axis: int
    start: int
    stop: int
    count: int


@dataclass(frozen=True)
class Rows:
    """What an operator reads to compute some rows.

    Args:
        operands: the rows of each operand; an operand that is not named is read as it is.
        arguments: the operator's arguments for these rows; operands are still the whole ones.
    """

    operands: Mapping[Node, Pick]
    arguments: tuple[Argument, ...]


Rule = Callable[[Program, Node, Pick], Rows | None]


def pick_of(program: Program, node: Node) -> Pick | None:
    """The rows that a select or slice picks; None for any other node, and where they are not known."""
    op = program.op(node)
    if op not in ("aten.select.int", "aten.slice.Tensor"):
        return None
    bound = program.bind(node)
    axis = bound["dim"] % program.tensor_type(node.all_input_nodes[0]).rank if isinstance(bound["dim"], int) else None
    start, stop = bound.get("index", bound.get("start")), bound.get("end")
    if axis is None or not isinstance(start, int):
        return None
    if op == "aten.select.int":
        return Pick(axis, start, END if start == -1 else start + 1, 1)
    counted = isinstance(stop, int) and 0 <= start < stop < END and bound["step"] == 1
    count = program.shape(node)[axis]
    return Pick(axis, start, int(stop), count) if counted and isinstance(count, int) else None  # pyright: ignore[reportArgumentType]


def _element_wise(program: Program, node: Node, pick: Pick) -> Rows | None:
    """Operands that broadcast along the axis are read as they are."""
    rank, operands = program.tensor_type(node).rank, {}
    for source in node.all_input_nodes:
        shape = program.shape(source)
        axis = pick.axis - (rank - len(shape))
        if axis >= 0 and shape[axis] == program.shape(node)[pick.axis]:
            operands[source] = replace(pick, axis=axis)
    return Rows(operands, node.args)


def _linear(program: Program, node: Node, pick: Pick) -> Rows | None:
    bound = program.bind(node)
    source = bound["input"]
    last = pick.axis == program.tensor_type(node).rank - 1
    return None if last or not isinstance(source, Node) else Rows({source: pick}, node.args)


def _norm(program: Program, node: Node, pick: Pick) -> Rows | None:
    bound = program.bind(node)
    source, shape = bound["input"], bound["normalized_shape"]
    if not isinstance(source, Node) or not isinstance(shape, list | tuple):
        return None
    return Rows({source: pick}, node.args) if pick.axis < program.tensor_type(node).rank - len(shape) else None


def _softmax(program: Program, node: Node, pick: Pick) -> Rows | None:
    dim, rank = program.bind(node)["dim"], program.tensor_type(node).rank
    mixed = not isinstance(dim, int) or dim % rank == pick.axis
    return None if mixed else Rows({node.all_input_nodes[0]: pick}, node.args)


def _matmul(program: Program, node: Node, pick: Pick) -> Rows | None:
    left, right = node.args[:2]
    rank = program.tensor_type(node).rank
    if not isinstance(left, Node) or left is right or pick.axis != rank - 2 or program.tensor_type(left).rank != rank:
        return None
    return Rows({left: pick}, node.args)


def _attention(program: Program, node: Node, pick: Pick) -> Rows | None:
    """Queries are rows; a causal mask depends on their position."""
    bound = program.bind(node)
    query, mask = bound["query"], bound["attn_mask"]
    rank = program.tensor_type(node).rank
    once = query not in (bound["key"], bound["value"])
    if not isinstance(query, Node) or not once or bound["is_causal"] or pick.axis != rank - 2:
        return None
    operands = {query: pick}
    if isinstance(mask, Node) and program.shape(mask)[-2:-1] == program.shape(query)[-2:-1]:
        operands[mask] = replace(pick, axis=program.tensor_type(mask).rank - 2)
    return Rows(operands, node.args)


def _permute(program: Program, node: Node, pick: Pick) -> Rows | None:
    dims = program.bind(node)["dims"]
    axis = dims[pick.axis] if isinstance(dims, list | tuple) else None
    return Rows({node.all_input_nodes[0]: replace(pick, axis=axis)}, node.args) if isinstance(axis, int) else None


def _reshape(program: Program, node: Node, pick: Pick) -> Rows | None:
    """The axis and all in front of it must stay."""
    source, sizes = node.args[0], node.args[1]
    if not isinstance(source, Node) or not isinstance(sizes, list | tuple):
        return None
    if program.shape(source)[: pick.axis + 1] != program.shape(node)[: pick.axis + 1]:
        return None
    fewer = [pick.count if axis == pick.axis else size for axis, size in enumerate(sizes)]
    return Rows({source: pick}, (source, fewer))


_ELEMENT_WISE = (
    *("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "maximum", "minimum", "neg", "relu", "gelu", "silu"),
    *("sigmoid", "tanh", "hardswish", "hardsigmoid", "clamp", "leaky_relu", "elu", "erf", "exp", "pow.Tensor_Scalar"),
)
ROW_WISE: Mapping[str, Rule] = {
    **{f"aten.{name}": _element_wise for name in _ELEMENT_WISE},
    "aten.linear": _linear,
    "aten.layer_norm": _norm,
    "aten.rms_norm": _norm,
    "aten.softmax.int": _softmax,
    "aten.matmul": _matmul,
    "aten.scaled_dot_product_attention": _attention,
    "aten.permute": _permute,
    "aten.reshape": _reshape,
}
