"""What learned rounding learns: which neighbour on the grid a weight takes, the weight itself, steps, biases.

Formula   rectified sigmoid h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1), zeta = 1.1, gamma = -0.1; at the start
          h is how far a weight stands from its lower neighbour to the upper one; hard: upper where V >= 0
Shapes    those of the weight; scales as `level.scale_shape(weight.shape)`
Source    Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization"; Esser et al. 2020, "Learned
          Step Size Quantization"; Ding et al. 2024, "CBQ: Cross-Block Quantization for Large Language Models" (low
          rank); Chen et al. 2025, "FP4DiT: Towards Effective Floating Point Quantization for Diffusion Transformers"
          (scale-aware)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from qcompiler.formats import Format
from qcompiler.passes.solve.driver import Solved
from qcompiler.spec import (
    QuantSpec,
    Scales,
    dequantize,
    effective_scale,
    expand_blocks,
    quantize,
    round_scale,
    round_through,
)
from qcompiler.training import Trained, Variable

Freedom = Literal["neighbours", "step", "whole"]
_ZETA, _GAMMA = 1.1, -0.1
_LEAST_STEP = 1e-6
_FRACTION = 1e-4


class WeightVariable(Variable, Protocol):
    """A weight that is learned."""

    def solved(self) -> Solved:
        """Codes and scales of the weight as it stands."""
        ...

    def spec(self) -> QuantSpec:
        """What the codes are numbers of."""
        ...


@dataclass(frozen=True)
class Quantized:
    """A float weight and its grid.

    Args:
        weight: float32.
        scale: one tensor per level, bare for one level.
        zero_point: None when symmetric.
        spec: its numbers.
    """

    weight: Tensor
    scale: Scales
    zero_point: Tensor | None
    spec: QuantSpec

    def neighbours(self) -> tuple[Tensor, Tensor]:
        """Grid values around each weight, equal where the grid ends."""
        ratio = self.weight / effective_scale(self.scale, self.spec, self.weight.shape)
        if self.zero_point is not None:
            ratio = ratio + expand_blocks(self.zero_point, self.spec.block, self.weight.shape)
        return grid_neighbours(ratio, self.spec.format)

    def real(self, codes: Tensor) -> Tensor:
        """Grid values to reals."""
        return dequantize(codes.clone(), self.scale, self.zero_point, self.spec)


def rectified_sigmoid(v: Tensor) -> Tensor:
    """`clip(sigmoid(v) * 1.2 - 0.1, 0, 1)`."""
    return (torch.sigmoid(v) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


def rounding_rate(rate: float, iterations: int) -> float:
    """The rate of V: as given, or for 0 one at which V can cross the sigmoid a few times in so many steps."""
    return rate if rate > 0 else 10.0 / max(iterations, 100)


def straight_rate(rate: float, iterations: int) -> float:
    """The rate of a weight in steps of its grid: as given, or for 0 one step over the number of iterations."""
    return rate if rate > 0 else 1.0 / max(iterations, 100)


def inverse_rectified_sigmoid(fraction: Tensor) -> Tensor:
    """V at which the rectified sigmoid is `fraction`, kept off the ends, where it has no gradient."""
    fraction = fraction.clamp(_FRACTION, 1 - _FRACTION)
    return -torch.log((_ZETA - _GAMMA) / (fraction - _GAMMA) - 1)


def grid_neighbours(ratio: Tensor, number: Format) -> tuple[Tensor, Tensor]:
    """The largest grid value at or below each real and the next above it; both the last one outside the grid."""
    if number.is_integer:
        lower = ratio.floor()
        return lower.clamp(number.lowest, number.highest), (lower + 1).clamp(number.lowest, number.highest)
    values = number.grid().values.to(ratio.dtype)
    index = torch.searchsorted(values, ratio.contiguous(), right=True)
    return values[(index - 1).clamp(min=0)], values[index.clamp(max=len(values) - 1)]


class SoftRounding:
    """Every weight between its two neighbours on the grid.

    Args:
        start: weight and grid; scales stay as they are.
        rate: of V.
        scale_aware: divide V by the distance of the neighbours, in units of the least of the row, so that the gradient
            of V is the same in every binade of a floating-point grid.
        rank: 0 for a free V; otherwise V = V_0 + A B with so many columns in A.
        seed: of A.
    """

    def __init__(self, start: Quantized, rate: float, scale_aware: bool = False, rank: int = 0, seed: int = 0) -> None:
        self._start, self._rate = start, rate
        self._low, self._high = start.neighbours()
        self._base = start.real(self._low)
        self._span = start.real(self._high) - self._base
        fraction = (start.weight - self._base) / torch.where(self._span == 0, 1.0, self._span)
        first = inverse_rectified_sigmoid(fraction)
        self._step = _relative_steps(self._span) if scale_aware else None
        self._first = first if self._step is None else first * self._step
        if rank:
            generator = torch.Generator().manual_seed(seed)
            rows, columns = first.shape[0], first.numel() // max(first.shape[0], 1)
            left = torch.randn(rows, rank, generator=generator) / rank**0.5
            self._leaves = (left.requires_grad_(), torch.zeros(rank, columns).requires_grad_())
        else:
            self._leaves = (self._first.clone().requires_grad_(),)

    def trained(self) -> Sequence[Trained]:
        """V, or the two thin matrices."""
        return [Trained(leaf, self._rate) for leaf in self._leaves]

    def soft(self) -> Tensor:
        """Lower neighbour plus h times the distance to the upper."""
        return self._base + self.softness() * self._span

    def softness(self) -> Tensor:
        """H."""
        return rectified_sigmoid(self._v())

    def hard(self) -> Tensor:
        """The reals of the codes."""
        return self._start.real(self._codes())

    def solved(self) -> Solved:
        """Codes on the grid of the start."""
        return Solved(self._codes(), self._start.scale, self._start.zero_point)

    def spec(self) -> QuantSpec:
        """That of the start."""
        return self._start.spec

    def _codes(self) -> Tensor:
        v = self._v().detach()
        # Rows that move together can leave elements undecided: those take the value next to them.
        undecided = (rectified_sigmoid(v) - 0.5).abs() < _FRACTION if len(self._leaves) > 1 else torch.zeros(())
        up = torch.where(undecided > 0, self._first >= 0, v >= 0)
        return torch.where(up, self._high, self._low)

    def _v(self) -> Tensor:
        if len(self._leaves) > 1:
            v = self._first + (self._leaves[0] @ self._leaves[1]).reshape(self._first.shape)
        else:
            v = self._leaves[0]
        return v if self._step is None else v / self._step


def _relative_steps(span: Tensor) -> Tensor:
    """Distances of neighbours in units of the least positive one of the row; 1 where there is none."""
    positive = torch.where(span > 0, span, torch.inf)
    least = positive.flatten(1).amin(1).reshape(-1, *[1] * (span.dim() - 1)) if span.dim() > 1 else positive.min()
    return torch.where(span > 0, span / least, 1.0)


class Straight:
    """The weight itself, and optionally its scale and zero point, learned through straight-through rounding.

    Args:
        start: weight and grid.
        rate: of the weight, in steps of the grid.
        range_rate: of the logarithm of scales and of zero points; 0 leaves them. Scales of two levels stay.
        freedom: how far a weight may go: to its `neighbours` at the start, one `step` from the nearest value, or over
            the `whole` grid. Other than `whole`, scales stay.
    """

    def __init__(self, start: Quantized, rate: float, range_rate: float = 0.0, freedom: Freedom = "whole") -> None:
        self._start, self._rate, self._range_rate = start, rate, range_rate
        self._unit = effective_scale(start.scale, start.spec, start.weight.shape)
        self._shift = torch.zeros_like(start.weight).requires_grad_()
        ranged = range_rate > 0 and freedom == "whole" and isinstance(start.scale, Tensor)
        self._growth = torch.zeros_like(cast(Tensor, start.scale)).requires_grad_() if ranged else None
        zero = start.zero_point
        self._offset = torch.zeros_like(zero).requires_grad_() if ranged and zero is not None else None
        self._limits = None if freedom == "whole" else self._allowed(freedom)

    def trained(self) -> Sequence[Trained]:
        """Shifts in steps, growth of scales, offsets of zero points."""
        ranges = [leaf for leaf in (self._growth, self._offset) if leaf is not None]
        return [Trained(self._shift, self._rate), *(Trained(leaf, self._range_rate) for leaf in ranges)]

    def soft(self) -> Tensor:
        """The weight through quantization and back."""
        scale, zero_point = self._scale(), self._zero_point()
        codes = quantize(self._weight(), scale, zero_point, self._start.spec)
        return dequantize(codes, scale, zero_point, self._start.spec)

    def softness(self) -> None:
        """Nothing has to be driven to an end."""
        return

    def hard(self) -> Tensor:
        """The same without gradients."""
        with torch.no_grad():
            return self.soft()

    def solved(self) -> Solved:
        """Codes, scales and zero point as learned."""
        with torch.no_grad():
            scale, zero_point = self._scale(), self._zero_point()
            return Solved(quantize(self._weight(), scale, zero_point, self._start.spec), scale, zero_point)

    def spec(self) -> QuantSpec:
        """That of the start."""
        return self._start.spec

    def _weight(self) -> Tensor:
        weight = self._start.weight + self._shift * self._unit
        # Beyond a limit the gradient still passes, so that a weight can come back.
        return weight if self._limits is None else weight + (weight.clamp(*self._limits) - weight).detach()

    def _allowed(self, freedom: Freedom) -> tuple[Tensor, Tensor]:
        if freedom == "neighbours":
            low, high = self._start.neighbours()
        else:
            number = self._start.spec.format
            codes = quantize(self._start.weight, self._start.scale, self._start.zero_point, self._start.spec)
            values = number.grid().values.to(codes.dtype)
            index = torch.searchsorted(values, codes.contiguous())
            low, high = values[(index - 1).clamp(min=0)], values[(index + 1).clamp(max=len(values) - 1)]
        return self._start.real(low), self._start.real(high)

    def _scale(self) -> Scales:
        if self._growth is None:
            return self._start.scale
        return stored_scale(cast(Tensor, self._start.scale), self._growth, self._start.spec)

    def _zero_point(self) -> Tensor | None:
        zero, number = self._start.zero_point, self._start.spec.format
        if zero is None or self._offset is None:
            return zero
        return round_through(zero + self._offset, number)


class StepSize:
    """The scale of a static activation, learned in its logarithm.

    Args:
        scale: of one level.
        spec: of the activation.
        rate: of the logarithm.
    """

    def __init__(self, scale: Tensor, spec: QuantSpec, rate: float) -> None:
        self._scale, self._spec, self._rate = scale, spec, rate
        self._growth = torch.zeros_like(scale).requires_grad_()

    def trained(self) -> Sequence[Trained]:
        """The logarithm of the growth."""
        return [Trained(self._growth, self._rate)]

    def soft(self) -> Tensor:
        """The scale as its stored format holds it, with the gradient of the unrounded one."""
        return stored_scale(self._scale, self._growth, self._spec)

    def hard(self) -> Tensor:
        """The same without gradients."""
        return self.soft().detach()

    def softness(self) -> None:
        """Nothing has to be driven to an end."""
        return


class Bias:
    """A bias, learned as it is.

    Args:
        bias: float.
        unit: size of a natural step.
        rate: in units.
    """

    def __init__(self, bias: Tensor, unit: float, rate: float) -> None:
        self._bias, self._unit, self._rate = bias, unit, rate
        self._shift = torch.zeros_like(bias).requires_grad_()

    def trained(self) -> Sequence[Trained]:
        """The shift."""
        return [Trained(self._shift, self._rate)]

    def soft(self) -> Tensor:
        """The bias."""
        return self._bias + self._shift * self._unit

    def hard(self) -> Tensor:
        """The same without gradients."""
        return self.soft().detach()

    def softness(self) -> None:
        """Nothing has to be driven to an end."""
        return


def stored_scale(scale: Tensor, growth: Tensor, spec: QuantSpec) -> Tensor:
    """`scale * exp(growth)`, at least 1e-6 of the scale, rounded to its stored format with a straight gradient."""
    grown = scale * growth.clamp(-5, 5).exp().clamp(min=_LEAST_STEP)
    rounded = round_scale(grown.detach(), spec.levels[0].scale)
    return rounded + (grown - grown.detach())
