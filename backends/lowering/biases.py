"""Biases as int32 codes, added to the products before they are scaled.

Formula: `code = round(b / (sx * sw))`, the product of the scales in float32 as the kernels compute it. A channel whose
code would pass 2^30 gets the wider weight scale `|b| / (sx * 2^30)`: its weights are then far below its bias.
Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference".
"""

from __future__ import annotations

import torch
from torch.fx.node import Argument

from qcompiler.backends.lowering.operands import Operand
from qcompiler.backends.reference.arithmetic import MOST_BIAS
from qcompiler.formats import Integer
from qcompiler.ir.program import Builder, Node
from qcompiler.ir.types import TensorType
from qcompiler.spec import Level, QuantSpec, dequantize
from qcompiler.spec import quantize as spec_quantize


def integer_bias(builder: Builder, x: Operand, w: Operand, bias: Node) -> tuple[list[Argument], list[Argument]] | None:
    """Weight and bias as `[codes, scale, zero point]`; None when a scale is found only at run time.

    Shapes: x scale of one element, w scale of one element or one per output channel, bias [N] -> codes [N], scale [N]
    or [1].
    """
    program = builder.program
    x_scale, w_scale, reals = (program.constant(node) for node in (x.scale, w.scale, bias))
    if x_scale is None or w_scale is None or reals is None or x_scale.numel() > 1:
        return None
    weight: list[Argument] = [w.codes, w.scale, w.zero_point]
    least = reals.float().abs() / (x_scale.reshape(()) * MOST_BIAS)
    least = (least if w_scale.numel() > 1 else least.max()).reshape(w_scale.shape)
    if bool((w_scale < least).any()):
        w_scale = torch.maximum(w_scale, least)
        weight = _widened(builder, w, w_scale)
    factor = (x_scale.reshape(()) * w_scale).reshape(-1)
    codes = (reals.double() / factor.double()).round().clamp(-MOST_BIAS, MOST_BIAS).float()
    spec = QuantSpec(Integer(32, signed=True), (Level((1 if factor.numel() > 1 else -1,)),))
    stored = builder.param(f"{bias.target}.codes", codes, TensorType(codes.dtype, tuple(codes.shape), spec))
    return weight, [stored, builder.param(f"{bias.target}.scale", factor), None]


def _widened(builder: Builder, w: Operand, scale: torch.Tensor) -> list[Argument]:
    """The weight on another scale."""
    program = builder.program
    zero_point = program.constant(w.zero_point)
    reals = dequantize(program.param(w.codes), program.param(w.scale), zero_point, w.spec)
    codes = spec_quantize(reals, scale, zero_point, w.spec)
    stored = builder.param(f"{w.codes.target}.wide", codes, TensorType(codes.dtype, tuple(codes.shape), w.spec))
    return [stored, builder.param(f"{w.scale.target}.wide", scale), w.zero_point]
