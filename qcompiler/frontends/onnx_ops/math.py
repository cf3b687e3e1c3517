"""ONNX arithmetic, comparison, logic and matrix products as ATen calls."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir

from qcompiler.frontends.onnx_ops.context import Known, Number, OpContext, Result
from qcompiler.frontends.onnx_ops.einsum import einsum
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]

_MASKS = {onnx_ir.DataType.UINT16: 0xFFFF, onnx_ir.DataType.UINT32: 0xFFFFFFFF}


def unary(op: str) -> Operator:
    """An operator of one tensor."""
    return lambda ctx: ctx.call(op, ctx.tensor(0))


def binary(op: str, commutes: bool = False) -> Operator:
    """An operator of two broadcast tensors; a known scalar on the right becomes a Python number."""

    def emit(ctx: OpContext) -> Result:
        left, right = operands(ctx, commutes)
        return ctx.call(op, left, right)

    return emit


def operands(ctx: OpContext, commutes: bool = False) -> tuple[Node, Node | Number]:
    """Both inputs; a known scalar is a number on the right (moved there when the operator commutes)."""
    first, second = (0, 1)
    if commutes and ctx.known(0) is not None and ctx.known(1) is None:
        first, second = (1, 0)
    left = ctx.tensor(first)
    number = ctx.scalar(second, ctx.rank(left))
    return left, ctx.tensor(second) if number is None else number


def compare(name: str) -> Operator:
    """A comparison: `.Scalar` against a known number, `.Tensor` otherwise."""

    def emit(ctx: OpContext) -> Result:
        left, right = operands(ctx)
        return ctx.call(f"aten.{name}.{'Tensor' if isinstance(right, Node) else 'Scalar'}", left, right)

    return emit


def logical(op: str) -> Operator:
    """An operator of two tensors that takes no numbers."""
    return lambda ctx: ctx.call(op, ctx.tensor(0), ctx.tensor(1))


def chain(op: str) -> Operator:
    """A variadic operator as a chain of a binary one."""

    def emit(ctx: OpContext) -> Result:
        total, *others = ctx.tensors()
        for other in others:
            total = ctx.call(op, total, other)
        return total

    return emit


def add(ctx: OpContext) -> Result:
    """Add; a known vector added to a linear layer without bias becomes its bias."""
    for linear, bias in ((0, 1), (1, 0)):
        node = _bare_linear(ctx, linear)
        known = ctx.value(bias)
        if node is None or not isinstance(known, Known):
            continue
        width = ctx.shape(node)[-1]
        if known.tensor.dim() <= ctx.rank(node) and known.tensor.numel() == width == known.tensor.shape[-1:].numel():
            vector = ctx.emitter.param(known, "vector", known.tensor.reshape(-1))
            ctx.emitter.program.set_args(node, (node.args[0], node.args[1], vector))
            return node
    return binary("aten.add.Tensor", commutes=True)(ctx)


def _bare_linear(ctx: OpContext, index: int) -> Node | None:
    node, source = ctx.value(index), ctx.node.inputs[index]
    if not isinstance(node, Node) or ctx.emitter.program.op(node) != "aten.linear" or source is None:
        return None
    alone = len(source.uses()) == 1 and not source.is_graph_output()
    return node if alone and node.args[2] is None and not node.users else None


def divide(ctx: OpContext) -> Result:
    """Div: true division of reals, truncating division of integers."""
    left, right = operands(ctx)
    if not ctx.dtype(left).is_floating_point:
        return ctx.call("aten.div.Tensor_mode", left, right, kwargs={"rounding_mode": "trunc"})
    if isinstance(right, Node) and ctx.scalar(0, ctx.rank(right)) == 1:
        return ctx.call("aten.reciprocal", right)
    return ctx.call("aten.div.Tensor", left, right)


def power(ctx: OpContext) -> Result:
    """Pow, in the element type of the base."""
    base, exponent = operands(ctx)
    if isinstance(exponent, Node):
        result = ctx.call("aten.pow.Tensor_Tensor", base, exponent)
    else:
        result = ctx.call("aten.pow.Tensor_Scalar", base, int(exponent) if exponent == int(exponent) else exponent)
    return ctx.cast(result, ctx.dtype(base))


def modulo(ctx: OpContext) -> Result:
    """Mod: the sign follows the divisor, or the dividend when `fmod` is set."""
    left, right = operands(ctx)
    name = "fmod" if ctx.integer("fmod", 0) else "remainder"
    return ctx.call(f"aten.{name}.{'Tensor' if isinstance(right, Node) else 'Scalar'}", left, right)


def shift(ctx: OpContext) -> Result:
    """BitShift."""
    direction = ctx.word("direction").lower()
    return _within(ctx, ctx.call(f"aten.bitwise_{direction}_shift.Tensor", ctx.tensor(0), ctx.tensor(1)))


def mean(ctx: OpContext) -> Result:
    """Mean of any number of tensors."""
    total = chain("aten.add.Tensor")(ctx)
    return ctx.call("aten.div.Tensor", total, float(len(ctx.tensors())))


def is_infinite(ctx: OpContext) -> Result:
    """IsInf, of either or both signs."""
    x = ctx.tensor(0)
    positive, negative = ctx.integer("detect_positive", 1), ctx.integer("detect_negative", 1)
    if positive and negative:
        return ctx.call("aten.isinf", x)
    if not positive and not negative:
        raise ctx.refuse("neither sign of infinity is asked for")
    return ctx.call("aten.eq.Scalar", x, float("inf") if positive else float("-inf"))


def where(ctx: OpContext) -> Result:
    """Where."""
    return ctx.call("aten.where.self", ctx.tensor(0), ctx.tensor(1), ctx.tensor(2))


def matmul(ctx: OpContext) -> Result:
    """MatMul; a known matrix on the right makes it a linear layer."""
    x, weight = ctx.tensor(0), ctx.known(1)
    if weight is not None and weight.dim() == 2:
        return ctx.call("aten.linear", x, ctx.reform(1, "transposed", weight.t(), ctx.weight_name(1)), None)
    return ctx.call("aten.matmul", x, ctx.tensor(1))


def gemm(ctx: OpContext) -> Result:
    """Gemm `alpha * A' B' + beta * C`; constant alpha and beta are folded into known operands."""
    alpha, beta = ctx.real("alpha", 1.0), ctx.real("beta", 1.0)
    x = ctx.tensor(0)
    if ctx.integer("transA", 0):
        x = ctx.call("aten.permute", x, [1, 0])
    transposed = bool(ctx.integer("transB", 0))
    weight = ctx.known(1)
    if weight is None:
        right = ctx.tensor(1)
        product = ctx.call("aten.matmul", x, ctx.call("aten.permute", right, [1, 0]) if transposed else right)
        return _add_scaled(ctx, _scaled(ctx, product, alpha), beta)
    rows = weight if transposed else weight.t()
    node = ctx.reform(1, f"rows*{alpha}", rows if alpha == 1 else rows * alpha, ctx.weight_name(1))
    bias = ctx.known(2)
    if bias is not None and bias.numel() == rows.shape[0] == bias.shape[-1:].numel():
        vector = ctx.reform(2, f"vector*{beta}", (bias if beta == 1 else bias * beta).reshape(-1))
        return ctx.call("aten.linear", x, node, vector)
    return _add_scaled(ctx, ctx.call("aten.linear", x, node, None), beta)


def _scaled(ctx: OpContext, node: Node, factor: float) -> Node:
    return node if factor == 1 else ctx.call("aten.mul.Tensor", node, factor)


def _add_scaled(ctx: OpContext, product: Node, beta: float) -> Node:
    addend = ctx.optional(2)
    if addend is None or beta == 0:
        return product
    return ctx.call("aten.add.Tensor", product, _scaled(ctx, addend, beta))


def bitwise_not(ctx: OpContext) -> Result:
    """BitwiseNot; unsigned integers that are held in wider ones keep to their width."""
    return _within(ctx, ctx.call("aten.bitwise_not", ctx.tensor(0)))


def _within(ctx: OpContext, node: Node) -> Node:
    """The bits of `node` that fit the unsigned type of the first input."""
    source = ctx.node.inputs[0]
    mask = None if source is None or source.dtype is None else _MASKS.get(source.dtype)
    return node if mask is None else ctx.call("aten.bitwise_and.Scalar", node, mask)


def round_half_even(ctx: OpContext) -> Result:
    """Round; integers pass unchanged."""
    x = ctx.tensor(0)
    return ctx.call("aten.round", x) if ctx.dtype(x).is_floating_point else x


def determinant(ctx: OpContext) -> Result:
    """Det."""
    return ctx.call("aten.linalg_det", ctx.tensor(0))


_UNARY = {
    "Abs": "abs",
    "Acos": "acos",
    "Acosh": "acosh",
    "Asin": "asin",
    "Asinh": "asinh",
    "Atan": "atan",
    "Atanh": "atanh",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "IsNaN": "isnan",
    "Log": "log",
    "Neg": "neg",
    "Not": "logical_not",
    "Reciprocal": "reciprocal",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Sqrt": "sqrt",
    "Tan": "tan",
}
MATH: dict[str, Operator] = {
    **{name: unary(f"aten.{op}") for name, op in _UNARY.items()},
    "Add": add,
    "And": logical("aten.logical_and"),
    "BitShift": shift,
    "BitwiseAnd": logical("aten.bitwise_and.Tensor"),
    "BitwiseNot": bitwise_not,
    "BitwiseOr": logical("aten.bitwise_or.Tensor"),
    "BitwiseXor": logical("aten.bitwise_xor.Tensor"),
    "Det": determinant,
    "Div": divide,
    "Einsum": einsum,
    "Equal": compare("eq"),
    "Gemm": gemm,
    "Greater": compare("gt"),
    "GreaterOrEqual": compare("ge"),
    "IsInf": is_infinite,
    "Less": compare("lt"),
    "LessOrEqual": compare("le"),
    "MatMul": matmul,
    "Max": chain("aten.maximum"),
    "Mean": mean,
    "Min": chain("aten.minimum"),
    "Mod": modulo,
    "Mul": binary("aten.mul.Tensor", commutes=True),
    "Or": logical("aten.logical_or"),
    "Pow": power,
    "Round": round_half_even,
    "Sub": binary("aten.sub.Tensor"),
    "Sum": chain("aten.add.Tensor"),
    "Where": where,
    "Xor": logical("aten.logical_xor"),
}
