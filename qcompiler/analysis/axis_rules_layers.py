"""Labels across operators that contract an axis: layers with weights, norms, products of matrices, attention."""

from __future__ import annotations

from typing import cast

import torch

from qcompiler.analysis import labels as lb
from qcompiler.analysis.axis_rules import Bound, Labels, Rule, Walk
from qcompiler.analysis.relations import REORDERINGS, ROTATIONS, SCALES, Mark, Norm, Rank, World
from qcompiler.analysis.weights import CONVOLUTIONS, TRANSPOSED
from qcompiler.ir.program import Node


def _unknown_weight(walk: Walk, bound: Bound, names: tuple[str, ...]) -> bool:
    return any(isinstance(bound.get(name), Node) and cast(Node, bound[name]).op != "get_attr" for name in names)


def _reads(walk: Walk, node: Node, codes: torch.Tensor, axis: int, groups: int, place: tuple[int, int]) -> None:
    """Notes the weight that contracts an axis: `place` is its axis and the groups on it."""
    relations = walk.relations
    if lb.is_fixed(codes):
        return
    row = relations.row(codes, axis, node)
    relations.reads[node] = row
    relations.close(row.view(groups, -1), 1, "general", node, "read")
    relations.mark(Mark(node, "weight", "reader", row, *place))


def _writes(walk: Walk, node: Node, width: int, groups: int, place: tuple[int, int], bias: object) -> torch.Tensor:
    """New labels of what a weight yields."""
    relations = walk.relations
    row = relations.fresh(width)
    relations.close(row.view(groups, -1), 1, "general", node, "write")
    relations.mark(Mark(node, "weight", "writer", row, *place))
    if bias is not None:
        relations.mark(Mark(node, "bias", "writer", row, 0))
    return row


def linear(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Reads the last axis, writes the last axis."""
    if _unknown_weight(walk, bound, ("weight", "bias")):
        return walk.refuse(node, "its weight is computed")
    codes, shape = walk.labels(bound["input"]), walk.shape(node)
    _reads(walk, node, codes, codes.dim() - 1, 1, (1, 1))
    return lb.along(_writes(walk, node, shape[-1], 1, (0, 1), bound["bias"]), shape, len(shape) - 1)


def convolution(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Reads and writes the channel axis, group by group."""
    if _unknown_weight(walk, bound, ("weight", "bias")):
        return walk.refuse(node, "its weight is computed")
    op = walk.program.op(node)
    codes, shape, groups = walk.labels(bound["input"]), walk.shape(node), cast(int, bound["groups"])
    turned = op in TRANSPOSED
    if not turned and groups == walk.shape(cast(Node, bound["weight"]))[0] == codes.shape[-1 - CONVOLUTIONS[op]] > 1:
        return _depthwise(walk, node, codes, bound)
    axis = len(shape) - 1 - (TRANSPOSED[op] if turned else CONVOLUTIONS[op])
    _reads(walk, node, codes, axis, groups, (0, 1) if turned else (1, groups))
    row = _writes(walk, node, shape[axis], groups, (1, groups) if turned else (0, 1), bound["bias"])
    return lb.along(row, shape, axis)


def _depthwise(walk: Walk, node: Node, codes: torch.Tensor, bound: Bound) -> torch.Tensor:
    """One filter per channel: channels are scaled on both sides, and reordered together with their filters."""
    relations, shape = walk.relations, walk.shape(node)
    axis = len(shape) - 1 - CONVOLUTIONS[walk.program.op(node)]
    found = relations.fresh(shape[axis])
    for name in ("weight", "bias") if bound["bias"] is not None else ("weight",):
        relations.mark(Mark(node, name, "multiplier", found, 0, worlds=World.MATRIX))
        relations.mark(Mark(node, name, "writer", found, 0, worlds=World.SCALE))
    if not lb.is_fixed(codes):
        row = relations.row(codes, axis, node)
        relations.reads[node] = row
        relations.mark(Mark(node, "weight", "reader", row, 1, shape[axis], World.SCALE))
        relations.tie(found, row, node, World.MATRIX)
        relations.restrict(row, ROTATIONS, node, "filters each channel")
    return lb.along(found, shape, axis)


def embedding(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Writes the last axis."""
    shape = walk.shape(node)
    if _unknown_weight(walk, bound, ("weight",)):
        return walk.refuse(node, "its weight is computed")
    return lb.along(_writes(walk, node, shape[-1], 1, (1, 1), None), shape, len(shape) - 1)


def _normalized(walk: Walk, node: Node, codes: torch.Tensor, axis: int, bound: Bound) -> torch.Tensor:
    """New labels of what a norm yields: its gain and shift write their scale, its input their matrix."""
    relations = walk.relations
    row = relations.fresh(codes.shape[axis])
    relations.restrict(codes, SCALES, node, "normalizes, so that only its own gain can be scaled")
    relations.tie(row, lb.core(codes, (axis,)).movedim(axis, -1), node, World.MATRIX)
    relations.mark(Mark(node, "weight", "writer", row, 0, worlds=World.SCALE))
    if bound.get("bias") is not None:
        relations.mark(Mark(node, "bias", "writer", row, 0, worlds=World.SCALE))
    present = [name for name, nothing in (("weight", 1.0), ("bias", 0.0)) if not _is(walk, bound.get(name), nothing)]
    for name in present:
        relations.mark(Mark(node, name, "multiplier", row, 0, worlds=World.MATRIX))
    relations.norms.append(Norm(node, row, bool(present), "bias" in present))
    return row


def _is(walk: Walk, argument: object, number: float) -> bool:
    """Whether an argument is absent or `number` everywhere."""
    value = walk.program.constant(argument)
    return value is None or bool((value == number).all())


def row_norm(walk: Walk, node: Node, bound: Bound) -> Labels:
    """A norm over the last axis keeps every rotation of it, a layer norm those that keep the mean."""
    sizes = cast(list[object], bound["normalized_shape"])
    if len(sizes) != 1 or _unknown_weight(walk, bound, ("weight", "bias")):
        return walk.refuse(node, "normalizes several axes" if len(sizes) != 1 else "its gain is computed")
    codes, shape = walk.labels(bound["input"]), walk.shape(node)
    centred = walk.program.op(node) == "aten.layer_norm"
    rank: Rank = "keeping_mean" if centred else "orthogonal"
    walk.relations.close(codes, len(shape) - 1, rank, node, "layer_norm" if centred else "norm")
    return lb.along(_normalized(walk, node, codes, len(shape) - 1, bound), shape, len(shape) - 1)


def channel_norm(walk: Walk, node: Node, bound: Bound) -> Labels:
    """A norm over space and groups of channels; one channel per group for an instance norm."""
    if _unknown_weight(walk, bound, ("weight", "bias")):
        return walk.refuse(node, "its gain is computed")
    codes, shape = walk.labels(bound["input"]), walk.shape(node)
    groups = cast(int, bound.get("num_groups", shape[1]))
    if not lb.is_fixed(codes):
        row = walk.relations.row(codes, 1, node)
        if groups == shape[1]:
            walk.relations.restrict(row, ROTATIONS, node, "normalizes each channel")
        else:
            walk.relations.close(row.view(groups, -1), 1, "keeping_mean", node, "norm")
    return lb.along(_normalized(walk, node, codes, 1, bound), shape, 1)


def _contracted(walk: Walk, codes: torch.Tensor, node: Node, kind: str = "contract") -> torch.Tensor:
    """Codes [..., width] of an operand whose next to last axis must change alike; its rows are kept apart."""
    relations = walk.relations
    small = lb.core(codes, (codes.dim() - 1,))
    if small.shape[-2] > 1:
        relations.tie(small[..., 1:, :], small[..., :1, :], node)
    if not lb.is_fixed(codes):
        relations.close(small[..., 0, :], codes.dim() - 2, "general", node, kind)
    return codes[..., 0, :] if codes.shape[-2] else lb.fixed((*codes.shape[:-2], codes.shape[-1]))


def _opposed(walk: Walk, first: torch.Tensor, second: torch.Tensor, node: Node) -> None:
    """The two sides of a sum over products: what one gains, the other must lose."""
    walk.relations.tie(first, second if lb.is_fixed(second) else second ^ 1, node)


def attention(walk: Walk, node: Node, bound: Bound) -> Labels:
    """Queries and keys are contracted, values are mixed row by row."""
    shape = walk.shape(node)
    query, key, value = (walk.labels(bound[name]) for name in ("query", "key", "value"))
    if isinstance(bound["attn_mask"], Node):
        walk.relations.freeze(walk.labels(bound["attn_mask"]), node, "masks")
    if bound["enable_gqa"]:
        key, value = _shared_heads(key, shape), _shared_heads(value, shape)
    _opposed(walk, _contracted(walk, query, node), _contracted(walk, key, node), node)
    return _contracted(walk, value, node).unsqueeze(-2).expand(shape)


def _shared_heads(codes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    heads, copies = codes.shape[-3], shape[-3] // codes.shape[-3]
    wide = codes.unsqueeze(-3).expand(*codes.shape[:-2], copies, *codes.shape[-2:])
    return lb.reshape(wide, (*codes.shape[:-3], heads * copies, *codes.shape[-2:]))


def matmul(walk: Walk, node: Node, bound: Bound) -> Labels:
    """A product of two values: over coordinates it opposes them, over what changes alike it passes them through."""
    left, right, shape = walk.labels(bound["self"]), walk.labels(bound["other"]), walk.shape(node)
    if lb.is_fixed(left) and lb.is_fixed(right):
        return lb.fixed(shape)
    if left.dim() < 2 or right.dim() < 2:
        return walk.refuse(node, "a product with a vector")
    if left.dim() - 1 in lb.varying(left) or right.dim() - 2 in lb.varying(right):
        turned = right.transpose(-1, -2)
        _opposed(walk, _contracted(walk, left, node), _contracted(walk, turned, node), node)
        return lb.fixed(shape)
    if lb.is_fixed(left):  # every matrix of a batch mixes its own rows
        return _contracted(walk, right, node).unsqueeze(-2).expand(shape)
    if lb.is_fixed(right):
        return _contracted(walk, left.transpose(-1, -2), node).unsqueeze(-1).expand(shape)
    rows = left[..., 0].unsqueeze(-1)
    columns = right[..., 0, :].unsqueeze(-2)
    for codes in (rows, columns):
        walk.relations.restrict(codes, ROTATIONS | REORDERINGS, node, "a product of values that both change")
    return walk.product(node, rows, columns).expand(shape)


LAYERS: dict[str, Rule] = {
    "aten.linear": linear,
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED), convolution),
    "aten.embedding": embedding,
    "aten.layer_norm": row_norm,
    "aten.rms_norm": row_norm,
    "aten.group_norm": channel_norm,
    "aten.instance_norm": channel_norm,
    "aten.scaled_dot_product_attention": attention,
    "aten.matmul": matmul,
}
"""Operators that contract an axis."""
