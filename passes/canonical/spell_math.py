"""Spelling rules for arithmetic: `.Tensor` forms, numbers and constants on the right, one operator per meaning."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from qcompiler.ir.program import Node
from qcompiler.passes.canonical.site import Number, Result, Rule, Site
from qcompiler.passes.canonical.spell_identity import END, add_zero, times_one

_WITH_NUMBERS = ("eq", "ne", "lt", "le", "gt", "ge", "remainder", "fmod")
_BITWISE = ("and", "or", "xor")
_KINDS = ("Tensor", "Scalar")
_POWERS: Mapping[float, str] = {0.5: "aten.sqrt", -0.5: "aten.rsqrt", -1.0: "aten.reciprocal"}


def _right(site: Site, name: str = "other") -> Node | Number | None:
    """The right operand: a number when it is one, else a tensor, else None."""
    number = site.number(name)
    value = site.arguments[name]
    if number is not None:
        return float(number) if site.dtype(site.node).is_floating_point else number
    return value if isinstance(value, Node) else None


def _constant_first(site: Site) -> bool:
    """Whether the left operand is a parameter and the right one is not."""
    left, right = site.arguments["self"], site.arguments["other"]
    return isinstance(left, Node) and left.op == "get_attr" and isinstance(right, Node) and right.op != "get_attr"


def _spelled(site: Site, op: str, left: Node, right: object) -> Result:
    """The binary call, or None when the node reads like that already (1 is not 1.0 here, so that texts agree)."""
    node = site.node
    same = site.program.op(node) == op and len(node.args) == 2 and not node.kwargs and node.args[0] is left
    if same and (node.args[1] is right or repr(node.args[1]) == repr(right)):
        return None
    return site.call(op, left, right)


def sum_rule(sign: int) -> Rule:
    """`add` and `sub`: alpha folded, a constant on the right of `add`."""

    def rule(site: Site) -> Result:
        if not isinstance(site.arguments["self"], Node):
            return _from_number(site, sign)
        left, right, alpha = site.tensor("self"), _right(site), site.arguments["alpha"]
        if site.dtype(site.node) == torch.bool:
            return on_booleans("aten.logical_or")(site) if sign > 0 else None
        if right is None or not isinstance(alpha, int | float):
            return None
        if alpha != 1:
            right = right * alpha if isinstance(right, int | float) else site.call("aten.mul.Tensor", right, alpha)
        if alpha == 1 and add_zero(site) is not None:
            return left
        op = "aten.add.Tensor" if sign > 0 else "aten.sub.Tensor"
        if alpha == 1 and isinstance(right, Node) and _constant_first(site):
            if sign > 0:
                return site.call(op, right, left)
            number = _number_of_left(site)
            return None if number is None else site.call("aten.add.Tensor", site.call("aten.neg", right), number)
        return _spelled(site, op, left, right)

    return rule


def _from_number(site: Site, sign: int) -> Result:
    """A number plus or minus a tensor."""
    if sign < 0:
        names = ("other", "self", "alpha")
        return site.call("aten.rsub.Scalar", *(site.arguments[name] for name in names))
    scaled = site.call("aten.mul.Tensor", site.tensor("other"), site.arguments["alpha"])
    return site.call("aten.add.Tensor", scaled, site.arguments["self"])


def _number_of_left(site: Site) -> Number | None:
    swapped = Site(site.program, site.node, site.step, {"other": site.arguments["self"]})
    right = _right(swapped)
    return right if isinstance(right, int | float) else None


def rsub(site: Site) -> Result:
    """`other - alpha * self`."""
    x, right, alpha = site.tensor("self"), _right(site), site.arguments["alpha"]
    if right is None:
        return None
    if isinstance(right, Node):
        return site.call("aten.sub.Tensor", right, x, kwargs={"alpha": alpha})
    scaled = site.call("aten.neg", x) if alpha == 1 else site.call("aten.mul.Tensor", x, -alpha)  # pyright: ignore[reportOperatorIssue]
    return site.call("aten.add.Tensor", scaled, right)


def multiply(site: Site) -> Result:
    """`mul`: a constant on the right, a product with itself as a square."""
    if not isinstance(site.arguments["self"], Node):
        return site.call("aten.mul.Tensor", site.tensor("other"), site.arguments["self"])
    if site.dtype(site.node) == torch.bool:
        return on_booleans("aten.logical_and")(site)
    left, right = site.tensor("self"), _right(site)
    if right is None:
        return None
    if isinstance(right, Node) and _constant_first(site):
        return site.call("aten.mul.Tensor", right, left)
    if left is right and site.dtype(left).is_floating_point:
        return site.call("aten.pow.Tensor_Scalar", left, 2)
    return times_one(site) or _spelled(site, "aten.mul.Tensor", left, right)


def divide(site: Site) -> Result:
    """`div` of reals; one divided by x as `reciprocal`."""
    if not isinstance(site.arguments["self"], Node):
        inverse = site.call("aten.reciprocal", site.tensor("other"))
        return site.call("aten.mul.Tensor", inverse, site.arguments["self"])
    left, right = site.tensor("self"), _right(site)
    if right is None:
        return None
    if isinstance(right, Node) and _constant_first(site) and _number_of_left(site) == 1:
        return site.call("aten.reciprocal", right)
    return times_one(site) or _spelled(site, "aten.div.Tensor", left, right)


def divide_mode(site: Site) -> Result:
    """`div` without a rounding mode."""
    right = site.arguments["other"]
    return site.call("aten.div.Tensor", site.tensor("self"), right) if site.arguments["rounding_mode"] is None else None


def scalar_form(op: str) -> Rule:
    """An operator with a constant number on the right as the overload that takes a number."""

    def rule(site: Site) -> Result:
        number = site.number("other")
        return None if number is None else site.call(op, site.tensor("self"), number)

    return rule


def power(site: Site) -> Result:
    """Powers that have a name; an integral exponent as an integer."""
    x, exponent = site.tensor("self"), site.number("exponent")
    if exponent is None:
        return None
    if exponent == 1:
        return x
    if float(exponent) in _POWERS:
        return site.call(_POWERS[float(exponent)], x)
    whole = int(exponent) if exponent == int(exponent) else exponent
    op = "aten.pow.Tensor_Scalar"
    known = site.program.op(site.node) == op and repr(site.node.args[1]) == repr(whole)
    return None if known else site.call(op, x, whole)


def square(site: Site) -> Result:
    """`square` as a power."""
    return site.call("aten.pow.Tensor_Scalar", site.tensor("self"), 2)


def reciprocal(site: Site) -> Result:
    """The reciprocal of a root as `rsqrt`."""
    x = site.tensor("self")
    return site.call("aten.rsqrt", x.args[0]) if site.program.op(x) == "aten.sqrt" else None


def clamp(low: str | float | None, high: str | float | None) -> Rule:
    """Every clamp as `clamp(x, low, high)`, or `relu`; a bound is a number or the name of an argument."""

    def rule(site: Site) -> Result:
        x = site.tensor("self")
        real = site.dtype(x).is_floating_point
        bounds: list[Number | None] = []
        for bound in (low, high):
            value = site.arguments[bound] if isinstance(bound, str) else bound
            if value is not None and not isinstance(value, int | float):
                return None
            bounds.append(float(value) if real and value is not None else value)
        if bounds == [0, None]:
            return site.call("aten.relu", x)
        spelled = site.program.op(site.node) == "aten.clamp" and repr(list(site.node.args[1:])) == repr(bounds)
        return None if spelled else site.call("aten.clamp", x, *bounds)

    return rule


def on_booleans(op: str) -> Rule:
    """A bitwise operator on truth values as the logical one."""

    def rule(site: Site) -> Result:
        operands = [site.arguments[name] for name in ("self", "other") if name in site.arguments]
        tensors = [operand for operand in operands if isinstance(operand, Node)]
        truths = len(tensors) == len(operands) and all(site.dtype(tensor) == torch.bool for tensor in tensors)
        return site.call(op, *tensors) if truths else None

    return rule


def choose(when_true: str, when_false: str, condition: str = "condition") -> Rule:
    """`where` and `masked_fill` as `where.self`, numbers as parameters without axes."""

    def rule(site: Site) -> Result:
        branches = [_as_tensor(site, name) for name in (when_true, when_false)]
        return site.call("aten.where.self", site.tensor(condition), *branches)

    return rule


def _as_tensor(site: Site, name: str) -> Node:
    value = site.arguments[name]
    if isinstance(value, Node):
        return value
    return site.constant(f"{site.node.name}_{name}", torch.tensor(value, dtype=site.dtype(site.node)))


def addcmul(op: str) -> Rule:
    """`addcmul` and `addcdiv` as a product or quotient and a sum."""

    def rule(site: Site) -> Result:
        product = site.call(op, site.tensor("tensor1"), site.tensor("tensor2"))
        return site.call("aten.add.Tensor", site.tensor("self"), product, kwargs={"alpha": site.arguments["value"]})

    return rule


def lerp(site: Site) -> Result:
    """`lerp` as `x + weight * (end - x)`."""
    x = site.tensor("self")
    gap = site.call("aten.sub.Tensor", site.tensor("end"), x)
    return site.call("aten.add.Tensor", x, site.call("aten.mul.Tensor", gap, site.arguments["weight"]))


def renamed(op: str) -> Rule:
    """Another name of a binary operator."""
    return lambda site: site.call(op, site.tensor("self"), site.arguments["other"])


def difference(site: Site) -> Result:
    """`diff` as each element minus the one before it, taken `n` times."""
    ends = [site.optional("prepend"), site.tensor("self"), site.optional("append")]
    parts = [part for part in ends if part is not None]
    axis = site.axis("dim", site.rank(parts[0]))
    x = parts[0] if len(parts) == 1 else site.call("aten.cat", parts, axis)
    op = "aten.logical_xor" if site.dtype(x) == torch.bool else "aten.sub.Tensor"
    for _ in range(site.integer("n")):
        later = site.call("aten.slice.Tensor", x, axis, 1, END, 1)
        earlier = site.call("aten.slice.Tensor", x, axis, 0, -1, 1)
        x = site.call(op, later, earlier)
    return x


def complementary_error(site: Site) -> Result:
    """`erfc` as `1 - erf`."""
    return site.call("aten.rsub.Scalar", site.call("aten.erf", site.tensor("self")), 1)


def power_of_two(site: Site) -> Result:
    """`exp2` as a power."""
    return site.call("aten.pow.Scalar", 2.0, site.tensor("self"))


def hypotenuse(site: Site) -> Result:
    """`hypot` as the root of a sum of squares."""
    squares = [site.call("aten.pow.Tensor_Scalar", site.tensor(name), 2) for name in ("self", "other")]
    return site.call("aten.sqrt", site.call("aten.add.Tensor", *squares))


def distance(site: Site) -> Result:
    """Euclidean distances between all rows of two tensors."""
    if site.arguments["p"] != 2:
        return None
    x, y = site.tensor("x1"), site.tensor("x2")
    left = site.call("aten.unsqueeze", x, site.rank(x) - 1)
    right = site.call("aten.unsqueeze", y, site.rank(y) - 2)
    squares = site.call("aten.pow.Tensor_Scalar", site.call("aten.sub.Tensor", left, right), 2)
    return site.call("aten.sqrt", site.call("aten.sum.dim_IntList", squares, [-1]))


def extremum(op: str) -> Rule:
    """`max.other` and `min.other` as `maximum` and `minimum`."""
    return lambda site: site.call(op, site.tensor("self"), site.tensor("other"))


MATH: dict[str, Rule] = {
    "aten.add.Tensor": sum_rule(1),
    "aten.add.Scalar": sum_rule(1),
    "aten.sub.Tensor": sum_rule(-1),
    "aten.sub.Scalar": sum_rule(-1),
    "aten.rsub.Tensor": rsub,
    "aten.rsub.Scalar": rsub,
    "aten.mul.Tensor": multiply,
    "aten.mul.Scalar": multiply,
    "aten.div.Tensor": divide,
    "aten.div.Scalar": divide,
    "aten.true_divide.Tensor": divide,
    "aten.div.Tensor_mode": divide_mode,
    "aten.pow.Tensor_Scalar": power,
    "aten.pow.Tensor_Tensor": power,
    "aten.square": square,
    "aten.reciprocal": reciprocal,
    "aten.clamp": clamp("min", "max"),
    "aten.clip": clamp("min", "max"),
    "aten.clamp_min": clamp("min", None),
    "aten.clamp_max": clamp(None, "max"),
    "aten.hardtanh": clamp("min_val", "max_val"),
    "aten.relu6": clamp(0.0, 6.0),
    **{f"aten.{name}.Tensor": scalar_form(f"aten.{name}.Scalar") for name in _WITH_NUMBERS},
    "aten.bitwise_not": on_booleans("aten.logical_not"),
    "aten.bitwise_and.Tensor": on_booleans("aten.logical_and"),
    "aten.bitwise_or.Tensor": on_booleans("aten.logical_or"),
    "aten.bitwise_xor.Tensor": on_booleans("aten.logical_xor"),
    **{f"aten.__{name}__.{kind}": renamed(f"aten.bitwise_{name}.{kind}") for name in _BITWISE for kind in _KINDS},
    "aten.diff": difference,
    "aten.where.ScalarOther": choose("self", "other"),
    "aten.where.ScalarSelf": choose("self", "other"),
    "aten.where.Scalar": choose("self", "other"),
    "aten.masked_fill.Scalar": choose("value", "self", "mask"),
    "aten.masked_fill.Tensor": choose("value", "self", "mask"),
    "aten.addcmul": addcmul("aten.mul.Tensor"),
    "aten.addcdiv": addcmul("aten.div.Tensor"),
    "aten.lerp.Scalar": lerp,
    "aten.erfc": complementary_error,
    "aten.exp2": power_of_two,
    "aten.hypot": hypotenuse,
    "aten._cdist_forward": distance,
    "aten.max.other": extremum("aten.maximum"),
    "aten.min.other": extremum("aten.minimum"),
}
