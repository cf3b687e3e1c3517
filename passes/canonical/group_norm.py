"""Group norms in pieces: an instance norm over groups of channels, between two reshapes, with a gain per channel."""

from __future__ import annotations

import torch

from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType
from qcompiler.passes.canonical.product import operand

GROUP_NORM, INSTANCE_NORM = "aten.group_norm", "aten.instance_norm"


def group_norm(program: Program, node: Node, step: str) -> Node | None:
    """The group norm of x [N, C, ...] that `reshape(instance_norm(reshape(x, [N, groups, ...])), [N, C, ...])` is."""
    norm = operand(program, node, "aten.reshape")
    inner = operand(program, norm, INSTANCE_NORM)
    x = operand(program, inner, "aten.reshape")
    if norm is None or inner is None or x is None or program.shape(node) != program.shape(x):
        return None
    split, whole = program.shape(inner), program.shape(x)
    if len(whole) < 2 or split[0] != whole[0]:
        return None
    groups, channels = split[1], whole[1]
    arguments = program.bind(norm)
    if not isinstance(groups, int) or not isinstance(channels, int) or channels % groups or not plain(program, norm):
        return None
    builder = program.before(node, step)

    def spread(name: str, neutral: float) -> Node | None:
        value = program.constant(arguments[name])
        if value is None or not (value.is_meta or bool((value != neutral).any())):
            return None
        return builder.param(f"{norm.name}.{name}", value.repeat_interleave(channels // groups))

    weight, bias = spread("weight", 1.0), spread("bias", 0.0)
    return builder.call(GROUP_NORM, x, groups, weight, bias, arguments["eps"], name="group_norm")


def plain(program: Program, norm: Node) -> bool:
    """Whether an instance norm takes its statistics from its input, and its weight and bias are constants."""
    arguments = program.bind(norm)
    affine = [value for value in (arguments["weight"], arguments["bias"]) if value is not None]
    fixed = all(program.constant(value) is not None for value in affine)
    return fixed and arguments["running_mean"] is None and arguments["running_var"] is None


def channel_affine(program: Program, node: Node, step: str) -> Node | None:
    """A group norm without weight, times a constant per channel; or one with weight and without bias, plus one."""
    norm, constant = node.args[0], node.args[1]
    if not isinstance(norm, Node) or program.op(norm) != GROUP_NORM or len(norm.users) != 1:
        return None
    vector = channel_vector(program, norm, constant)
    arguments = program.bind(norm)
    multiplies = program.op(node) == "aten.mul.Tensor"
    fits = arguments["bias"] is None and (arguments["weight"] is None) == multiplies
    if vector is None or not isinstance(constant, Node) or not fits:
        return None
    builder = program.before(node, step)
    same = program.shape(constant) == tuple(vector.shape)
    arguments["weight" if multiplies else "bias"] = constant if same else builder.param(str(constant.target), vector)
    names = ("input", "num_groups", "weight", "bias", "eps")
    return builder.call(GROUP_NORM, *(arguments[name] for name in names), name=norm.name)


def channel_vector(program: Program, norm: Node, constant: object) -> torch.Tensor | None:
    """A constant that broadcasts over all but the channels of a norm's result [N, C, ...], as a vector [C]."""
    value, type_ = program.constant(constant), program.type(norm)
    if value is None or not isinstance(type_, TensorType) or value.dim() > type_.rank or value.dtype != type_.dtype:
        return None
    shape = [1] * (type_.rank - value.dim()) + list(value.shape)
    return value.reshape(-1) if shape[1] == type_.shape[1] == value.numel() else None
