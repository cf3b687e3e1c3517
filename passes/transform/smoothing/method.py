"""What a smoothing method sees of a group of channels, and what it answers.

A group's coordinates are divided by one positive vector (after one shift, where the group admits it) in every value
that carries them; the layers that read those values multiply their weights by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.passes.transform.evaluate import Reader, column_energies, reading_error, rounded
from qcompiler.spec import QuantSpec

SMALLEST, LARGEST = 1e-4, 1e4
# Of images every pixel is a row, more than statistics need.
_MOST_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Smoothing:
    """How a group changes: `x -> (x - shift) / scale`.

    Args:
        scale: [coordinates] float64, positive.
        shift: [coordinates] float64; None for no shift.
    """

    scale: Tensor
    shift: Tensor | None = None


@dataclass(frozen=True, eq=False)
class View:
    """A value of the group, as the layers see it that multiply it by their weights.

    Args:
        low: smallest value of each channel, [channels] float64.
        high: the largest.
        samples: of the value, of its own rank or as rows of channels; empty when nothing will be measured.
        axis: of the channels in the samples.
        spec: of the value as it is quantized; None when it stays float.
        readers: the layers.
        coordinate: int64 [channels], which coordinate of the group each channel holds; -1 for none.
        exponent: of the scale in this value, relative to the first view of the group.
    """

    low: Tensor
    high: Tensor
    samples: Tensor
    axis: int
    spec: QuantSpec | None
    readers: tuple[Reader, ...]
    coordinate: Tensor
    exponent: float = 1.0

    def multiplier(self, smoothing: Smoothing) -> Tensor:
        """What each channel is multiplied by: [channels] float64."""
        chosen = smoothing.scale[self.coordinate.clamp(min=0)] ** -self.exponent
        return torch.where(self.coordinate < 0, torch.ones_like(chosen), chosen)

    def offset(self, smoothing: Smoothing) -> Tensor | None:
        """What is taken off each channel before: [channels] float64."""
        if smoothing.shift is None:
            return None
        chosen = smoothing.shift[self.coordinate.clamp(min=0)]
        return torch.where(self.coordinate < 0, torch.zeros_like(chosen), chosen)

    def error(self, smoothing: Smoothing | None) -> float:
        """Relative squared error of what the layers compute; None for the value as it is."""
        if smoothing is None:
            return reading_error(self.held_out, self.readers, self.spec, axis=self.axis)
        transform, shift = self.multiplier(smoothing), self.offset(smoothing)
        return reading_error(self.held_out, self.readers, self.spec, transform, shift, self.axis)

    @property
    def seen(self) -> Tensor:
        """The samples that methods may fit to: every other one."""
        return self.samples[::2]

    @property
    def held_out(self) -> Tensor:
        """The samples that errors are measured on: the others, so that nothing is gained by fitting too closely."""
        return self.samples[1::2] if len(self.samples) > 1 else self.samples


@dataclass(frozen=True, eq=False)
class SmoothingSite:
    """A group of coordinates that can be scaled together.

    Args:
        name: for the log.
        size: number of coordinates.
        views: the values that layers read; at least one.
        shiftable: whether a shift may move too.
        seed: of every random choice.
    """

    name: str
    size: int
    views: tuple[View, ...]
    shiftable: bool = False
    seed: int = 0

    @cached_property
    def low(self) -> Tensor:
        """Smallest value of each coordinate over all copies: [coordinates]; zero where no layer reads it."""
        return self._gathered([view.low for view in self.leading], "amin")

    @cached_property
    def high(self) -> Tensor:
        """The largest."""
        return self._gathered([view.high for view in self.leading], "amax")

    @property
    def absmax(self) -> Tensor:
        """Largest magnitude of each coordinate: [coordinates]."""
        return torch.maximum(self.low.abs(), self.high.abs())

    @cached_property
    def columns(self) -> Tensor:
        """Largest weight that multiplies each coordinate, over all copies and layers: [coordinates]."""
        largest = [torch.stack([r.columns.abs().amax(1) for r in view.readers]).amax(0) for view in self.leading]
        return self._gathered(largest, "amax")

    @cached_property
    def energies(self) -> Tensor:
        """Sum of the squared weights that multiply each coordinate: [coordinates]."""
        energies = [column_energies(view.readers, [reader.weight for reader in view.readers]) for view in self.leading]
        return self._gathered(energies, "sum")

    @cached_property
    def lost_energies(self) -> Tensor:
        """The same of what the weights lose when they are quantized as they are: [coordinates]."""
        energies = [column_energies(view.readers, [_lost(reader) for reader in view.readers]) for view in self.leading]
        return self._gathered(energies, "sum")

    @cached_property
    def rows(self) -> Tensor:
        """Samples to fit to, as rows of coordinates, copies one below the other; zero where not read.

        Shapes: [rows, coordinates].
        """
        return torch.cat([self._rows(view) for view in self.leading])

    @property
    def leading(self) -> tuple[View, ...]:
        """The views in which the scale has the exponent that it has in the first."""
        return tuple(view for view in self.views if view.exponent == 1)

    @property
    def spec(self) -> QuantSpec | None:
        """How the values are quantized; None when they stay float."""
        return next((view.spec for view in self.leading if view.spec is not None), None)

    def error(self, smoothing: Smoothing | None) -> float:
        """Mean over the views of the relative squared error of what is computed from them."""
        return sum(view.error(smoothing) for view in self.views) / len(self.views)

    def _gathered(self, parts: Sequence[Tensor], reduce: str) -> Tensor:
        """Channels of each leading view to coordinates."""
        found = torch.zeros(self.size, dtype=torch.float64)
        index = torch.cat([view.coordinate for view in self.leading])
        values = torch.cat([part.double() for part in parts])
        return found.scatter_reduce(0, index[index >= 0], values[index >= 0], reduce, include_self=False)

    def _rows(self, view: View) -> Tensor:
        rows = torch.movedim(view.seen, view.axis, -1).flatten(0, -2)
        rows = rows[:: 1 + len(rows) // _MOST_ROWS]
        held = view.coordinate.clamp(min=-1)
        order = held.argsort(stable=True)
        order = order[held[order] >= 0]
        counts = torch.bincount(held[order], minlength=self.size)
        copy = torch.arange(len(order)) - (counts.cumsum(0) - counts)[held[order]]
        found = rows.new_zeros(int(counts.max()), len(rows), self.size)
        found[copy, :, held[order]] = rows[:, order].T
        return found.flatten(0, 1)


class SmoothingMethod(Protocol):
    """Proposes vectors for a group; the driver measures them and keeps the best, or none."""

    name: ClassVar[str]

    def candidates(self, site: SmoothingSite) -> Sequence[Smoothing]:
        """What to try, best guess first; empty where the method has nothing to say."""
        ...


def safe_scale(scale: Tensor) -> Tensor:
    """A vector as it may be applied: 1 where it is not positive and finite, within bounds elsewhere; float64."""
    scale = scale.double()
    usable = scale.isfinite() & (scale > 0)
    return torch.where(usable, scale, 1.0).clamp(SMALLEST, LARGEST)


def check_share(alpha: float) -> None:
    """Refuses a share of range that is none.

    Raises:
        SpecError: when it is not between 0 and 1.
    """
    if not 0 <= alpha <= 1:
        raise SpecError(f"alpha={alpha} is no share of the range", mend="give a number from 0 to 1; 0.5 is usual")


def migrated(activation: Tensor, weight: Tensor, alpha: float, gamma: float) -> Tensor:
    """`activation^alpha / weight^gamma` per coordinate, 1 where either is zero: what most methods scale by."""
    activation, weight = activation.double(), weight.double()
    usable = (activation > 0) & (weight > 0)
    ones = torch.ones_like(activation)
    ratio = torch.where(usable, activation, ones) ** alpha / torch.where(usable, weight, ones) ** gamma
    return safe_scale(torch.where(usable, ratio, ones))


def centre(site: SmoothingSite) -> Tensor:
    """The middle of each coordinate's range, zero where a shift may not move: [coordinates] float64."""
    middle = (site.high + site.low) / 2
    return middle if site.shiftable else torch.zeros_like(middle)


def _lost(reader: Reader) -> Tensor:
    """What a weight loses when it is quantized."""
    return rounded(reader.weight, reader.spec) - reader.weight
