"""Which format and scale lose least on given samples.

Source: Liu et al. 2023, "LLM-FP4: 4-Bit Floating-Point Quantized Transformers" (exponent bits and bias by search; a
real-valued bias b is the scale 2^-b); Yvinec et al. 2023, "NUPES" (the exponent of a power grid).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.formats import Format, MiniFloat, minifloat, power

_GOLDEN = (5**0.5 - 1) / 2
# Shares of the largest magnitude at which a row may be clipped; 1 is among them.
CLIPS: tuple[float, ...] = tuple(0.3 + 0.02 * step for step in range(46))


@dataclass(frozen=True)
class Choice:
    """The winner of a search: format, its scale per row (float32) and the mean squared error it leaves per row."""

    format: Format
    scale: Tensor
    error: Tensor


def best_scale(
    samples: Tensor, number: Format, weight: Tensor | None = None, clips: Sequence[float] = CLIPS
) -> tuple[Tensor, Tensor]:
    """The scale of each row with the least (weighted) mean squared error among clipped ranges.

    Formula: argmin over c of mean_j h_j (s * round(x_j / s) - x_j)^2 with s = c * max|x| / max|format|.
    Shapes: samples [rows, count]; weight broadcastable to it, not negative -> scale [rows] float32, error [rows]
    float32. A row of zeros gets scale 1 and error 0 where the format has a zero. Raises SpecError without clips.
    """
    if not clips:
        raise SpecError("a search needs at least one candidate", mend="give shares of the largest magnitude")
    plain = samples.detach().float()
    limit = torch.where((top := plain.abs().amax(1, keepdim=True)) == 0, 1.0, top)
    full = torch.where(top == 0, 1.0, limit / max(number.highest, -number.lowest))
    best_error = torch.full_like(full, torch.inf)
    best = full
    for clip in clips:
        scale = torch.where(top == 0, full, full * clip)
        squared = (number.round(plain / scale) * scale - plain).square_()
        error = (squared if weight is None else squared * weight).mean(1, keepdim=True)
        better = error < best_error
        best, best_error = torch.where(better, scale, best), torch.where(better, error, best_error)
    return best[:, 0], best_error[:, 0]


def best_format(
    samples: Tensor, candidates: Sequence[Format], weight: Tensor | None = None, clips: Sequence[float] = CLIPS
) -> Choice:
    """The candidate with the least error summed over rows, each with its best scales; the first of equals.

    Shapes as `best_scale`. Raises SpecError without candidates.
    """
    if not candidates:
        raise SpecError("a search needs at least one candidate", mend="give one or more formats")
    choices = (Choice(number, *best_scale(samples, number, weight, clips)) for number in candidates)
    return min(choices, key=lambda choice: float(choice.error.sum()))


def minifloats(bits: int, most_mantissa: int | None = None) -> tuple[MiniFloat, ...]:
    """All splits of a width into exponent and mantissa, every code a number, the most mantissa first.

    One exponent bit makes the evenly spaced grid of symmetric integers. Raises SpecError outside 2 to 8 bits.
    """
    if not 2 <= bits <= 8:
        raise SpecError(f"there is no float format of {bits} bits", mend="choose 2 to 8 bits")
    widest = min(bits - 2, bits - 2 if most_mantissa is None else most_mantissa)
    splits = ((bits - 1 - mantissa, mantissa) for mantissa in range(widest, -1, -1))
    return tuple(minifloat(exponent, mantissa, "none") for exponent, mantissa in splits)


def best_minifloat(samples: Tensor, bits: int, weight: Tensor | None = None) -> Choice:
    """The split of exponent and mantissa, and per row the real-valued bias (as scale), with the least error.

    Shapes as `best_scale`. Raises SpecError outside 2 to 8 bits.
    """
    return best_format(samples, minifloats(bits), weight)


def best_power(samples: Tensor, bits: int, weight: Tensor | None = None, rounds: int = 12) -> Choice:
    """The exponent of the power grid with the least error, by golden section between 0.2 and 1.2; 1 is tried too.

    Shapes as `best_scale`; the scale is found for every exponent. Raises SpecError outside 2 to 8 bits.
    """
    tried: dict[float, Choice] = {}

    def error(exponent: float) -> float:
        # Names stay short: three digits are finer than the error can tell.
        exponent = round(exponent, 3)
        if exponent not in tried:
            tried[exponent] = best_format(samples, [power(bits, exponent)], weight)
        return float(tried[exponent].error.sum())

    error(1.0)
    golden_section(error, 0.2, 1.2, rounds)
    return min(tried.values(), key=lambda choice: float(choice.error.sum()))


def golden_section(error: Callable[[float], float], low: float, high: float, rounds: int = 20) -> float:
    """The place of the least value of a function with one valley; 20 rounds find it to within 0.0001 of the range."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = error(left), error(right)
    for _ in range(rounds):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = error(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = error(right)
    return (low + high) / 2
