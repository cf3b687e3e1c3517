"""Linear layers and convolutions over signs.

Formula (q codes 1 and -1, s scales): `total = sum qx * qw` in int32, a zero around an image counts nothing; behind the
  sum everything is as in `dense`. A result of signs is 1 where the real is not negative, else -1:
  `float(total + qb) * (sx * sw)` or `float(total) * (sx * sw) + b`, whose scale does not matter.
Source: Rastegari et al. 2016, "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qcompiler.backends.reference import dense
from qcompiler.backends.reference.arithmetic import Parts
from qcompiler.errors import VerifyError


def conv(
    input: Parts,
    weight: Parts,
    bias: dense.Bias,
    *window: object,
    op: str,
    result: Parts | None = None,
    low: float = 0,
    high: float = 0,
) -> Tensor:
    """A convolution `op` of signs.

    Shapes: as the ATen operator; `window` its arguments after the bias. Weight scales one or one per output channel.
    Returns float32: reals without `result`, signs where it lies between -1 and 1, else codes. Raises VerifyError for
    codes that are no signs, UnsupportedError when int32 might overflow.
    """
    _check(input)
    _check(weight)
    if _of_signs(result, low, high):
        return signs(dense.conv(input, weight, bias, *window, op=op))
    return dense.conv(input, weight, bias, *window, op=op, result=result, low=low, high=high)


def linear(
    input: Parts,
    weight: Parts,
    bias: dense.Bias = None,
    *,
    op: str,
    result: Parts | None = None,
    low: float = 0,
    high: float = 0,
) -> Tensor:
    """A linear layer of signs.

    Shapes: input [..., K], weight [N, K], bias [N] -> [..., N]. Returns and raises as `conv`.
    """
    _check(input)
    _check(weight)
    if _of_signs(result, low, high):
        return signs(dense.linear(input, weight, bias, op=op))
    return dense.linear(input, weight, bias, op=op, result=result, low=low, high=high)


def signs(reals: Tensor) -> Tensor:
    """1 where a number is not less than zero, -1 where it is, in float32; NaN is not less."""
    ones = torch.ones_like(reals, dtype=torch.float32)
    return torch.where(reals < 0, -ones, ones)


def _of_signs(result: Parts | None, low: float, high: float) -> bool:
    return result is not None and (low, high) == (-1, 1)


def _check(parts: Parts) -> None:
    codes, _, zero_point = parts
    if zero_point is not None or codes is None or not bool((codes.abs() == 1).all()):
        raise VerifyError("a kernel of signs takes codes 1 and -1 without zero points")


BIT_MEANINGS: Mapping[str, Callable[..., object]] = {
    "conv_binary": conv,
    "linear_binary": linear,
    "conv_bits": dense.conv,
    "linear_bits": dense.linear,
}
"""What kernels of signs and bit planes compute, beside `reference.MEANINGS`: onnxruntime has no such kernels."""
