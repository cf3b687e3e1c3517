"""Integer arithmetic that every kernel's meaning is built from; requantization is defined here and nowhere else.

Codes are exact whole numbers in float tensors. Products are summed in float64, which is exact because no kernel sums
more than `MOST_TERMS` of them; everything behind the sum is float32 in a fixed order.

Source: ONNX QuantizeLinear and DequantizeLinear; Jacob et al. 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference"; the order of the float32 products is that of onnxruntime's kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.errors import UnsupportedError, VerifyError
from qcompiler.ir.ops import op_target

Parts = Sequence[Tensor | None]
"""What a lowered program hands over for a quantized tensor: codes, scale, zero point or None."""

MOST_TERMS = 32768
"""Longest sum: 32768 * 255 * 128 < 2^30, so that with a bias below `MOST_BIAS` int32 never overflows."""
MOST_BIAS = 2**30


@dataclass(frozen=True)
class Codes:
    """A quantized operand.

    Args:
        codes: whole numbers, any shape.
        scale: float32, broadcastable per tensor, channel or token; of no axes when there is only one.
        zero_point: whole numbers shaped like the scale, None when symmetric.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None

    @staticmethod
    def of(parts: Parts) -> Codes:
        """Reads the three parts; raises VerifyError when codes or scale are missing."""
        codes, scale, zero_point = parts
        if codes is None or scale is None:
            raise VerifyError("a quantized operand of a kernel needs codes and a scale")
        return Codes(codes, single(scale.float()), None if zero_point is None else single(zero_point.float()))

    def offsets(self) -> Tensor:
        """Codes less zero point, float64 and exact."""
        codes = self.codes.double()
        return codes if self.zero_point is None else codes - self.zero_point.double()

    def reals(self) -> Tensor:
        """`(code - zero point) * scale` in float32."""
        return self.offsets().float() * self.scale


@dataclass(frozen=True)
class Grid:
    """Where a kernel puts its result.

    Args:
        scale: float32.
        zero_point: whole number, 0 when symmetric.
        low: smallest code, an absorbed activation included.
        high: largest code, likewise.
    """

    scale: Tensor
    zero_point: Tensor
    low: float
    high: float

    @staticmethod
    def of(parts: Parts, low: float, high: float) -> Grid:
        """Reads scale and zero point of a result; raises VerifyError when the scale is missing."""
        scale, zero_point = parts
        if scale is None:
            raise VerifyError("a quantized result of a kernel needs a scale")
        zero = torch.zeros(()) if zero_point is None else single(zero_point.float())
        return Grid(single(scale.float()), zero, low, high)

    def quantize(self, reals: Tensor) -> Tensor:
        """`clip(round(x / scale) + zero point)`, half to even, in float32."""
        return self.place(reals / self.scale)

    def place(self, steps: Tensor) -> Tensor:
        """`clip(round(steps) + zero point)`, half to even."""
        return (steps.round() + self.zero_point).clamp(self.low, self.high)


def single(parameter: Tensor) -> Tensor:
    """A scale or zero point without its axes when there is only one."""
    return parameter.reshape(()) if parameter.numel() == 1 else parameter


def along(values: Tensor, axis: int, rank: int) -> Tensor:
    """One value per channel, shaped to broadcast along `axis` of a tensor of `rank` axes; a single one stays single."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def check_terms(terms: int) -> None:
    """Refuses a sum whose int32 accumulator might overflow.

    Raises:
        UnsupportedError: above `MOST_TERMS`.
    """
    if terms > MOST_TERMS:
        raise UnsupportedError(
            f"a sum of {terms} products may overflow int32", mend=f"split it: kernels sum at most {MOST_TERMS}"
        )


def requantize(total: Tensor, factor: Tensor, grid: Grid) -> Tensor:
    """`clip(round(float(total) * factor) + zero point)`.

    Shapes: total [...] exact int32 in float64, factor broadcastable float32 -> float32 codes [...].
    """
    return grid.place(total.float() * factor)


def fused_multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`a * b + c` of float32 tensors, rounded once to float32.

    The product of two float32 is exact in float64. The sum is rounded to odd there (Boldo and Melquiond 2008,
    "Emulation of FMA and correctly rounded sums"), so that rounding it again to float32 does not round twice.
    """
    product, added = torch.broadcast_tensors(a.double() * b.double(), c.double())
    total = product + added
    back = total - product
    missing = (product - (total - back)) + (added - back)
    even = (total.view(torch.int64) & 1) == 0
    odd = torch.nextafter(total, torch.copysign(torch.full_like(total, torch.inf), missing))
    return torch.where((missing != 0) & even, odd, total).float()


def apply(op: str, *arguments: object) -> Tensor:
    """The ATen operator called `op`; raises VerifyError when it yields anything but one tensor."""
    result = op_target(op)(*arguments)
    if not isinstance(result, Tensor):
        raise VerifyError(f"{op} yields no single tensor")
    return result
