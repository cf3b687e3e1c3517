"""The one engine behind every scalar format: a sorted list of values, and the thresholds between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qcompiler.errors import SpecError

Ties = Literal["even", "up"]

# Below this many reals a binary search is quicker: than building the cells, and than using them.
_WORTH_BUILDING, _WORTH_USING = 1 << 14, 1 << 10
# A grid of a format with at most so many values gets its cells at once.
_SMALL = 256
# Reals worked on at a time, so that intermediates stay in the cache.
_CHUNK = 1 << 16
# A grid with more thresholds than this within one cell is searched instead.
_MOST_PER_CELL = 4


@dataclass(frozen=True, eq=False)
class Cells:
    """Where a real falls, by the upper half of its float32 pattern (sign, exponent, 7 bits of fraction).

    Formula: start at `first[pattern >> 16]`, the index of the smallest real with these bits, and go up by one
    past each further threshold; no such cell holds more than `steps` of them. The same index as a search.

    Shapes: first [65536] int32; thresholds [N] float32, infinity after the last.
    """

    first: Tensor
    thresholds: Tensor
    steps: int

    @staticmethod
    def of(thresholds: Tensor) -> Cells:
        """Cells of ascending float32 thresholds of shape [N - 1]."""
        upper = torch.arange(1 << 16, dtype=torch.int32) << 16
        ends = torch.stack([upper, upper | 0xFFFF]).view(torch.float32)
        # Patterns of infinity and NaN: both ends are what saturation gives.
        ends = torch.where(ends.isfinite(), ends, torch.copysign(torch.tensor(torch.inf), ends[:1]))
        indices = torch.bucketize(ends, thresholds, out_int32=True)
        first = indices.amin(0)
        padded = torch.cat([thresholds, thresholds.new_tensor([torch.inf])])
        return Cells(first.contiguous(), padded, int((indices.amax(0) - first).max()))

    def index(self, x: Tensor) -> Tensor:
        """Index of each real of a contiguous one-dimensional float32 tensor; int32."""
        found = self.first.index_select(0, (x.view(torch.int32) >> 16).bitwise_and_(0xFFFF))
        for _ in range(self.steps):
            found += x > self.thresholds.index_select(0, found)
        return found


@dataclass(frozen=True, eq=False)
class Grid:
    """The representable values of a scalar format.

    Formula: `round(x) = values[#{i : x > thresholds[i]}]`, where `thresholds[i]` is the midpoint of
    `values[i]` and `values[i + 1]`, moved down by one float64 step where a tie belongs to the upper one.
    A tie belongs to the value with the even code (to the lower one if both codes are even or both odd), or
    always to the upper one where `ties` says so.

    Shapes: values [N] float64 ascending; codes [N] int32, the code of each value; thresholds [N - 1] float64;
    table [C] float32, the value of each code, NaN where a code has none.
    """

    values: Tensor
    codes: Tensor
    thresholds: Tensor
    table: Tensor

    @staticmethod
    def from_codes(code_values: Sequence[float], ties: Ties = "even") -> Grid:
        """Builds the grid from the value of each code; codes without a finite value are never produced.

        Raises SpecError when no code has a finite value.
        """
        lowest_code: dict[float, int] = {}
        for code, value in enumerate(code_values):
            if math.isfinite(value):
                # A value with two codes (+0 and -0) is stored by the lower one: the same bytes every time.
                lowest_code.setdefault(value, code)
        if not lowest_code:
            raise SpecError("a grid needs at least one finite value", where=repr(tuple(code_values)))
        ordered = sorted(lowest_code)
        values = np.array(ordered, dtype=np.float64)
        codes = np.array([lowest_code[value] for value in ordered], dtype=np.int32)
        # Halving first keeps the sum of two huge neighbours finite.
        middles = values[:-1] / 2 + values[1:] / 2
        to_even = (codes[:-1] % 2 == 1) & (codes[1:] % 2 == 0)
        tie_goes_up = np.full_like(to_even, True) if ties == "up" else to_even
        thresholds = np.where(tie_goes_up, np.nextafter(middles, -np.inf), middles)
        table = np.array(code_values, dtype=np.float32) + np.float32(0)
        return Grid(*(torch.from_numpy(array) for array in (values, codes, thresholds, table)))

    def index(self, x: Tensor) -> Tensor:
        """Position in `values` of the value nearest to each real; shape of `x`, int64."""
        return torch.bucketize(x.detach().double().contiguous(), self.thresholds.to(x.device))

    def round(self, x: Tensor) -> Tensor:
        """Nearest value of each real, saturating; shape and dtype of `x`; NaN stays NaN."""
        cells = self._cells_for(x)
        if cells is None:
            return torch.where(torch.isnan(x), x, self.values.to(x.device)[self.index(x)].to(x.dtype))
        return _looked_up(x, cells, self.values.to(x.dtype), keep_nan=True)

    def encode(self, values: Tensor) -> Tensor:
        """Code of the value nearest to each real; shape of `values`, int32."""
        cells = self._cells_for(values)
        if cells is None:
            return self.codes.to(values.device)[self.index(values)]
        return _looked_up(values, cells, self.codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Value of each code; shape of `codes`, float32."""
        return self.table.to(codes.device).index_select(0, codes.int().reshape(-1)).reshape(codes.shape)

    @cached_property
    def cells(self) -> Cells:
        """The same thresholds for a quick look-up; built when first asked for."""
        # A float32 lies above a float64 threshold exactly when it lies above the float32 just below that one.
        nearest = self.thresholds.float()
        too_high = nearest.double() > self.thresholds
        below = torch.nextafter(nearest, torch.tensor(-torch.inf))
        return Cells.of(torch.where(too_high, below, nearest))

    def _cells_for(self, x: Tensor) -> Cells | None:
        """The cells when they serve this tensor: large, on the processor, no wider than float32."""
        narrow = x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        least = _WORTH_USING if "cells" in vars(self) else _WORTH_BUILDING
        if x.numel() < least or not narrow or x.device.type != "cpu":
            return None
        return self.cells if self.cells.steps <= _MOST_PER_CELL else None


def _looked_up(x: Tensor, cells: Cells, table: Tensor, keep_nan: bool = False) -> Tensor:
    """`table` at the index of each real, or the NaN itself; shape of `x`, dtype of `table`."""
    flat = x.detach().contiguous().reshape(-1)
    out = torch.empty(flat.shape, dtype=table.dtype)
    for source, target in zip(flat.split(_CHUNK), out.split(_CHUNK), strict=True):
        torch.index_select(table, 0, cells.index(source.float()), out=target)
        if keep_nan:
            torch.where(source.isnan(), source, target, out=target)
    return out.view(x.shape)


@lru_cache(maxsize=256)
def grid_of(code_values: tuple[float, ...], ties: Ties = "even") -> Grid:
    """The grid of these code values, built once: a solver asks for it at every column."""
    grid = Grid.from_codes(code_values, ties)
    if len(grid.values) <= _SMALL:
        _ = grid.cells
    return grid
