"""Activations that arrive in pieces become one operator.

Formula   gelu = x/2 (1 + erf(x/sqrt 2)), or x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); silu = x sigmoid(x);
          hardsigmoid = clamp(x + 3, 0, 6)/6 = clamp(x/6 + 1/2, 0, 1); hardswish = x hardsigmoid(x);
          mish = x tanh(softplus(x)); softplus = where(x > t, x, softplus(x));
          softmax = exp(x - max x) / sum exp(x - max x)
Shapes    any
Promise   Exact within 1e-6: constants are accepted when they are right up to their rounding to float32
Needs     normalized spelling, common subexpressions merged
Source    Hendrycks and Gimpel 2016 (arXiv:1606.08415); Ramachandran et al. 2017 (arXiv:1710.05941); Howard et al. 2019
          (arXiv:1905.02244); Misra 2019 (arXiv:1908.08681)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.pattern import number_of
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.canonical.product import Product, near, operand, pairings, plus_number, product_of
from qcompiler.pipeline import Context, Exact, Promise

_PRODUCTS = frozenset({"aten.mul.Tensor", "aten.div.Tensor"})


@dataclass(frozen=True)
class NameActivations:
    """Names decomposed activations."""

    name: ClassVar[str] = "name_activations"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact(1e-6)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with activations named."""
        for node in program.nodes:
            found = recognize(program, node)
            if found is not None:
                op, args, kwargs = found
                name = op.split(".")[1]
                program.replace(node, program.before(node, self.name).call(op, *args, kwargs=kwargs, name=name))
        return program


Call = tuple[str, tuple[object, ...], Mapping[str, object]]


def recognize(program: Program, node: Node) -> Call | None:
    """The named call that `node` computes."""
    op = program.op(node)
    if op == "aten.clamp":
        inner = hard_line(program, node)
        return ("aten.hardsigmoid", (inner,), {}) if inner is not None else None
    if op == "aten.where.self":
        return softplus(program, node)
    if op not in _PRODUCTS:
        return None
    product = product_of(program, node)
    return softmax(program, node) or hard(program, product) or gated(program, product)


def softmax(program: Program, node: Node) -> Call | None:
    """exp(x - max) / sum(exp(x - max)), the maximum over the same axis or left out."""
    above = operand(program, node, "aten.div.Tensor")
    total = node.args[1]
    x = operand(program, above, "aten.exp")
    if x is None or not isinstance(total, Node) or operand(program, total, "aten.sum.dim_IntList") is not above:
        return None
    axes = total.args[1]
    if total.args[2] is not True or not isinstance(axes, list | tuple) or len(axes) != 1:
        return None
    if program.op(x) == "aten.sub.Tensor" and isinstance(x.args[1], Node):
        peak, source = x.args[1], x.args[0]
        if operand(program, peak, "aten.amax") is source and list(peak.args[1:]) == [list(axes), True]:
            x = source
    return "aten.softmax.int", (x, axes[0]), {}


def softplus(program: Program, node: Node) -> Call | None:
    """A softplus whose linear part is chosen by hand above the threshold."""
    condition, large, small = node.args[:3]
    x = operand(program, small, "aten.softplus")
    if x is None or x is not large or not isinstance(small, Node) or not isinstance(condition, Node):
        return None
    beta, threshold = small.args[1:3]
    above = operand(program, condition, "aten.gt.Scalar") is x and condition.args[1] == threshold
    return ("aten.softplus", (x, beta, threshold), {}) if above and beta == 1 else None


def hard(program: Program, product: Product) -> Call | None:
    """hardsigmoid, or hardswish when x multiplies it."""
    if product.divisors or not near(product.number, 1 / 6):
        return None
    if len(product.factors) == 1:
        inner = shifted_clamp(program, product.factors[0])
        return ("aten.hardsigmoid", (inner,), {}) if inner is not None else None
    for x, other in pairings(product.factors):
        if shifted_clamp(program, other) is x:
            return "aten.hardswish", (x,), {}
    return None


def shifted_clamp(program: Program, node: Node) -> Node | None:
    """The operand x of clamp(x + 3, 0, 6)."""
    parts = plus_number(program, operand(program, node, "aten.clamp"))
    bounds = [number_of(bound, program) for bound in node.args[1:3]]
    return parts[0] if parts is not None and parts[1] == 3 and bounds == [0, 6] else None


def hard_line(program: Program, node: Node) -> Node | None:
    """The operand x of clamp(x / 6 + 1/2, 0, 1)."""
    parts = plus_number(program, node.args[0])
    if parts is None or parts[1] != 0.5 or [number_of(bound, program) for bound in node.args[1:3]] != [0, 1]:
        return None
    line = product_of(program, parts[0])
    alone = len(line.factors) == 1 and not line.divisors
    return line.factors[0] if alone and near(line.number, 1 / 6) else None


def gated(program: Program, product: Product) -> Call | None:
    """A value times a gate that depends on that value alone."""
    if product.divisors:
        return None
    for x, gate in pairings(product.factors):
        op = program.op(gate)
        if near(product.number, 0.5) and op == "aten.add.Tensor":
            approximate = gelu_gate(program, x, gate)
            if approximate:
                return "aten.gelu", (x,), {} if approximate == "none" else {"approximate": approximate}
        if product.number != 1:
            continue
        if op == "aten.sigmoid" and gate.args[0] is x:
            return "aten.silu", (x,), {}
        if op == "aten.hardsigmoid" and gate.args[0] is x:
            return "aten.hardswish", (x,), {}
        soft = operand(program, gate, "aten.tanh")
        if operand(program, soft, "aten.softplus") is x and soft is not None and list(soft.args[1:3]) == [1, 20]:
            return "aten.mish", (x,), {}
    return None


def gelu_gate(program: Program, x: Node, gate: Node) -> str:
    """Which gelu has the gate 1 + erf(...) or 1 + tanh(...) over `x`; empty when neither."""
    parts = plus_number(program, gate)
    if parts is None or parts[1] != 1:
        return ""
    inner = operand(program, parts[0], "aten.erf", "aten.tanh")
    if inner is None:
        return ""
    line = product_of(program, inner)
    if line.divisors:
        return ""
    if program.op(parts[0]) == "aten.erf":
        return "none" if line.factors == [x] and near(line.number, math.sqrt(0.5)) else ""
    return "tanh" if near(line.number, math.sqrt(2 / math.pi)) and _is_cubic(program, x, line) else ""


def _is_cubic(program: Program, x: Node, line: Product) -> bool:
    """Whether the factors multiply to x + 0.044715 x^3, or x and 1 + 0.044715 x^2."""
    if len(line.factors) == 1:
        addends = line.factors[0]
        if program.op(addends) != "aten.add.Tensor":
            return False
        terms = [term for term in addends.args if isinstance(term, Node)]
        return any(first is x and _is_power(program, x, second, 3) for first, second in pairings(terms))
    for first, second in pairings(line.factors):
        parts = plus_number(program, second)
        if first is x and parts is not None and parts[1] == 1 and _is_power(program, x, parts[0], 2):
            return True
    return False


def _is_power(program: Program, x: Node, node: Node, degree: int) -> bool:
    """Whether `node` is 0.044715 x^degree, the power as one operator or as products."""
    term = product_of(program, node)
    total = 0.0
    for factor in term.factors:
        if operand(program, factor, "aten.pow.Tensor_Scalar") is x:
            total += number_of(factor.args[1], program) or 0.0
        elif factor is x:
            total += 1
        else:
            return False
    return not term.divisors and total == degree and near(term.number, 0.044715)
