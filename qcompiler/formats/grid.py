"""The one engine behind every scalar format: a sorted list of values, and the thresholds between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qcompiler.errors import SpecError

Ties = Literal["even", "up"]


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
        rounded = self.values.to(x.device)[self.index(x)].to(x.dtype)
        return torch.where(torch.isnan(x), x, rounded)

    def encode(self, values: Tensor) -> Tensor:
        """Code of the value nearest to each real; shape of `values`, int32."""
        return self.codes.to(values.device)[self.index(values)]

    def decode(self, codes: Tensor) -> Tensor:
        """Value of each code; shape of `codes`, float32."""
        return self.table.to(codes.device)[codes.long()]
