"""Einsum as permute, reshape and one matrix product per pair of operands."""

from __future__ import annotations

import string
from dataclasses import dataclass

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim


@dataclass(frozen=True)
class _Operand:
    node: Node
    labels: str


def einsum(ctx: OpContext) -> Result:
    """Einsum, operands contracted left to right.

    Raises:
        UnsupportedError: for axes under an ellipsis that broadcast.
    """
    nodes = ctx.tensors()
    left, arrow, output = ctx.word("equation").replace(" ", "").partition("->")
    terms = left.split(",")
    letters = "".join(terms).replace(".", "")
    if not arrow:
        output = "..." * ("." in left) + "".join(
            sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        )
    terms, output = _spelled_out(ctx, nodes, terms, output)
    operands = [_diagonal(ctx, _Operand(node, term)) for node, term in zip(nodes, terms, strict=True)]
    result = operands[0]
    for position, other in enumerate(operands[1:], 1):
        later = "".join(operand.labels for operand in operands[position + 1 :]) + output
        result = _contract(ctx, result, other, later)
    return _arrange(ctx, _sum_out(ctx, result, output), output)


def _spelled_out(ctx: OpContext, nodes: list[Node], terms: list[str], output: str) -> tuple[list[str], str]:
    """The terms with a letter for each axis under an ellipsis."""
    free = [letter for letter in string.ascii_letters if letter not in "".join(terms)]
    hidden = [ctx.rank(node) - len(term.replace("...", "")) for node, term in zip(nodes, terms, strict=True)]
    most = max((count for count, term in zip(hidden, terms, strict=True) if "..." in term), default=0)
    seen: dict[str, Dim] = {}
    spelled: list[str] = []
    for node, term, count in zip(nodes, terms, hidden, strict=True):
        word = term.replace("...", "".join(free[most - count : most])) if "..." in term else term
        for letter, dim in zip(word, ctx.shape(node), strict=True):
            if seen.setdefault(letter, dim) != dim and letter in free:
                raise ctx.refuse("axes under an ellipsis that broadcast are not supported")
        spelled.append(word)
    return spelled, output.replace("...", "".join(free[:most]))


def _diagonal(ctx: OpContext, operand: _Operand) -> _Operand:
    """The operand with each repeated label's diagonal taken, one pair of axes at a time."""
    for letter in operand.labels:
        first, second = operand.labels.index(letter), operand.labels.rindex(letter)
        if first != second:
            node = ctx.call("aten.diagonal", operand.node, 0, first, second)
            rest = operand.labels[:first] + operand.labels[first + 1 : second] + operand.labels[second + 1 :]
            return _diagonal(ctx, _Operand(node, rest + letter))
    return operand


def _contract(ctx: OpContext, left: _Operand, right: _Operand, wanted: str) -> _Operand:
    left = _sum_out(ctx, left, wanted + right.labels)
    right = _sum_out(ctx, right, wanted + left.labels)
    shared = [letter for letter in left.labels if letter in right.labels]
    batch = "".join(letter for letter in shared if letter in wanted)
    summed = "".join(letter for letter in shared if letter not in wanted)
    rows = "".join(letter for letter in left.labels if letter not in shared)
    columns = "".join(letter for letter in right.labels if letter not in shared)
    sizes = dict(zip(left.labels, ctx.shape(left.node), strict=True)) | dict(
        zip(right.labels, ctx.shape(right.node), strict=True)
    )

    def grouped(operand: _Operand, first: str, second: str) -> Node:
        arranged = _arrange(ctx, operand, batch + first + second)
        if len(first) == len(second) == 1:
            return arranged
        groups = [[sizes[letter]] for letter in batch] + [
            [sizes[letter] for letter in group] for group in (first, second)
        ]
        return ctx.call("aten.reshape", arranged, [ctx.size(_product(group)) for group in groups])

    product = ctx.call("aten.matmul", grouped(left, rows, summed), grouped(right, summed, columns))
    labels = batch + rows + columns
    if not len(rows) == len(columns) == 1:
        product = ctx.call("aten.reshape", product, [ctx.size(sizes[letter]) for letter in labels])
    return _Operand(product, labels)


def _product(sizes: list[Dim]) -> Dim:
    total: Dim = 1
    for size in sizes:
        total = size * total
    return total


def _sum_out(ctx: OpContext, operand: _Operand, wanted: str) -> _Operand:
    axes = [axis for axis, letter in enumerate(operand.labels) if letter not in wanted]
    if not axes:
        return operand
    node = ctx.call("aten.sum.dim_IntList", operand.node, axes, False)
    return _Operand(node, "".join(letter for letter in operand.labels if letter in wanted))


def _arrange(ctx: OpContext, operand: _Operand, labels: str) -> Node:
    if operand.labels == labels:
        return operand.node
    return ctx.call("aten.permute", operand.node, [operand.labels.index(letter) for letter in labels])
