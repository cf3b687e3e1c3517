"""The arithmetic of ONNX Resize along one axis: where each new position reads, and with which weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

_ROUNDED: dict[str, Callable[[float], float]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "round_prefer_floor": lambda position: math.ceil(position - 0.5),
    "round_prefer_ceil": lambda position: math.floor(position + 0.5),
}


@dataclass(frozen=True)
class Axis:
    """One resized axis of fixed size.

    Args:
        old: its size.
        new: its size afterwards.
        scale: of coordinates; not always `new / old`, because sizes are whole numbers.
        coordinates: how ONNX maps a new position to an old one.
        region: start and end of the region of interest as parts of the axis.
    """

    old: int
    new: int
    scale: float
    coordinates: str
    region: tuple[float, float] = (0.0, 1.0)

    def positions(self) -> list[float]:
        """The old coordinate that each new position reads."""
        return [self._position(row) for row in range(self.new)]

    def outside(self) -> list[bool]:
        """Which new positions read beyond the ends, where a cropping Resize puts its extrapolation value."""
        crops = self.coordinates == "tf_crop_and_resize"
        return [crops and not 0 <= position <= self.old - 1 for position in self.positions()]

    def _position(self, row: int) -> float:
        length = self.scale * self.old
        if self.coordinates == "asymmetric":
            return row / self.scale
        if self.coordinates == "align_corners":
            return row * (self.old - 1) / (length - 1) if length != 1 else 0.0
        if self.coordinates == "tf_crop_and_resize":
            start, end = self.region
            reach = (end - start) * (self.old - 1)
            return start * (self.old - 1) + (row * reach / (length - 1) if length != 1 else reach / 2)
        if self.coordinates == "pytorch_half_pixel" and length == 1:
            return -0.5
        offset = self.old / 2 * (1 - self.new / length) if self.coordinates == "half_pixel_symmetric" else 0.0
        return offset + (row + 0.5) / self.scale - 0.5

    def rows(self, rounding: str) -> list[int]:
        """The nearest old position for each new one."""
        return [int(min(max(_ROUNDED[rounding](place), 0), self.old - 1)) for place in self.positions()]


@dataclass(frozen=True)
class Filter:
    """An interpolation kernel.

    Args:
        cubic: cubic convolution instead of linear interpolation.
        smooth: widened when it shrinks, against aliasing.
        sharpness: coefficient `a` of the cubic kernel; Keys, IEEE ASSP 29(6), 1981.
        inside: whether positions beyond the ends weigh nothing instead of repeating the edge.
    """

    cubic: bool = False
    smooth: bool = False
    sharpness: float = -0.75
    inside: bool = False

    def matrix(self, axis: Axis) -> torch.Tensor:
        """float64 `[new, old]`: what each new position takes from each old one."""
        weights = torch.zeros(axis.new, axis.old, dtype=torch.float64)
        shrink = min(axis.scale, 1.0) if self.smooth else 1.0
        reach = (2 if self.cubic else 1) / shrink
        for row, position in enumerate(axis.positions()):
            base = math.ceil(position) - 1  # a position on a pixel counts as right of the one before
            places = range(base + math.floor(-reach) + 1, base + 1 - math.floor(-reach))
            values = [self._kernel((place - position) * shrink) for place in places]
            self._place(weights[row], places, values)
        return weights

    def _place(self, row: torch.Tensor, places: Sequence[int], values: Sequence[float]) -> None:
        kept = [not self.inside or 0 <= place < len(row) for place in places]
        total = sum(value for value, used in zip(values, kept, strict=True) if used)
        for place, value, used in zip(places, values, kept, strict=True):
            if used:
                row[min(max(place, 0), len(row) - 1)] += value / total

    def _kernel(self, distance: float) -> float:
        x, a = abs(distance), self.sharpness
        if not self.cubic:
            return max(1.0 - x, 0.0)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0
