"""Norms that arrive in pieces become `rms_norm`, `layer_norm` and `group_norm`, with the weight and bias that follow.

Formula   x * rsqrt(mean(x^2) + eps) is rms_norm(x); (x - mean(x)) * rsqrt(var(x) + eps) is layer_norm(x); also as a
          quotient by the root, with var(x) = mean((x - mean(x))^2) or as one operator; an instance norm of channels
          folded into groups is group_norm(x)
Shapes    x [..., D], the means over the last axes, their sizes known; weight and bias of those axes; for group norms
          x [N, C, ...], weight and bias [C, 1, ...]
Promise   Exact: the same sums in another order
Needs     normalized spelling, common subexpressions merged
Source    Ba et al. 2016 (arXiv:1607.06450); Zhang and Sennrich 2019 (arXiv:1910.07467); Wu and He 2018
          (arXiv:1803.08494)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.canonical.group_norm import channel_affine, group_norm
from qcompiler.passes.canonical.product import operand, plus_number, product_of
from qcompiler.pipeline import Context, Exact, Promise

LAYER_NORM, RMS_NORM = "aten.layer_norm", "aten.rms_norm"


@dataclass(frozen=True)
class Spread:
    """`mean(x^2) + eps` or `var(x) + eps` over the last axes of `x`."""

    x: Node
    axes: tuple[int, ...]
    eps: float
    centered: bool


@dataclass(frozen=True)
class NameNorms:
    """Names decomposed norms and takes their weight and bias in."""

    name: ClassVar[str] = "name_norms"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with norms named."""
        for node in program.nodes:
            if node._erased:
                continue
            named = self.named(program, node)
            if named is not None:
                program.replace(node, named)
        for root in program.nodes:
            if root.users and spread_of(program, operand(program, root, "aten.rsqrt", "aten.sqrt")) is not None:
                reason = "the root of a mean square plus a number, but nothing divides just that value by it"
                ctx.refuse(root, reason, "the sizes of the normalized axes must be known, too", depth=3)
        return program

    def named(self, program: Program, node: Node) -> Node | None:
        """The norm that ends at a node, or that takes the node in as its weight or bias."""
        match program.op(node):
            case "aten.mul.Tensor" | "aten.div.Tensor":
                return self.norm(program, node) or self.weight(program, node)
            case "aten.add.Tensor":
                return self.bias(program, node)
            case "aten.reshape":
                return group_norm(program, node, self.name)
            case _:
                return None

    def norm(self, program: Program, node: Node) -> Node | None:
        """The named norm that a product computes."""
        product = product_of(program, node, depth=1)
        if product.number != 1:
            return None
        roots = [(factor, operand(program, factor, "aten.rsqrt")) for factor in product.factors]
        roots += [(divisor, operand(program, divisor, "aten.sqrt")) for divisor in product.divisors]
        if len(roots) != 2:
            return None
        for root, inside in roots:
            spread = spread_of(program, inside)
            rest = [factor for factor in product.factors if factor is not root]
            if spread is None or len(rest) != 1:
                continue
            source = centered(program, rest[0], spread.axes) if spread.centered else rest[0]
            shape = program.shape(spread.x)[len(program.shape(spread.x)) - len(spread.axes) :]
            if source is not spread.x or not all(isinstance(dim, int) for dim in shape):
                continue
            builder = program.before(node, self.name)
            if spread.centered:
                return builder.call(LAYER_NORM, source, list(shape), None, None, spread.eps, name="layer_norm")
            return builder.call(RMS_NORM, source, list(shape), None, spread.eps, name="rms_norm")
        return None

    def weight(self, program: Program, node: Node) -> Node | None:
        """A norm without weight, times a constant of the normalized shape."""
        if program.op(node) != "aten.mul.Tensor":
            return None
        found = norm_and_constant(program, node)
        if found is None:
            return channel_affine(program, node, self.name)
        if found[0].args[2] is not None:
            return None
        norm, constant = found
        args = [*norm.args[:2], constant, *norm.args[3:]]
        return program.before(node, self.name).call(program.op(norm), *args, name=norm.name)

    def bias(self, program: Program, node: Node) -> Node | None:
        """A layer norm with weight and without bias, plus a constant of the normalized shape."""
        found = norm_and_constant(program, node)
        if found is None:
            return channel_affine(program, node, self.name)
        norm, constant = found
        if program.op(norm) != LAYER_NORM or norm.args[2] is None or norm.args[3] is not None:
            return None
        args = [*norm.args[:3], constant, norm.args[4]]
        return program.before(node, self.name).call(LAYER_NORM, *args, name=norm.name)


def spread_of(program: Program, node: Node | None) -> Spread | None:
    """Recognizes the inside of a norm's root."""
    parts = plus_number(program, node)
    if parts is None:
        return None
    inner, eps = parts
    if program.op(inner) == "aten.var.correction":
        axes = _last_axes(program, inner)
        kept = inner.kwargs.get("keepdim") is True and inner.kwargs.get("correction") == 0
        x = operand(program, inner, "aten.var.correction")
        return Spread(x, axes, eps, centered=True) if kept and axes and x is not None else None
    squares = operand(program, inner, "aten.mean.dim")
    axes = _last_axes(program, inner) if squares is not None and inner.args[2] is True else ()
    base = operand(program, squares, "aten.pow.Tensor_Scalar")
    if not axes or base is None or not isinstance(squares, Node) or squares.args[1] != 2:
        return None
    source = centered(program, base, axes)
    return Spread(base, axes, eps, centered=False) if source is None else Spread(source, axes, eps, centered=True)


def centered(program: Program, node: Node, axes: tuple[int, ...]) -> Node | None:
    """The operand x of `x - mean(x)` over `axes`."""
    if program.op(node) != "aten.sub.Tensor" or not isinstance(node.args[0], Node):
        return None
    mean = node.args[1]
    x = operand(program, mean, "aten.mean.dim")
    if x is None or not isinstance(mean, Node) or mean.args[2] is not True or _last_axes(program, mean) != axes:
        return None
    return x if x is node.args[0] else None


def norm_and_constant(program: Program, node: Node) -> tuple[Node, Node] | None:
    """The operands of a binary operator: a norm that nobody else reads, and a parameter of its normalized shape."""
    norm, constant = node.args[0], node.args[1]
    if not isinstance(norm, Node) or not isinstance(constant, Node) or constant.op != "get_attr":
        return None
    if program.op(norm) not in (LAYER_NORM, RMS_NORM) or len(norm.users) != 1:
        return None
    return (norm, constant) if list(program.shape(constant)) == norm.args[1] else None


def _last_axes(program: Program, node: Node) -> tuple[int, ...]:
    """The axes of a reduction when they are the last ones of its operand; else nothing."""
    source, axes = node.args[0], node.args[1]
    if not isinstance(source, Node) or not isinstance(axes, list | tuple):
        return ()
    rank = program.tensor_type(source).rank
    last = tuple(range(rank - len(axes), rank))
    return last if tuple(axes) == last else ()
