"""Attention and rotary embeddings with the rearrangements around them as kernel calls, one ONNX operator each.

Formula   merge(attention(heads(q), heads(k), heads(v))), heads: [B, T, H * E] -> [B, H, T, E], merge: back
Shapes    queries [B, L, H * E], keys [B, S, G * E], values [B, S, G * F] -> [B, L, H * F]; H is a multiple of G
Needs     stage lowered; the calls stay in float
Source    ONNX operator set 23; Ainslie et al. 2023, "GQA" (keys and values that groups of heads share)

What it saves is not arithmetic but the transpositions: with four axes the operator is no faster than matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qcompiler.backends.lowering.rotary import rotary_of
from qcompiler.ir.program import Builder, Node, Program
from qcompiler.ir.types import Dim

STEP = "cluster_attention"
ATTENTION = "aten.scaled_dot_product_attention"
ROTARY = "rotary"
HEADS_FORWARD = [0, 2, 1, 3]
_DTYPES = (torch.float32, torch.float16)


@dataclass(frozen=True)
class Operands:
    """What attention reads.

    Args:
        query: [B, H, L, E].
        key: [B, G, S, E].
        value: [B, G, S, F].
        mask: None, or at most four axes that broadcast to [B, H, L, S].
        scale: of the scores, positive.
        is_causal: whether a query sees only keys up to its own position.
    """

    query: Node
    key: Node
    value: Node
    mask: Node | None
    scale: float
    is_causal: bool


def cluster_attention(program: Program) -> int:
    """Rewrites a lowered program in place wherever heads are cut and merged around attention; returns how often."""
    count = 0
    for node in program.nodes:
        operands = operands_of(program, node) if program.op(node) == ATTENTION else None
        result = merged_result(program, node) if operands is not None else None
        if operands is not None and result is not None:
            count += _replace(program, node, operands, result)
    program.erase_dead()
    return count


def operands_of(program: Program, node: Node) -> Operands | None:
    """The operands of attention, repeated heads taken back; None for what the operator cannot say."""
    bound = program.bind(node)
    query, key, value, mask = (bound[name] for name in ("query", "key", "value", "attn_mask"))
    if not isinstance(query, Node) or not isinstance(key, Node) or not isinstance(value, Node):
        return None
    key, value = _grouped(program, key, value)
    scale = bound["scale"]
    if scale is None and isinstance(program.shape(query)[-1], int):
        scale = 1 / math.sqrt(int(program.shape(query)[-1]))
    fits = bound["dropout_p"] == 0 and program.tensor_type(query).dtype in _DTYPES
    if not fits or not isinstance(scale, int | float) or scale <= 0 or not _shapes_fit(program, query, key, value):
        return None
    if isinstance(mask, Node) and not _mask_fits(program, mask, query, key):
        return None
    return Operands(query, key, value, mask if isinstance(mask, Node) else None, float(scale), bool(bound["is_causal"]))


def merged_result(program: Program, node: Node) -> Node | None:
    """The [B, L, H * F] into which the result is merged, when that is all that is read of it."""
    permuted = _only_reader(program, node, "aten.permute")
    if permuted is None or list(program.bind(permuted)["dims"]) != HEADS_FORWARD:  # pyright: ignore[reportArgumentType]
        return None
    merged = _only_reader(program, permuted, "aten.reshape")
    return merged if merged is not None and _is_merge(program.shape(permuted), program.shape(merged)) else None


def merged_operand(program: Program, node: Node) -> Node | None:
    """The [B, T, H * E] that was cut into `node` of [B, H, T, E]."""
    if program.op(node) != "aten.permute" or list(program.bind(node)["dims"]) != HEADS_FORWARD:  # pyright: ignore[reportArgumentType]
        return None
    cut = node.all_input_nodes[0]
    source = _behind(program, cut, "aten.reshape")
    return source if source is not None and _is_merge(program.shape(cut), program.shape(source)) else None


def unrepeated(program: Program, node: Node) -> tuple[Node, int]:
    """A tensor of heads before each was repeated, and how often."""
    added = _behind(program, _behind(program, node, "aten.reshape"), "aten.expand")
    source = _behind(program, added, "aten.unsqueeze")
    if source is None or added is None or program.bind(added)["dim"] != 2:
        return node, 1
    before, after = program.shape(source), program.shape(node)
    kept = len(before) == len(after) == 4 and (before[0], *before[2:]) == (after[0], *after[2:])
    static = kept and isinstance(before[1], int) and isinstance(after[1], int)
    return (source, int(after[1]) // int(before[1])) if static else (node, 1)


def _behind(program: Program, node: Node | None, op: str) -> Node | None:
    """The operand of `node` when that is a call of `op`."""
    return node.all_input_nodes[0] if node is not None and program.op(node) == op else None


def _replace(program: Program, node: Node, operands: Operands, result: Node) -> bool:
    builder = program.before(result, STEP)
    merged = [_merged(program, builder, tensor) for tensor in (operands.query, operands.key, operands.value)]
    if None in merged:
        return False
    attributes = {
        "op": ATTENTION,
        "query_heads": program.shape(operands.query)[1],
        "key_heads": program.shape(operands.key)[1],
        "scale": operands.scale,
        "is_causal": operands.is_causal,
    }
    call = builder.call(
        "qc.kernel",
        "attention",
        *merged,
        operands.mask,
        kwargs=attributes,
        type_=program.type(result),
        name="attention",
    )
    call.meta["origin"] = node.meta["origin"]
    permuted = result.all_input_nodes[0]
    program.replace(result, call)
    program.erase(permuted)
    program.erase(node)
    program.rename(call, node.name)
    return True


def _merged(program: Program, builder: Builder, node: Node) -> Node | None:
    """An operand of attention with its heads side by side, rotary embedding included; None when heads were not cut."""
    rotary = rotary_of(program, node, doubled=True)
    if rotary is None:
        return merged_operand(program, node)
    source = merged_operand(program, rotary.source)
    if source is None:
        return None
    inputs = ("qc.kernel", "rotary", source, rotary.cos, rotary.sin)
    attributes = {"op": ROTARY, "heads": program.shape(node)[1]}
    return builder.call(*inputs, kwargs=attributes, type_=program.type(source), name=f"{node.name}_rotary")


def _grouped(program: Program, key: Node, value: Node) -> tuple[Node, Node]:
    """Keys and values without repetition, when both were repeated alike."""
    (own_key, key_copies), (own_value, value_copies) = unrepeated(program, key), unrepeated(program, value)
    return (own_key, own_value) if key_copies == value_copies else (key, value)


def _shapes_fit(program: Program, query: Node, key: Node, value: Node) -> bool:
    shapes = [program.shape(node) for node in (query, key, value)]
    if any(len(shape) != 4 for shape in shapes):
        return False
    heads = [shape[1] for shape in shapes]
    static = [head for head in heads if isinstance(head, int)]
    same_batch = shapes[0][0] == shapes[1][0] == shapes[2][0]
    return same_batch and len(static) == 3 and static[1] == static[2] and static[0] % static[1] == 0


def _mask_fits(program: Program, mask: Node, query: Node, key: Node) -> bool:
    type_ = program.tensor_type(mask)
    wanted = (*program.shape(query)[:3], program.shape(key)[2])
    known = type_.dtype in (torch.bool, program.tensor_type(query).dtype)
    pairs = zip(reversed(type_.shape), reversed(wanted), strict=False)
    return known and 2 <= type_.rank <= 4 and all(dim in (1, full) for dim, full in pairs)


def _only_reader(program: Program, node: Node, op: str) -> Node | None:
    readers = list(node.users)
    return readers[0] if len(readers) == 1 and program.op(readers[0]) == op else None


def _is_merge(cut: Sequence[Dim], whole: Sequence[Dim]) -> bool:
    """Whether [B, T, H, E] and [B, T, H * E] differ only in their last axes."""
    return (
        len(cut) == 4 and len(whole) == 3 and cut[0] == whole[0] and cut[1] == whole[1] and cut[2] * cut[3] == whole[2]
    )
