"""Einsum as permute, reshape and one matrix product per pair of operands."""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim


@dataclass(frozen=True)
class _Operand:
    node: Node
    labels: str


def einsum(ctx: OpContext) -> Result:
    """Einsum without ellipsis and without a label repeated inside one operand; operands are contracted left to right.

    Raises:
        UnsupportedError: for an ellipsis or a diagonal.
    """
    equation = ctx.word("equation").replace(" ", "")
    left, arrow, output = equation.partition("->")
    terms = left.split(",")
    if "." in equation or any(len(set(term)) != len(term) for term in terms):
        raise ctx.refuse(f"the equation '{equation}' has an ellipsis or a diagonal")
    if not arrow:
        letters = "".join(terms)
        output = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    operands = [_Operand(node, term) for node, term in zip(ctx.tensors(), terms, strict=True)]
    result = operands[0]
    for position, other in enumerate(operands[1:], 1):
        later = "".join(operand.labels for operand in operands[position + 1 :]) + output
        result = _contract(ctx, result, other, later)
    return _arrange(ctx, _sum_out(ctx, result, output), output)


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
