"""Ranges of weights: what part of the real line the grid of each block covers.

Formula   minmax: the extremes. mse: argmin over f in 1, 0.98, ... 0.22 of sum h * |fq(w) - w|^norm with range
          f * extremes, per block. percentile: the quantiles Q(p) and Q(100 - p) of each block; of |w| when
          symmetric
Shapes    weight of the spec's rank -> low, high: `level.scale_shape(weight.shape)`
Promise   mse: per block never worse than minmax, which is the first candidate
Needs     nothing but the weight; `curvature` (h, broadcastable to the weight) when errors count differently
Source    Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference: A
          whitepaper"; Choukroun et al. 2019, "Low-bit Quantization of Neural Networks for Efficient
          Inference"
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.formats.extents import in_units_of
from qcompiler.passes.solve.rows import row_slices
from qcompiler.spec import QuantSpec, block_reduce, dequantize, expand_blocks, qparams_from_range, quantize

SearchName = Literal["minmax", "mse", "percentile"]
_SEARCHES: tuple[SearchName, ...] = ("minmax", "mse", "percentile")
_STEPS = 40
# Elements looked at together: what a search makes of them stays in the cache.
_SLICE = 1 << 18


@dataclass(frozen=True)
class Search:
    """How a weight's range is found.

    Args:
        search: `minmax`, `mse` or `percentile`.
        percentile: of `percentile`: share of a block below its upper end, in percent.
        norm: of `mse`: power of an error; 2 is the mean square, 2.4 is what second-order solvers use.

    Raises:
        SpecError: for an unknown search, a percentile that is none or a norm that is not positive.
    """

    search: SearchName = "minmax"
    percentile: float = 99.9
    norm: float = 2.0

    def __post_init__(self) -> None:
        if self.search not in _SEARCHES:
            raise SpecError(f"there is no weight search '{self.search}'", mend=f"searches: {', '.join(_SEARCHES)}")
        if not 50.0 < self.percentile <= 100.0:
            raise SpecError(f"percentile {self.percentile} is not between 50 and 100", mend="99.9 is usual")
        if not self.norm > 0:
            raise SpecError(f"an error to the power {self.norm}", mend="2 and 2.4 are usual")

    def range(self, weight: Tensor, spec: QuantSpec, curvature: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Low and high of each block, float32."""
        weight = weight.detach().float()
        slices = row_slices(weight.shape, spec, _SLICE)
        if len(slices) == 1:
            return self._range(weight, spec, curvature)
        if curvature is not None:
            curvature = curvature.expand_as(weight)
        found = [self._range(weight[rows], spec, None if curvature is None else curvature[rows]) for rows in slices]
        return torch.cat([low for low, _ in found]), torch.cat([high for _, high in found])

    def _range(self, weight: Tensor, spec: QuantSpec, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        low, high = block_reduce(weight, spec.block, "amin"), block_reduce(weight, spec.block, "amax")
        if self.search == "mse":
            factor = _least_error(weight, low, high, spec, curvature, self.norm)
            return low * factor, high * factor
        if self.search == "percentile":
            return _quantiles(weight, self.percentile / 100, spec)
        return low, high


def _least_error(
    weight: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, curvature: Tensor | None, norm: float
) -> Tensor:
    """The best shrink factor of each block."""
    block, held = _block_index(weight, spec), _outermost(low, high, spec)
    best, least = torch.ones_like(low), torch.full(low.shape, torch.inf, dtype=torch.float64)
    for step in range(_STEPS):
        factor = torch.where(held, 1.0, 1.0 - step / (_STEPS + 10))
        scale, zero_point = qparams_from_range(low * factor, high * factor, spec)
        codes = quantize(weight, scale, zero_point, spec)
        error = dequantize(codes, scale, zero_point, spec) - weight
        error = error.square() if norm == 2 else error.abs_().pow_(norm)
        error = error if curvature is None else error * curvature
        total = torch.bincount(block, error.flatten().double(), low.numel()).reshape(low.shape)
        better = total < least
        best, least = torch.where(better, factor, best), torch.where(better, total, least)
    return best


def _outermost(low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """Blocks that set an outer scale: they must not shrink, or all their neighbours would change."""
    span = torch.maximum(-low, high)
    if len(spec.levels) == 1:
        return torch.zeros_like(span, dtype=torch.bool)
    outer = in_units_of(spec.levels[1].block, spec.block)
    return span == expand_blocks(block_reduce(span, outer, "amax"), outer, span.shape)


def _quantiles(weight: Tensor, share: float, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Order statistics of each block: the elements sorted by block, then by value."""
    block, mirrored = _block_index(weight, spec), spec.symmetric and spec.format.signed
    shape = _scale_shape(weight, spec)
    values, order = (weight.abs() if mirrored else weight).flatten().sort()
    by_block = block[order].argsort(stable=True)
    values = values[by_block]
    sizes = torch.bincount(block)
    starts = sizes.cumsum(0) - sizes
    high = values[starts + ((sizes - 1) * share).round().long()].reshape(shape)
    low = -high if mirrored else values[starts + ((sizes - 1) * (1 - share)).round().long()].reshape(shape)
    return low, high


def _block_index(weight: Tensor, spec: QuantSpec) -> Tensor:
    """Number of the block of every element, flat."""
    shape = _scale_shape(weight, spec)
    return expand_blocks(torch.arange(math.prod(shape)).reshape(shape), spec.block, weight.shape).flatten()


def _scale_shape(weight: Tensor, spec: QuantSpec) -> list[int]:
    return [int(size) for size in spec.levels[0].scale_shape(weight.shape)]
