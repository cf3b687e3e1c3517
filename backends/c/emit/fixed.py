"""Requantization in integers: what it reads in C, by the formulas of `backends.reference.fixed`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from qcompiler.backends.c.emit.grid import Grid
from qcompiler.backends.c.generator import Generator
from qcompiler.backends.reference.fixed import Factor

_SHORT_SHIFT = 30
"""Up to which sums of two codes are shifted in 32 bits."""


def limits(grid: Grid) -> dict[str, int]:
    """Zero point and limits of a result as whole numbers, as stored."""
    known = {"zero_point": grid.zero, "low": grid.low, "high": grid.high}
    return {name: int(code) + grid.shift for name, code in known.items()}


def factors(generator: Generator, factor: torch.Tensor, panel: int = 1) -> dict[str, str]:
    """Mantissas and shifts of factors [N], in the weights, filled up to whole panels."""
    found = Factor.of(factor.reshape(-1))
    filled = [np.pad(part.numpy(), (0, -len(part) % panel), mode="edge") for part in (found.mantissa, found.shift)]
    mantissa = generator.constant(filled[0].astype(np.int32), "int32_t")
    shift = generator.constant(filled[1].astype(np.uint8), "uint8_t")
    return {"mantissa": generator.pointer(mantissa), "shift": generator.pointer(shift)}


def fields(generator: Generator, factor: torch.Tensor, grid: Grid, panel: int = 1) -> Mapping[str, str | int]:
    """Of `qc_fixed`."""
    return {**factors(generator, factor, panel), **limits(grid)}


def shifted(total: str, shift: int, grid: Grid, *, short: bool) -> str:
    """`clip(round(total / 2^shift) + zero point)` in C; `short` totals are below 2^30."""
    narrow = short and shift <= _SHORT_SHIFT
    steps = f"qc_shifted_short({total}, {shift})" if narrow else f"qc_shifted((int64_t)({total}), {shift})"
    found = limits(grid)
    return f"qc_fixed_place({steps}, {found['zero_point']}, {found['low']}, {found['high']})"


def scaled(total: str, factor: torch.Tensor, grid: Grid) -> str:
    """`clip(round(total * factor) + zero point)` in C, of an int32."""
    found = Factor.of(factor)
    return shifted(f"(int64_t)({total}) * {int(found.mantissa)}", int(found.shift), grid, short=False)
