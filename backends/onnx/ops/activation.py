"""Activation functions."""

from __future__ import annotations

import onnx_ir as ir

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitter
from qcompiler.backends.onnx.ops.elementwise import unary


def _gelu(context: Context, call: Call) -> ir.Value:
    return context.op("Gelu", [context.value(call.node_at("self"))], {"approximate": call.text("approximate")})


def _silu(context: Context, call: Call) -> ir.Value:
    value = context.value(call.node_at("self"))
    return context.op("Mul", [value, context.op("Sigmoid", [value])])


def _hardsigmoid(context: Context, call: Call) -> ir.Value:
    return context.op("HardSigmoid", [context.value(call.node_at("self"))], {"alpha": 1 / 6, "beta": 0.5})


def _relu(context: Context, call: Call) -> ir.Value:
    """Relu; the runtime has none for long integers."""
    dtype = call.type.dtype
    if dtype.is_floating_point:
        return context.op("Relu", [context.operand(call.node_at("self"), dtype)])
    return context.op("Max", [context.operand(call.node_at("self"), dtype), context.scalar(0, dtype)])


def _leaky_relu(context: Context, call: Call) -> ir.Value:
    return context.op(
        "LeakyRelu", [context.value(call.node_at("self"))], {"alpha": float(call.number("negative_slope"))}
    )


def _celu(context: Context, call: Call) -> ir.Value:
    return context.op("Celu", [context.value(call.node_at("self"))], {"alpha": float(call.number("alpha"))})


def _elu(context: Context, call: Call) -> ir.Value:
    """`scale * elu(x)`; with an input scale also the negative side is stretched, so the two sides are added up."""
    value, alpha = context.value(call.node_at("self")), float(call.number("alpha", 1))
    scale, stretch = float(call.number("scale", 1)), float(call.number("input_scale", 1))
    if stretch == 1:
        if scale == 1:
            return context.op("Elu", [value], {"alpha": alpha})
        return context.op("Selu", [value], {"alpha": alpha, "gamma": scale})
    dtype = call.type.dtype
    negative = context.op("Min", [context.op("Mul", [value, context.scalar(stretch, dtype)]), context.scalar(0, dtype)])
    curved = context.op("Elu", [negative], {"alpha": alpha})
    result = context.op("Add", [context.op("Relu", [value]), curved])
    return result if scale == 1 else context.op("Mul", [result, context.scalar(scale, dtype)])


def _prelu(context: Context, call: Call) -> ir.Value:
    slope = context.value(call.node_at("weight"))
    rank = len(call.shape("self"))
    if rank > 2:
        slope = context.op("Reshape", [slope, context.ints([-1] + [1] * (rank - 2))])
    return context.op("PRelu", [context.value(call.node_at("self")), slope])


def _softplus(context: Context, call: Call) -> ir.Value:
    beta = call.number("beta", 1)
    value = context.value(call.node_at("self"))
    if beta == 1:
        return context.op("Softplus", [value])
    factor = context.scalar(beta, call.type.dtype)
    return context.op("Div", [context.op("Softplus", [context.op("Mul", [value, factor])]), factor])


def _mish(context: Context, call: Call) -> ir.Value:
    value = context.value(call.node_at("self"))
    return context.op("Mul", [value, context.op("Tanh", [context.op("Softplus", [value])])])


def _gated(context: Context, call: Call) -> ir.Value:
    axis = call.axis("dim", len(call.shape("self")))
    halves = context.ops("Split", [context.value(call.node_at("self"))], {"axis": axis, "num_outputs": 2}, outputs=2)
    return context.op("Mul", [halves[0], context.op("Sigmoid", [halves[1]])])


def _softmax(kind: str) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        rank = call.type.rank
        axis = call.axis("dim", rank) if rank else -1
        return context.op(kind, [context.operand(call.node_at("self"), call.type.dtype)], {"axis": axis})

    return emit


EMITTERS: dict[str, Emitter] = {
    "aten.relu": _relu,
    "aten.sigmoid": unary("Sigmoid"),
    "aten.tanh": unary("Tanh"),
    "aten.hardswish": unary("HardSwish"),
    "aten.selu": unary("Selu"),
    "aten.celu": _celu,
    "aten.gelu": _gelu,
    "aten.silu": _silu,
    "aten.hardsigmoid": _hardsigmoid,
    "aten.leaky_relu": _leaky_relu,
    "aten.elu": _elu,
    "aten.prelu": _prelu,
    "aten.softplus": _softplus,
    "aten.mish": _mish,
    "aten.glu": _gated,
    "aten.softmax.int": _softmax("Softmax"),
    "aten.log_softmax.int": _softmax("LogSoftmax"),
}
