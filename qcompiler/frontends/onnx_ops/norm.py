"""ONNX normalizations as ATen calls."""

from __future__ import annotations

from collections.abc import Callable

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]


def batch_norm(ctx: OpContext) -> Result:
    """BatchNormalization in inference: running statistics per channel."""
    if ctx.integer("training_mode", 0) or ctx.integer("spatial", 1) != 1:
        raise ctx.refuse(
            "only inference with statistics per channel is supported", mend="export the model in eval mode"
        )
    x, weight, bias, mean, variance = (ctx.tensor(index) for index in range(5))
    momentum = 1.0 - ctx.real("momentum", 0.9)
    return ctx.call(
        "aten.batch_norm", x, weight, bias, mean, variance, False, momentum, ctx.real("epsilon", 1e-5), True
    )


def _normalized(ctx: OpContext, x: Node) -> list[int]:
    axis = ctx.axis(ctx.integer("axis", -1), ctx.rank(x))
    return [ctx.static(dim, "a normalized axis") for dim in ctx.shape(x)[axis:]]


def _affine(ctx: OpContext, index: int, shape: list[int]) -> Node | None:
    node = ctx.optional(index)
    if node is None or list(ctx.shape(node)) == shape:
        return node
    tensor = ctx.known(index)
    if tensor is None:
        return ctx.call("aten.expand", node, shape)
    return ctx.reform(index, f"expanded{shape}", tensor.expand(shape).contiguous())


def layer_norm(ctx: OpContext) -> Result:
    """LayerNormalization over the axes from `axis` on."""
    x = ctx.tensor(0)
    shape = _normalized(ctx, x)
    weight, bias = _affine(ctx, 1, shape), _affine(ctx, 2, shape)
    return ctx.call("aten.layer_norm", x, shape, weight, bias, ctx.real("epsilon", 1e-5))


def rms_norm(ctx: OpContext) -> Result:
    """RMSNormalization over the axes from `axis` on."""
    x = ctx.tensor(0)
    shape = _normalized(ctx, x)
    return ctx.call("aten.rms_norm", x, shape, _affine(ctx, 1, shape), ctx.real("epsilon", 1e-5))


def group_norm(ctx: OpContext) -> Result:
    """GroupNormalization: scale and bias per group before opset 21, per channel since."""
    x, groups = ctx.tensor(0), ctx.integer("num_groups")
    weight, bias = ctx.tensor(1), ctx.tensor(2)
    if ctx.version < 21:
        each = ctx.static(ctx.shape(x)[1], "the channel axis") // groups
        weight, bias = (_repeat_each(ctx, index, each) for index in (1, 2))
    return ctx.call("aten.group_norm", x, groups, weight, bias, ctx.real("epsilon", 1e-5), True)


def _repeat_each(ctx: OpContext, index: int, count: int) -> Node:
    tensor = ctx.constant(index, "the scale or bias of a group norm")
    return ctx.reform(index, f"each*{count}", tensor.repeat_interleave(count))


def instance_norm(ctx: OpContext) -> Result:
    """InstanceNormalization."""
    x, weight, bias = (ctx.tensor(index) for index in range(3))
    return ctx.call("aten.instance_norm", x, weight, bias, None, None, True, 0.0, ctx.real("epsilon", 1e-5), True)


def lp_norm(ctx: OpContext) -> Result:
    """LpNormalization: divides by the p-norm along one axis."""
    x = ctx.tensor(0)
    axis = ctx.axis(ctx.integer("axis", -1), ctx.rank(x))
    length = ctx.call("aten.linalg_vector_norm", x, ctx.integer("p", 2), [axis], True)
    # vectors of length zero stay as they are
    safe = ctx.call("aten.where.ScalarSelf", ctx.call("aten.eq.Scalar", length, 0), 1.0, length)
    return ctx.call("aten.div.Tensor", x, ctx.cast(safe, ctx.dtype(x)))


def mean_variance(ctx: OpContext) -> Result:
    """MeanVarianceNormalization `(x - mean) / (deviation + 1e-9)`."""
    x = ctx.tensor(0)
    axes = [ctx.axis(axis, ctx.rank(x)) for axis in ctx.integers("axes") or [0, 2, 3]]
    centered = ctx.call("aten.sub.Tensor", x, ctx.call("aten.mean.dim", x, axes, True))
    variance = ctx.call("aten.mean.dim", ctx.call("aten.pow.Tensor_Scalar", centered, 2), axes, True)
    deviation = ctx.call("aten.add.Tensor", ctx.call("aten.sqrt", variance), 1e-9)
    return ctx.call("aten.div.Tensor", centered, deviation)


NORM: dict[str, Operator] = {
    "BatchNormalization": batch_norm,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "LpNormalization": lp_norm,
    "MeanVarianceNormalization": mean_variance,
    "RMSNormalization": rms_norm,
}
