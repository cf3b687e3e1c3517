"""Normalization layers."""

from __future__ import annotations

import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitter

RMS_OPSET = 23


def _affine(context: Context, value: ir.Value, call: Call, rank: int) -> ir.Value:
    """`value * weight + bias` with per-channel weight and bias on axis 1."""
    for kind, name in (("Mul", "weight"), ("Add", "bias")):
        node = call.optional(name)
        if node is not None:
            shaped = context.op("Reshape", [context.value(node), context.ints([-1] + [1] * (rank - 2))])
            value = context.op(kind, [value, shaped])
    return value


def _layer_norm(context: Context, call: Call) -> ir.Value:
    shape = call.integers("normalized_shape")
    bias = call.optional("bias")
    scale = _scale(context, call, shape)
    inputs = [context.value(call.node_at("input")), scale, None if bias is None else context.value(bias)]
    return context.op("LayerNormalization", inputs, {"axis": -len(shape), "epsilon": float(call.number("eps"))})


def _scale(context: Context, call: Call, shape: list[int]) -> ir.Value:
    """The weight; ones when there is none."""
    weight = call.optional("weight")
    return context.constant(torch.ones(shape, dtype=call.type.dtype)) if weight is None else context.value(weight)


def _rms_norm(context: Context, call: Call) -> ir.Value:
    """`x / sqrt(mean(x^2) + eps) * weight`; before there was an operator, in the shape that onnxruntime recognises."""
    dtype = call.type.dtype
    value = context.value(call.node_at("input"))
    eps = call.number("eps", torch.finfo(dtype).eps)
    shape = call.integers("normalized_shape")
    if context.opset >= RMS_OPSET:
        attributes = {"axis": -len(shape), "epsilon": float(eps)}
        return context.op("RMSNormalization", [value, _scale(context, call, shape)], attributes)
    axes = context.ints(range(-len(shape), 0))
    square = context.op("Pow", [value, context.scalar(2, dtype)])
    mean = context.op("ReduceMean", [square, axes], {"keepdims": 1})
    root = context.op("Sqrt", [context.op("Add", [mean, context.scalar(eps, dtype)])])
    normal = context.op("Div", [value, root])
    weight = call.optional("weight")
    return normal if weight is None else context.op("Mul", [normal, context.value(weight)])


def _group_norm(context: Context, call: Call) -> ir.Value:
    node = call.node_at("input")
    groups, shape = call.integer("num_groups"), call.shape("input")
    flat = context.op("Reshape", [context.value(node), context.ints([0, groups, -1])])
    normal = _instance_normal(context, flat, groups, call)
    sizes = [context.size(node, axis) for axis in range(len(shape))]
    unknown = [axis for axis, size in enumerate(sizes) if not isinstance(size, int) and axis > 0]
    target = [0, *(-1 if [axis] == unknown else size for axis, size in enumerate(sizes) if axis > 0)]
    return _affine(context, context.op("Reshape", [normal, context.sizes(target)]), call, len(shape))


def _instance_norm(context: Context, call: Call) -> ir.Value:
    if not call.flag("use_input_stats"):
        raise call.unsupported("instance norm with running statistics", "fold it into the layer before")
    shape = call.shape("input")
    if not isinstance(shape[1], int):
        raise call.unsupported("instance norm of a symbolic number of channels", "fix the channels of the input")
    normal = _instance_normal(context, context.value(call.node_at("input")), shape[1], call)
    return _affine(context, normal, call, len(shape))


def _instance_normal(context: Context, value: ir.Value, channels: int, call: Call) -> ir.Value:
    dtype = call.type.dtype
    ones = context.constant(torch.ones(channels, dtype=dtype))
    zeros = context.constant(torch.zeros(channels, dtype=dtype))
    return context.op("InstanceNormalization", [value, ones, zeros], {"epsilon": float(call.number("eps"))})


EMITTERS: dict[str, Emitter] = {
    "aten.layer_norm": _layer_norm,
    "aten.rms_norm": _rms_norm,
    "aten.group_norm": _group_norm,
    "aten.instance_norm": _instance_norm,
}
