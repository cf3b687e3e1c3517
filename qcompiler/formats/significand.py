"""Rounding to a few significant bits, by the addition that drops the others."""

from __future__ import annotations

import torch
from torch import Tensor

# Reals worked on at a time, so that intermediates stay in the cache.
_CHUNK = 1 << 16
_EXPONENT_FIELD = 0x7F800000
_FRACTION_BITS = 23


def narrow(dtype: torch.dtype) -> bool:
    """Whether float32 holds every number of this dtype."""
    return dtype in (torch.float32, torch.float16, torch.bfloat16)


def round_significand(x: Tensor, mantissa: int, smallest_exponent: int, highest: float) -> Tensor:
    """Nearest number with `mantissa` bits after the leading one, half to even, within -highest .. highest.

    Formula: with e = max(floor(log2 |x|), smallest_exponent), adding and subtracting 1.5 * 2^(e + 23 - mantissa)
    in float32 leaves a multiple of 2^(e - mantissa), rounded half to even; below 2^smallest_exponent the steps no
    longer shrink (subnormals). Zero has no sign; NaN stays NaN.
    Shapes: any, dtype of `x`, one that float32 holds. `mantissa` 1 to 20; the limits as MiniFloat checks them.
    """
    copied = x.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    smallest = 2.0**smallest_exponent
    anchor = 1.5 * 2.0 ** (_FRACTION_BITS - mantissa)
    for part in copied.view(-1).split(_CHUNK):
        part.clamp_(-highest, highest)
        power = (part.view(torch.int32) & _EXPONENT_FIELD).view(torch.float32).clamp_(min=smallest).mul_(anchor)
        part.add_(power).sub_(power)
    return copied.to(x.dtype)
