"""Attention becomes its matrix products and a softmax, for targets that run these from codes to codes.

Formula   attention(q, k, v, scale=a) = matmul(softmax(matmul(q a, k^T)), v)
Shapes    q [..., L, E], k [..., S, E], v [..., S, F] -> [..., L, F]
Promise   Exact: the same products; the scale is applied to the queries
Needs     no mask, every query head with keys of its own; others stay whole
Source    Vaswani et al. 2017 (arXiv:1706.03762); `name_attention` is the way back
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Node, Program, Stage
from qcompiler.pipeline import Context, Exact, Promise


@dataclass(frozen=True)
class SplitAttention:
    """Splits attention without a mask; `ctx.log` hears why others stay whole."""

    name: ClassVar[str] = "split_attention"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program without the attention that can be split."""
        for node in program.nodes:
            if program.op(node) != "aten.scaled_dot_product_attention":
                continue
            obstacle = obstacle_of(program, node)
            if obstacle:
                ctx.refuse(node, obstacle, depth=1)
                ctx.log(f"%{node.name} stays whole: {obstacle}")
            else:
                self.rewrite(program, node)
        program.erase_dead()
        return program

    def rewrite(self, program: Program, node: Node) -> None:
        """Puts products and a softmax in the place of one attention."""
        bound, builder = program.bind(node), program.before(node, self.name)
        query, key, value = node.args[:3]
        depth, rank = program.shape(node.all_input_nodes[0])[-1], program.tensor_type(node).rank
        given = bound.get("scale")
        scale = float(given) if isinstance(given, int | float) else 1 / math.sqrt(int(depth))
        axes = [*range(rank - 2), rank - 1, rank - 2]
        scaled = builder.call("aten.mul.Tensor", query, scale, name=f"{node.name}_query")
        turned = builder.call("aten.permute", key, axes, name=f"{node.name}_key")
        scores = builder.call("aten.matmul", scaled, turned, name=f"{node.name}_scores")
        parts = builder.call("aten.softmax.int", scores, rank - 1, name=f"{node.name}_parts")
        program.replace(node, builder.call("aten.matmul", parts, value, name=f"{node.name}_mixed"))


def obstacle_of(program: Program, node: Node) -> str:
    """Why an attention cannot be split; empty when it can."""
    bound = program.bind(node)
    if bound.get("attn_mask") is not None or bound.get("is_causal"):
        return "it has a mask"
    if bound.get("dropout_p"):
        return "it drops scores"
    query, key = (program.shape(each) for each in node.args[:2] if isinstance(each, Node))
    if len(query) != len(key) or query[:-2] != key[:-2]:
        return "query heads share keys"
    return "" if isinstance(query[-1], int) else "the depth of its queries is not known"
