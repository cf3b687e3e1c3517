"""Attention written as matrix products becomes `scaled_dot_product_attention`.

Formula   matmul(softmax(matmul(q a, (k b)^T) c + mask), v) = attention(q, k, v, mask, scale=a b c)
Shapes    q [..., L, E], k [..., S, E], v [..., S, F] with equal leading axes; mask broadcast to [..., L, S]
Promise   Exact: the same products, the scale applied at one place; a query that no key is shown to, whose softmax is
          not a number, gets zeros
Needs     normalized spelling, softmax named
Source    Vaswani et al. 2017 (arXiv:1706.03762)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from qcompiler.errors import VerifyError
from qcompiler.ir.pattern import Any, Match, Refusal, match, number_of, op
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.canonical.product import product_of
from qcompiler.pipeline import Context, Exact, Promise

WEIGHTED = op("aten.matmul", op("aten.softmax.int", Any("scores"), Any("axis")), Any("value"))
_LOWEST = float("-inf")


@dataclass(frozen=True)
class Scores:
    """`matmul(query, key_transposed) * scale + mask`; an inverted mask is true where keys are hidden."""

    query: Node
    key_transposed: Node
    scale: float
    mask: Node | None
    inverted: bool = False


@dataclass(frozen=True)
class NameAttention:
    """Names attention where the shapes prove it; `ctx.log` hears why the others were refused."""

    name: ClassVar[str] = "name_attention"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with attention named."""
        for node in program.nodes:
            found = None if node._erased else match(WEIGHTED, program, node)
            if not isinstance(found, Match):
                if found is not None and found.depth > 1:
                    ctx.refuse(node, found.reason, depth=found.depth)
                continue
            reason = self.rewrite(program, found)
            if isinstance(reason, Refusal):
                ctx.refuse(found.root, reason.reason, depth=len(found.nodes))
                ctx.log(f"%{node.name} is not named attention: {reason.reason}")
        return program

    def rewrite(self, program: Program, found: Match) -> Refusal | None:
        """Replaces one match, or says why not."""
        scores, value = found.node("scores"), found.captured["value"]
        rank = program.tensor_type(scores).rank
        if found.captured["axis"] != rank - 1:
            return Refusal("the softmax runs over another axis than the keys", found.root.name)
        parts = scores_of(program, scores)
        if isinstance(parts, Refusal):
            return parts
        refusal = check_shapes(program, parts, value)
        if refusal is not None or not isinstance(value, Node):
            return refusal
        key = transposed_back(program, parts.key_transposed, self.name)
        if key is None:
            return Refusal(f"%{parts.key_transposed.name} is no transposed key", parts.key_transposed.name)
        builder, mask = program.before(found.root, self.name), parts.mask
        if parts.inverted:
            mask = builder.call("aten.logical_not", mask, name="mask")
        new = builder.call(
            "aten.scaled_dot_product_attention",
            *(parts.query, key[0], value, mask, 0.0, False),
            kwargs={"scale": parts.scale * key[1]},
            name="attention",
        )
        program.replace(found.root, new)
        return None


def scores_of(program: Program, node: Node) -> Scores | Refusal:
    """Takes the argument of the softmax apart."""
    mask: Node | None = None
    inverted = False
    if program.op(node) == "aten.where.self":
        chosen = _chosen(program, node)
        if chosen is None:
            return Refusal("no branch of the mask is minus infinity", node.name)
        mask, node, inverted = chosen
    product = _scaled_matmul(program, node)
    if product is None and mask is None and program.op(node) == "aten.add.Tensor":
        for scores, addend in ((node.args[0], node.args[1]), (node.args[1], node.args[0])):
            if isinstance(scores, Node) and isinstance(addend, Node) and product is None:
                product = _scaled_matmul(program, scores)
                mask = addend if product is not None else None
    if product is None:
        return Refusal("the softmax is not over a scaled matrix product", node.name)
    matmul, scale = product
    query, left = _unscaled(program, matmul.args[0])
    key, right = _unscaled(program, matmul.args[1])
    return Scores(query, key, scale * left * right, mask, inverted)


def _scaled_matmul(program: Program, node: Node) -> tuple[Node, float] | None:
    found = product_of(program, node)
    alone = len(found.factors) == 1 and not found.divisors and program.op(found.factors[0]) == "aten.matmul"
    return (found.factors[0], found.number) if alone else None


def _unscaled(program: Program, value: object) -> tuple[Node, float]:
    """A tensor without the number that multiplies it; the number may stand behind a transposition."""
    if not isinstance(value, Node):
        raise VerifyError(f"a matrix product takes tensors, not {value}")
    found = product_of(program, value)
    if len(found.factors) == 1 and not found.divisors:
        return found.factors[0], found.number
    return value, 1.0


def _chosen(program: Program, node: Node) -> tuple[Node, Node, bool] | None:
    """Mask and scores of `where(mask, scores, -inf)`, and whether the branches stand the other way round."""
    condition, first, second = node.args[:3]
    for scores, hidden, inverted in ((first, second, False), (second, first, True)):
        if number_of(hidden, program) == _LOWEST and isinstance(condition, Node) and isinstance(scores, Node):
            return condition, scores, inverted
    return None


def transposed_back(program: Program, node: Node, step: str) -> tuple[Node, float] | None:
    """The key behind a transposed key, as a new node in front of it, and the number that multiplies it.

    A transposition is a permute that ends so, or a reshape of its leading axes.
    """
    op = program.op(node)
    source = node.args[0] if op in ("aten.permute", "aten.reshape") else None
    if not isinstance(source, Node):
        return None
    builder, argument = program.before(node, step), node.args[1]
    if op == "aten.permute":
        dims = [int(axis) for axis in argument]  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues, reportOptionalIterable]
        inner, scale = _unscaled(program, source)
        if dims == [*range(len(dims) - 2), len(dims) - 1, len(dims) - 2]:
            return inner, scale
        return builder.call("aten.permute", inner, _swapped(dims), name="key"), scale
    if program.shape(source)[-2:] != program.shape(node)[-2:] or not isinstance(argument, list | tuple):
        return None
    found = transposed_back(program, source, step)
    return None if found is None else (builder.call("aten.reshape", found[0], _swapped(argument), name="key"), found[1])


def _swapped(items: Sequence[object]) -> list[object]:
    return [*items[:-2], items[-1], items[-2]]


def check_shapes(program: Program, parts: Scores, value: object) -> Refusal | None:
    """Whether leading axes agree without broadcasting, and the mask fits."""
    if not isinstance(value, Node):
        return Refusal("the value is no tensor", parts.query.name)
    query, key = program.shape(parts.query), program.shape(parts.key_transposed)
    if not len(query) == len(key) == len(program.shape(value)) or len(query) < 3:
        return Refusal("queries, keys and values differ in rank", parts.query.name)
    if not query[:-2] == key[:-2] == program.shape(value)[:-2]:
        return Refusal("queries, keys and values differ in their leading axes", parts.query.name)
    if parts.mask is None:
        return None
    mask = program.tensor_type(parts.mask)
    wanted = [*query[:-1], key[-1]]
    fits = mask.rank <= len(wanted) and all(
        dim in (1, full) for dim, full in zip(reversed(mask.shape), reversed(wanted), strict=False)
    )
    if not fits or mask.dtype not in (torch.bool, program.tensor_type(parts.query).dtype):
        return Refusal(f"%{parts.mask.name} is not a mask of the scores", parts.mask.name)
    return None
