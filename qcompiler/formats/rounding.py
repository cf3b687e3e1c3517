"""Rounding that trains, saturation that fits the carrier, and rounding of scales to their stored format."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from qcompiler.formats.base import Format
from qcompiler.formats.integer import Integer
from qcompiler.formats.minifloat import E8M0, FP8_E4M3
from qcompiler.formats.scales import ScaleName, scale_format


def saturate(x: Tensor, number: Format, carrier: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    """Clamps to the range of an integer format, within what the carrier dtype (that of `x`) can hold.

    Any shape, dtype of `x`; `out` (may be `x`) takes the result. 2^31-1 is no float32; clamping to its float
    neighbour 2^31 would overflow the code.
    """
    dtype = carrier or x.dtype
    return torch.clamp(x, _toward_zero(number.lowest, dtype), _toward_zero(number.highest, dtype), out=out)


def _toward_zero(limit: float, dtype: torch.dtype) -> float:
    """The nearest integer to `limit`, towards zero, that the dtype holds exactly."""
    facts = torch.finfo(dtype)
    significant_bits = 1 - round(math.log2(facts.eps))
    magnitude = int(abs(limit))
    surplus = max(magnitude.bit_length() - significant_bits, 0)
    return math.copysign(min(float(magnitude >> surplus << surplus), facts.max), limit)


class _StraightThrough(torch.autograd.Function):
    """Forward: the second argument, bit for bit. Backward: the gradient goes to the first one unchanged."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, result: Tensor) -> Tensor:
        return result.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


def round_through(x: Tensor, number: Format | None = None) -> Tensor:
    """Rounds to the format (default: to integers without limit) with a straight-through gradient.

    Shape and dtype of `x`. The gradient is 1 inside the range of the format and 0 outside. The usual form
    `x + (round(x) - x).detach()` is not exact in floating point; this one returns the rounded value itself.
    Source: Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons".
    """
    plain = x.detach()
    rounded = number.round(plain) if number else plain.round()
    if not (torch.is_grad_enabled() and x.requires_grad):
        return rounded
    inside = x.clamp(number.lowest, number.highest) if number else x
    return cast(Tensor, _StraightThrough.apply(inside, rounded))


def round_scale(scale: Tensor, name: ScaleName) -> Tensor:
    """Rounds positive float32 scales to what their stored format holds; any shape, float32.

    Too large becomes the largest value, too small the smallest positive one, so a finite scale stays usable.
    """
    stored = scale_format(name)
    scale = scale.float().clamp(max=stored.largest)
    match name:
        case "f32":
            rounded = scale
        case "f16":
            rounded = scale.half().float()
        case "bf16":
            rounded = scale.bfloat16().float()
        case "e4m3":
            rounded = FP8_E4M3.round(scale)
        case "e8m0":
            rounded = E8M0.round(scale)
        case "u8" | "u6" | "u4":
            rounded = Integer(stored.bits, signed=False).round(scale)
    return rounded.clamp(min=stored.smallest)
