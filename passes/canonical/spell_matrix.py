"""Spelling rules for matrix products: `linear` when the right operand is constant, else `matmul`."""

from __future__ import annotations

from qcompiler.ir.program import Node
from qcompiler.passes.canonical.site import Result, Rule, Site, is_constant


def _is_weight(site: Site, node: Node) -> bool:
    return site.rank(node) == 2 and is_constant(node)


def _rows(site: Site, weight: Node) -> Node:
    """A constant `[in, out]` matrix as `[out, in]`; an existing transposition is undone instead of doubled."""
    if site.program.op(weight) == "aten.permute" and weight.args[1] == [1, 0] and isinstance(weight.args[0], Node):
        return weight.args[0]
    return site.call("aten.permute", weight, [1, 0])


def _product(site: Site, left: Node, right: Node, bias: Node | None = None) -> Node:
    if _is_weight(site, right) and site.rank(left) >= 1:
        return site.call("aten.linear", left, _rows(site, right), bias)
    return site.call("aten.matmul", left, right)


def product(left: str, right: str) -> Rule:
    """A plain product of two arguments."""

    def rule(site: Site) -> Result:
        right_node = site.tensor(right)
        if site.program.op(site.node) == "aten.matmul" and not _is_weight(site, right_node):
            return None
        return _product(site, site.tensor(left), right_node)

    return rule


def added_product(left: str, right: str) -> Rule:
    """`beta * self + alpha * (left @ right)`; a constant row becomes the bias of a linear layer."""

    def rule(site: Site) -> Result:
        bias, first, second = site.tensor("self"), site.tensor(left), site.tensor(right)
        alpha, beta = site.arguments["alpha"], site.arguments["beta"]
        row = site.rank(bias) == 1 and is_constant(bias)
        row = row and site.shape(bias) == site.shape(second)[-1:]
        if alpha == beta == 1 and row and _is_weight(site, second):
            return _product(site, first, second, bias)
        result = _product(site, first, second)
        if alpha != 1:
            result = site.call("aten.mul.Tensor", result, alpha)
        return result if beta == 0 else site.call("aten.add.Tensor", result, bias, kwargs={"alpha": beta})

    return rule


def linear(site: Site) -> Result:
    """A linear layer whose bias is computed at run time, as one without and a sum."""
    bias = site.optional("bias")
    if bias is None or is_constant(bias):
        return None
    return site.call(
        "aten.add.Tensor", site.call("aten.linear", site.tensor("input"), site.tensor("weight"), None), bias
    )


MATRIX: dict[str, Rule] = {
    "aten.linear": linear,
    "aten.mm": product("self", "mat2"),
    "aten.bmm": product("self", "mat2"),
    "aten.mv": product("self", "vec"),
    "aten.matmul": product("self", "other"),
    "aten.addmm": added_product("mat1", "mat2"),
    "aten.baddbmm": added_product("batch1", "batch2"),
}
