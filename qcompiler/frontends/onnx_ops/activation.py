"""ONNX activations as ATen calls."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]

_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def plain(op: str) -> Operator:
    """An activation without parameters."""
    return lambda ctx: ctx.call(op, ctx.tensor(0))


def leaky_relu(ctx: OpContext) -> Result:
    """LeakyRelu."""
    return ctx.call("aten.leaky_relu", ctx.tensor(0), ctx.real("alpha", 0.01))


def prelu(ctx: OpContext) -> Result:
    """PRelu: `aten.prelu` for a slope per channel or per tensor, else from its definition."""
    x, slope = ctx.tensor(0), ctx.known(1)
    if slope is not None and _per_channel(ctx, x, slope):
        return ctx.call("aten.prelu", x, ctx.reform(1, "vector", slope.reshape(-1)))
    negative = ctx.call("aten.clamp", x, None, 0)
    scaled = ctx.call("aten.mul.Tensor", negative, ctx.tensor(1))
    return ctx.call("aten.add.Tensor", ctx.call("aten.relu", x), scaled)


def _per_channel(ctx: OpContext, x: Node, slope: torch.Tensor) -> bool:
    rank = ctx.rank(x)
    if slope.numel() == 1:
        return slope.dim() <= rank
    channel_axis = slope.dim() - (rank - 1)
    return (
        rank >= 2 and 0 <= channel_axis < slope.dim() and slope.numel() == slope.shape[channel_axis] == ctx.shape(x)[1]
    )


def elu(ctx: OpContext) -> Result:
    """Elu."""
    return ctx.call("aten.elu", ctx.tensor(0), ctx.real("alpha", 1.0))


def selu(ctx: OpContext) -> Result:
    """Selu: an ELU with a scale."""
    return ctx.call("aten.elu", ctx.tensor(0), ctx.real("alpha", _SELU_ALPHA), ctx.real("gamma", _SELU_GAMMA))


def celu(ctx: OpContext) -> Result:
    """Celu: an ELU with a scaled input."""
    alpha = ctx.real("alpha", 1.0)
    return ctx.call("aten.elu", ctx.tensor(0), alpha, 1.0, 1.0 / alpha)


def gelu(ctx: OpContext) -> Result:
    """Gelu, exact or with the tanh approximation."""
    return ctx.call("aten.gelu", ctx.tensor(0), kwargs={"approximate": ctx.word("approximate", "none")})


def hard_sigmoid(ctx: OpContext) -> Result:
    """HardSigmoid `clamp(alpha * x + beta, 0, 1)`."""
    x, alpha, beta = ctx.tensor(0), ctx.real("alpha", 0.2), ctx.real("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return ctx.call("aten.hardsigmoid", x)
    line = ctx.call("aten.add.Tensor", ctx.call("aten.mul.Tensor", x, alpha), beta)
    return ctx.call("aten.clamp", line, 0.0, 1.0)


def softsign(ctx: OpContext) -> Result:
    """Softsign `x / (1 + |x|)`."""
    x = ctx.tensor(0)
    return ctx.call("aten.div.Tensor", x, ctx.call("aten.add.Tensor", ctx.call("aten.abs", x), 1.0))


def thresholded_relu(ctx: OpContext) -> Result:
    """ThresholdedRelu: x above alpha, zero elsewhere."""
    x = ctx.tensor(0)
    kept = ctx.call("aten.gt.Scalar", x, ctx.real("alpha", 1.0))
    return ctx.call("aten.where.ScalarOther", kept, x, 0.0)


def swish(ctx: OpContext) -> Result:
    """Swish `x * sigmoid(alpha * x)`."""
    x, alpha = ctx.tensor(0), ctx.real("alpha", 1.0)
    if alpha == 1:
        return ctx.call("aten.silu", x)
    return ctx.call("aten.mul.Tensor", x, ctx.call("aten.sigmoid", ctx.call("aten.mul.Tensor", x, alpha)))


def clip(ctx: OpContext) -> Result:
    """Clip: bounds are attributes before opset 11, inputs since."""
    x = ctx.tensor(0)
    if ctx.version < 11:
        low, high = ctx.attribute("min"), ctx.attribute("max")
        return _clamp(ctx, x, low.as_float() if low else None, high.as_float() if high else None)
    bounds = [ctx.scalar(index, ctx.rank(x)) if ctx.has(index) else None for index in (1, 2)]
    result = _clamp(ctx, x, *bounds)
    for index, op in ((1, "aten.maximum"), (2, "aten.minimum")):
        if ctx.has(index) and bounds[index - 1] is None:
            result = ctx.call(op, result, ctx.tensor(index))
    return result


def _clamp(ctx: OpContext, x: Node, low: float | None, high: float | None) -> Node:
    if low is None and high is None:
        return x
    return ctx.call("aten.clamp", x, low, high)


def softmax(op: str) -> Operator:
    """Softmax or LogSoftmax: over one axis since opset 13, over all axes from `axis` on before."""

    def emit(ctx: OpContext) -> Result:
        x = ctx.tensor(0)
        rank = ctx.rank(x)
        if ctx.version >= 13:
            return ctx.call(op, x, ctx.axis(ctx.integer("axis", -1), rank))
        axis = ctx.axis(ctx.integer("axis", 1), rank)
        if axis == rank - 1:
            return ctx.call(op, x, axis)
        kept = [ctx.size(dim) for dim in ctx.shape(x)]
        flat = ctx.call("aten.reshape", x, [*kept[:axis], -1])
        return ctx.call("aten.reshape", ctx.call(op, flat, axis), kept)

    return emit


def hardmax(ctx: OpContext) -> Result:
    """Hardmax: one at the first maximum, zero elsewhere; axes as for Softmax."""
    x = ctx.tensor(0)
    rank, dtype = ctx.rank(x), ctx.dtype(x)
    axis = ctx.axis(ctx.integer("axis", -1 if ctx.version >= 13 else 1), rank)
    shape = [ctx.size(dim) for dim in ctx.shape(x)]
    flat = x if ctx.version >= 13 or axis == rank - 1 else ctx.call("aten.reshape", x, [*shape[:axis], -1])
    best = ctx.call("aten.argmax", flat, axis, True)
    count = ctx.size(ctx.shape(flat)[axis])
    places = ctx.call("aten.arange.start_step", 0, count, 1, kwargs={"dtype": torch.int64})
    line = ctx.call("aten.reshape", places, [-1 if other == axis else 1 for other in range(ctx.rank(flat))])
    result = ctx.cast(ctx.call("aten.eq.Tensor", best, line), dtype)
    return result if flat is x else ctx.call("aten.reshape", result, shape)


ACTIVATION: dict[str, Operator] = {
    "Celu": celu,
    "Clip": clip,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "Hardmax": hardmax,
    "HardSwish": plain("aten.hardswish"),
    "LeakyRelu": leaky_relu,
    "LogSoftmax": softmax("aten.log_softmax.int"),
    "Mish": plain("aten.mish"),
    "PRelu": prelu,
    "Relu": plain("aten.relu"),
    "Selu": selu,
    "Sigmoid": plain("aten.sigmoid"),
    "Softmax": softmax("aten.softmax.int"),
    "Softplus": plain("aten.softplus"),
    "Softsign": softsign,
    "Swish": swish,
    "Tanh": plain("aten.tanh"),
    "ThresholdedRelu": thresholded_relu,
}
