"""Arithmetic on sizes: every symbolic scalar is a vector of one element (int64, bool or float64)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitter
from qcompiler.backends.onnx.ops.elementwise import floor_divide
from qcompiler.ir.program import Node
from qcompiler.ir.types import SymbolType

_INTEGER, _REAL = ir.DataType.INT64, ir.DataType.DOUBLE
_REAL_RESULTS = frozenset({"sym.truediv", "sym.float"})


def _size(context: Context, call: Call) -> ir.Value:
    node = call.node_at("self")
    return context.vector(context.size(node, call.axis("dim", len(call.shape("self")))))


def _count(context: Context, call: Call) -> ir.Value:
    return context.op("Reshape", [context.op("Size", [context.value(call.node_at("self"))]), context.ints([1])])


def _vector(context: Context, call: Call, name: str) -> ir.Value:
    """An argument as a vector of one element."""
    found = call.raw(name)
    if isinstance(found, Node):
        type_ = context.program.type(found)
        if isinstance(type_, SymbolType) and isinstance(type_.expr, int) and not _is_real(found, context):
            return context.ints([type_.expr])
        return context.value(found)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return context.constant(np.array([bool(found)]))
    return context.constant(np.array([found], dtype=np.int64 if isinstance(found, int) else np.float64))


def _is_real(argument: object, context: Context) -> bool:
    """Whether a symbolic scalar is a real number: a quotient, a float, or arithmetic with one."""
    if not isinstance(argument, Node):
        return isinstance(argument, float)
    name = context.program.op(argument)
    if name in _REAL_RESULTS:
        return True
    arithmetic = name in {"sym.add", "sym.sub", "sym.mul", "sym.pow", "sym.neg", "sym.max", "sym.min"}
    return arithmetic and any(_is_real(source, context) for source in argument.args)


def _arithmetic(kind: str) -> Emitter:
    """An operator whose operands become real numbers when one of them is."""

    def emit(context: Context, call: Call) -> ir.Value:
        names = list(call.arguments)
        values = [_vector(context, call, name) for name in names]
        reals = [_is_real(call.raw(name), context) for name in names]
        if any(reals):
            values = [
                value if real else context.op("Cast", [value], {"to": _REAL.value})
                for value, real in zip(values, reals, strict=True)
            ]
        return context.op(kind, values)

    return emit


def _negated_equal(context: Context, call: Call) -> ir.Value:
    return context.op("Not", [_arithmetic("Equal")(context, call)])  # pyright: ignore[reportArgumentType]


def _floor_division(context: Context, call: Call) -> ir.Value:
    return floor_divide(context, _vector(context, call, "0"), _vector(context, call, "1"))


def _quotient(context: Context, call: Call) -> ir.Value:
    reals = [context.op("Cast", [_vector(context, call, name)], {"to": _REAL.value}) for name in ("0", "1")]
    return context.op("Div", reals)


def _choice(context: Context, call: Call) -> ir.Value:
    return context.op("Where", [_vector(context, call, name) for name in ("0", "1", "2")])


def _real(context: Context, call: Call) -> ir.Value:
    return context.op("Cast", [_vector(context, call, "0")], {"to": _REAL.value})


def _rounded(kind: str | None) -> Emitter:
    """A whole number from a real one; without `kind` the fraction is cut off."""

    def emit(context: Context, call: Call) -> ir.Value:
        value = _vector(context, call, "0")
        if not _is_real(call.raw("0"), context):
            return value
        rounded = value if kind is None else context.op(kind, [value])
        return context.op("Cast", [rounded], {"to": _INTEGER.value})

    return emit


EMITTERS: dict[str, Emitter] = {
    "aten.sym_size.int": _size,
    "aten.sym_numel": _count,
    "sym.add": _arithmetic("Add"),
    "sym.sub": _arithmetic("Sub"),
    "sym.mul": _arithmetic("Mul"),
    "sym.floordiv": _floor_division,
    "sym.truediv": _quotient,
    "sym.mod": _arithmetic("Mod"),
    "sym.neg": _arithmetic("Neg"),
    "sym.pow": _arithmetic("Pow"),
    "sym.eq": _arithmetic("Equal"),
    "sym.ne": _negated_equal,
    "sym.lt": _arithmetic("Less"),
    "sym.le": _arithmetic("LessOrEqual"),
    "sym.gt": _arithmetic("Greater"),
    "sym.ge": _arithmetic("GreaterOrEqual"),
    "sym.and": _arithmetic("And"),
    "sym.or": _arithmetic("Or"),
    "sym.not": _arithmetic("Not"),
    "sym.max": _arithmetic("Max"),
    "sym.min": _arithmetic("Min"),
    "sym.ite": _choice,
    "sym.float": _real,
    "sym.int": _rounded(None),
    "sym.trunc": _rounded(None),
    "sym.ceil": _rounded("Ceil"),
    "sym.floor": _rounded("Floor"),
    "sym.round": _rounded("Round"),
}
