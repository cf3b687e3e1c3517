"""Elementwise arithmetic, comparisons, logic and casts."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitted, Emitter
from qcompiler.backends.onnx.dtypes import onnx_dtype
from qcompiler.ir.program import Node
from qcompiler.ir.types import SymbolType


def common_dtype(context: Context, left: object, right: object) -> torch.dtype:
    """The dtype in which torch computes with two operands."""
    return torch.result_type(_stand_in(context, left), _stand_in(context, right))


def _stand_in(context: Context, argument: object) -> torch.Tensor | float:
    if not isinstance(argument, Node):
        return argument if isinstance(argument, bool | int | float) else 0
    if isinstance(context.program.type(argument), SymbolType):
        return 1
    type_ = context.program.tensor_type(argument)
    return torch.empty([1] * type_.rank, dtype=type_.dtype, device="meta")


def unary(kind: str) -> Emitter:
    """An ONNX operator of one tensor, computed in the dtype of the result."""

    def emit(context: Context, call: Call) -> ir.Value:
        return context.op(kind, [context.operand(call.node_at("self"), call.type.dtype)])

    return emit


def _test(kind: str) -> Emitter:
    """An ONNX operator that answers yes or no about each element."""

    def emit(context: Context, call: Call) -> ir.Value:
        return context.op(kind, [context.value(call.node_at("self"))])

    return emit


def _binary(kind: str) -> Emitter:
    """An ONNX operator of two operands, computed in the dtype of the result."""

    def emit(context: Context, call: Call) -> ir.Value:
        dtype = call.type.dtype
        right = context.operand(call.raw("other"), dtype)
        alpha = call.number("alpha", 1)
        if alpha != 1:
            right = context.op("Mul", [right, context.scalar(alpha, dtype)])
        return context.op(kind, [context.operand(call.raw("self"), dtype), right])

    return emit


def _add(context: Context, call: Call) -> Emitted:
    # onnxruntime fuses Add and the LayerNormalization that alone reads it into a kernel several times slower than both.
    readers = [context.program.op(user) for user in call.node.users]
    return _binary("Sum" if readers == ["aten.layer_norm"] else "Add")(context, call)


def _compare(kind: str, *, negated: bool = False) -> Emitter:
    """A comparison in the dtype that both operands promote to."""

    def emit(context: Context, call: Call) -> ir.Value:
        left, right = call.raw("self"), call.raw("other")
        dtype = common_dtype(context, left, right)
        if dtype == torch.bool and kind != "Equal":
            dtype = torch.int32
        result = context.op(kind, [context.operand(left, dtype), context.operand(right, dtype)])
        return context.op("Not", [result]) if negated else result

    return emit


def _logical(kind: str) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        names = ["self", "other"] if "other" in call.arguments else ["self"]
        return context.op(kind, [context.operand(call.raw(name), torch.bool) for name in names])

    return emit


def _bitwise(logical: str, arithmetic: str) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        dtype = call.type.dtype
        names = ["self", "other"] if "other" in call.arguments else ["self"]
        kind = logical if dtype == torch.bool else arithmetic
        return context.op(kind, [context.operand(call.raw(name), dtype) for name in names])

    return emit


def _divide(context: Context, call: Call) -> ir.Value:
    dtype = call.type.dtype
    left, right = context.operand(call.raw("self"), dtype), context.operand(call.raw("other"), dtype)
    mode = call.raw("rounding_mode")
    if mode is None:
        return context.op("Div", [left, right])
    if dtype.is_floating_point:
        quotient = context.op("Div", [left, right])
        rounded = context.op("Floor" if mode == "floor" else "Abs", [quotient])
        if mode == "floor":
            return rounded
        return context.op("Mul", [context.op("Sign", [quotient]), context.op("Floor", [rounded])])
    return floor_divide(context, left, right) if mode == "floor" else context.op("Div", [left, right])


def floor_divide(context: Context, left: ir.Value, right: ir.Value) -> ir.Value:
    """Integer division rounded down: the remainder of ONNX `Mod` has the sign of the divisor."""
    remainder = context.op("Mod", [left, right])
    return context.op("Div", [context.op("Sub", [left, remainder]), right])


def _floor_division(context: Context, call: Call) -> ir.Value:
    dtype = call.type.dtype
    left, right = context.operand(call.raw("self"), dtype), context.operand(call.raw("other"), dtype)
    if dtype.is_floating_point:
        return context.op("Floor", [context.op("Div", [left, right])])
    return floor_divide(context, left, right)


def _remainder(context: Context, call: Call) -> ir.Value:
    dtype = call.type.dtype
    left, right = context.operand(call.raw("self"), dtype), context.operand(call.raw("other"), dtype)
    if not dtype.is_floating_point:
        return context.op("Mod", [left, right])
    # the remainder that has the sign of the dividend, moved by one divisor where the signs differ
    rest = context.op("Mod", [left, right], {"fmod": 1})
    zero = context.scalar(0, dtype)
    unlike = context.op("Less", [context.op("Mul", [context.op("Sign", [rest]), context.op("Sign", [right])]), zero])
    return context.op("Where", [unlike, context.op("Add", [rest, right]), rest])


def _shift(direction: str) -> Emitter:
    """A shift of bits; onnxruntime shifts unsigned integers, so others go through their bits."""

    def emit(context: Context, call: Call) -> ir.Value:
        dtype = call.type.dtype
        left, right = context.operand(call.raw("self"), dtype), context.operand(call.raw("other"), dtype)
        if dtype not in _UNSIGNED:
            return context.op("BitShift", [left, right], {"direction": direction})
        unsigned = {"to": _UNSIGNED[dtype].value}
        bits, count = context.op("Cast", [left], unsigned), context.op("Cast", [right], unsigned)
        back = {"to": onnx_dtype(dtype).value}
        if direction == "LEFT":
            return context.op("Cast", [context.op("BitShift", [bits, count], {"direction": direction})], back)
        # the sign bit is kept: a negative number is shifted as its complement
        negative = context.op("Less", [left, context.scalar(0, dtype)])
        flipped = context.op("Where", [negative, context.op("BitwiseNot", [left]), left])
        moved = context.op("BitShift", [context.op("Cast", [flipped], unsigned), count], {"direction": direction})
        signed = context.op("Cast", [moved], back)
        return context.op("Where", [negative, context.op("BitwiseNot", [signed]), signed])

    return emit


def _truncated_remainder(context: Context, call: Call) -> ir.Value:
    dtype = call.type.dtype
    operands = [context.operand(call.raw(name), dtype) for name in ("self", "other")]
    return context.op("Mod", operands, {"fmod": 1})


def _power(context: Context, call: Call) -> ir.Value:
    dtype = call.type.dtype
    return context.op("Pow", [context.operand(call.raw("self"), dtype), context.operand(call.raw("exponent"), dtype)])


def _reciprocal_root(context: Context, call: Call) -> ir.Value:
    root = context.op("Sqrt", [context.operand(call.node_at("self"), call.type.dtype)])
    return context.op("Reciprocal", [root])


def _shifted_logarithm(context: Context, call: Call) -> ir.Value:
    dtype = call.type.dtype
    shifted = context.op("Add", [context.operand(call.node_at("self"), dtype), context.scalar(1, dtype)])
    return context.op("Log", [shifted])


def _shifted_exponential(context: Context, call: Call) -> ir.Value:
    dtype = call.type.dtype
    exponential = context.op("Exp", [context.operand(call.node_at("self"), dtype)])
    return context.op("Sub", [exponential, context.scalar(1, dtype)])


def _logarithm(base: float) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        dtype = call.type.dtype
        natural = context.op("Log", [context.operand(call.node_at("self"), dtype)])
        return context.op("Mul", [natural, context.scalar(1 / math.log(base), dtype)])

    return emit


def _truncate(context: Context, call: Call) -> ir.Value:
    value = context.value(call.node_at("self"))
    whole = context.op("Floor", [context.op("Abs", [value])])
    return context.op("Mul", [context.op("Sign", [value]), whole])


def _clamp(context: Context, call: Call) -> ir.Value:
    dtype = call.type.dtype
    limits = [call.raw("min"), call.raw("max")]
    value = context.operand(call.node_at("self"), dtype)
    if any(isinstance(limit, Node) for limit in limits):
        for kind, limit in zip(("Max", "Min"), limits, strict=True):
            value = value if limit is None else context.op(kind, [value, context.operand(limit, dtype)])
        return value
    return context.op("Clip", [value, *(None if limit is None else context.operand(limit, dtype) for limit in limits)])


def _where(context: Context, call: Call) -> ir.Value:
    dtype = call.type.dtype
    condition = context.operand(call.node_at("condition"), torch.bool)
    return select(context, condition, call.raw("self"), call.raw("other"), dtype)


def _masked_fill(context: Context, call: Call) -> ir.Value:
    mask = context.operand(call.node_at("mask"), torch.bool)
    return select(context, mask, call.raw("value"), call.raw("self"), call.type.dtype)


def select(context: Context, condition: ir.Value, yes: object, no: object, dtype: torch.dtype) -> ir.Value:
    """`yes` where the condition holds, else `no`; onnxruntime selects no booleans: these go through uint8."""
    through = torch.uint8 if dtype == torch.bool else dtype
    result = context.op("Where", [condition, context.operand(yes, through), context.operand(no, through)])
    return context.cast(result, through, dtype)


def _convert(context: Context, call: Call) -> ir.Value:
    source = call.node_at("self")
    return context.cast(context.value(source), call.tensor("self").dtype, call.type.dtype)


_UNSIGNED = {
    torch.int8: ir.DataType.UINT8,
    torch.int16: ir.DataType.UINT16,
    torch.int32: ir.DataType.UINT32,
    torch.int64: ir.DataType.UINT64,
}
_UNARY = {
    "neg": "Neg", "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal",
    "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan",
    "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign", "erf": "Erf",
}  # fmt: skip
_BINARY = {
    "sub.Tensor": "Sub", "mul.Tensor": "Mul",
    "add.Scalar": "Add", "sub.Scalar": "Sub", "mul.Scalar": "Mul", "maximum": "Max", "minimum": "Min",
}  # fmt: skip
_COMPARISONS = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}

EMITTERS: dict[str, Emitter] = {
    **{f"aten.{name}": unary(kind) for name, kind in _UNARY.items()},
    **{f"aten.{name}": _binary(kind) for name, kind in _BINARY.items()},
    "aten.add.Tensor": _add,
    **{f"aten.{name}.{side}": _compare(kind) for name, kind in _COMPARISONS.items() for side in ("Tensor", "Scalar")},
    "aten.ne.Tensor": _compare("Equal", negated=True),
    "aten.ne.Scalar": _compare("Equal", negated=True),
    "aten.isnan": _test("IsNaN"),
    "aten.isinf": _test("IsInf"),
    "aten.div.Tensor": _divide,
    "aten.div.Scalar": _divide,
    "aten.div.Tensor_mode": _divide,
    "aten.div.Scalar_mode": _divide,
    "aten.floor_divide": _floor_division,
    "aten.remainder.Tensor": _remainder,
    "aten.remainder.Scalar": _remainder,
    "aten.fmod.Tensor": _truncated_remainder,
    "aten.fmod.Scalar": _truncated_remainder,
    "aten.pow.Tensor_Scalar": _power,
    "aten.pow.Tensor_Tensor": _power,
    "aten.pow.Scalar": _power,
    "aten.rsqrt": _reciprocal_root,
    "aten.log1p": _shifted_logarithm,
    "aten.expm1": _shifted_exponential,
    "aten.log2": _logarithm(2),
    "aten.log10": _logarithm(10),
    "aten.trunc": _truncate,
    "aten.clamp": _clamp,
    "aten.clamp.Tensor": _clamp,
    "aten.clamp_min": _clamp,
    "aten.clamp_max": _clamp,
    "aten.logical_and": _logical("And"),
    "aten.logical_or": _logical("Or"),
    "aten.logical_xor": _logical("Xor"),
    "aten.logical_not": _logical("Not"),
    "aten.bitwise_and.Tensor": _bitwise("And", "BitwiseAnd"),
    "aten.bitwise_and.Scalar": _bitwise("And", "BitwiseAnd"),
    "aten.bitwise_or.Tensor": _bitwise("Or", "BitwiseOr"),
    "aten.bitwise_or.Scalar": _bitwise("Or", "BitwiseOr"),
    "aten.bitwise_xor.Tensor": _bitwise("Xor", "BitwiseXor"),
    "aten.bitwise_xor.Scalar": _bitwise("Xor", "BitwiseXor"),
    "aten.bitwise_left_shift.Tensor": _shift("LEFT"),
    "aten.bitwise_right_shift.Tensor": _shift("RIGHT"),
    "aten.bitwise_not": _bitwise("Not", "BitwiseNot"),
    "aten.where.self": _where,
    "aten.where.ScalarSelf": _where,
    "aten.where.ScalarOther": _where,
    "aten.where.Scalar": _where,
    "aten.masked_fill.Scalar": _masked_fill,
    "aten.masked_fill.Tensor": _masked_fill,
    "aten._to_copy": _convert,
}
