"""Rotary position embeddings, recognised by what they compute.

Formula   x * cos + turn(x) * sin, turn([low, high]) = [-high, low] along the last axis; `doubled` tables hold one half
          twice
Shapes    x [B, H, T, E], cos and sin [T, E] with axes of size one, or the batch, in front
Source    Su et al. 2021, "RoFormer" (arXiv:2104.09864); ONNX operator set 23
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import torch

from qcompiler.ir.ops import GETITEM
from qcompiler.ir.program import Node, Program

# Operators that keep what the last axis holds: element by element, or on other axes.
_KEEPING = frozenset({"aten.cos", "aten.sin", "aten.unsqueeze", "aten._to_copy", "aten.expand", "aten.slice.Tensor"})


@dataclass(frozen=True)
class Rotary:
    """A turned tensor: what was turned, and the tables."""

    source: Node
    cos: Node
    sin: Node


def rotary_of(program: Program, node: Node, *, doubled: bool) -> Rotary | None:
    """Reads `node` as a rotary embedding; None when it is anything else, or its tables are not `doubled` as asked."""
    if program.op(node) != "aten.add.Tensor" or len(node.all_input_nodes) != 2:
        return None
    for plain, turned in permutations(node.all_input_nodes):
        for source, cos in _factors(program, plain):
            for turn, sin in _factors(program, turned):
                found = Rotary(source, cos, sin)
                if turned_by_halves(program, turn) is source and _tables_fit(program, found, doubled):
                    return found
    return None


def turned_by_halves(program: Program, node: Node) -> Node | None:
    """The x of `[-high, low]`."""
    parts = program.bind(node)["tensors"] if program.op(node) == "aten.cat" else None
    if not isinstance(parts, list | tuple) or len(parts) != 2 or not _on_last_axis(program, node):
        return None
    negated, low = parts
    if not isinstance(negated, Node) or not isinstance(low, Node) or program.op(negated) != "aten.neg":
        return None
    source = half_of(program, low, 0)
    return source if source is not None and half_of(program, negated.all_input_nodes[0], 1) is source else None


def half_of(program: Program, node: Node, which: int) -> Node | None:
    """The x of which `node` is the first (0) or second (1) half along the last axis."""
    if program.op(node) == GETITEM:
        split, index = node.args
        if not isinstance(split, Node) or program.op(split) != "aten.split_with_sizes" or index != which:
            return None
        sizes = program.bind(split)["split_sizes"]
        equal = isinstance(sizes, list | tuple) and len(sizes) == 2 and sizes[0] == sizes[1]
        return split.all_input_nodes[0] if equal and _on_last_axis(program, split) else None
    if program.op(node) != "aten.slice.Tensor" or not _on_last_axis(program, node):
        return None
    source, bound = node.all_input_nodes[0], program.bind(node)
    width, start, end = program.shape(source)[-1], bound["start"] or 0, bound["end"]
    if not isinstance(width, int) or width % 2 or bound["step"] != 1 or not isinstance(start, int):
        return None
    end = min(end, width) if isinstance(end, int) else width
    return source if (start, end) == (which * width // 2, (which + 1) * width // 2) else None


def is_doubled(program: Program, node: Node) -> bool:
    """Whether the last axis certainly holds the same half twice."""
    if node.op == "get_attr":
        low, high = program.param(node).chunk(2, -1)
        return low.shape == high.shape and torch.equal(low, high)
    op = program.op(node)
    if op == "aten.cat":
        parts = program.bind(node)["tensors"]
        same = isinstance(parts, list | tuple) and len(parts) == 2 and parts[0] is parts[1]
        return same and _on_last_axis(program, node)
    if op == "aten.mul.Tensor":
        return isinstance(node.args[1], int | float) and is_doubled(program, node.all_input_nodes[0])
    if op not in _KEEPING or (op in ("aten.slice.Tensor", "aten.unsqueeze") and _on_last_axis(program, node)):
        return False
    source = node.all_input_nodes[0]
    return program.shape(source)[-1:] == program.shape(node)[-1:] and is_doubled(program, source)


def _factors(program: Program, node: Node) -> list[tuple[Node, Node]]:
    """The factors of a product of two tensors, both ways round."""
    if program.op(node) != "aten.mul.Tensor" or len(node.all_input_nodes) != 2:
        return []
    first, second = node.all_input_nodes
    return [(first, second), (second, first)]


def _on_last_axis(program: Program, node: Node) -> bool:
    """Whether the `dim` of an operator is the last axis of its result; of a split, of its operand."""
    dim = program.bind(node)["dim"]
    whole = node if program.op(node) != "aten.split_with_sizes" else node.all_input_nodes[0]
    rank = program.tensor_type(whole).rank
    return isinstance(dim, int) and dim % rank == rank - 1


def _tables_fit(program: Program, found: Rotary, doubled: bool) -> bool:
    type_ = program.tensor_type(found.source)
    if type_.rank != 4:
        return False
    batch, _, length, width = type_.shape
    for table in (found.cos, found.sin):
        seen = program.tensor_type(table)
        leading = seen.shape[:-2]
        placed = leading in ((), (1,), (1, 1), (batch, 1)) and seen.shape[-2:] == (length, width)
        if not placed or seen.dtype != type_.dtype or (doubled and not is_doubled(program, table)):
            return False
    return program.shape(found.cos) == program.shape(found.sin)
