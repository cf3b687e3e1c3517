"""Splits the squared error of the results among the tensors and causes that make it; the parts sum to the whole.

Formula   y(t) = results of the float program with t * e_i added at every site i; y(0) is the float result, y(1) the
          quantized one. part_i = integral over t in 0..1 of <d |y(t) - y(0)|^2 / d(site i), e_i>, and the parts sum to
          |y(1) - y(0)|^2 by the fundamental theorem of calculus. The integral is Gauss and Legendre's, with more points
          until the sum fits. e_i may be split further at will: the parts of its pieces sum to its own.
Source    Aumann and Shapley 1974, "Values of Non-Atomic Games"; Sundararajan et al. 2017, "Axiomatic Attribution for
          Deep Networks" (integrated gradients); here along the path of errors, not of inputs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcompiler.explain.sites import Record, Site, run_with, square_error

POINTS = (3, 6, 12, 24, 48)
"""Evaluations along the path, tried in turn."""
CLOSE = 0.02
"""The sum fits when it misses less than this part of the whole."""


@dataclass(frozen=True)
class Slopes:
    """Mean derivative of the squared error along the path.

    Args:
        sites: by site, in the shape of its tensor.
        results: of each floating result.
        whole: squared error at the end of the path.
        explained: sum of all parts.
        points: evaluations that it took.
    """

    sites: Mapping[Site, Tensor]
    results: Sequence[Tensor]
    whole: float
    explained: float
    points: int


def slopes(record: Record, behind: Sequence[Tensor] = (), most: int = POINTS[-1]) -> Slopes:
    """The mean derivative of the error of the results at every site of a batch.

    Args:
        record: the batch.
        behind: what is added to the quantized program's results by what really runs; none: nothing.
        most: points along the path at most.

    Shapes: behind as the floating results.
    """
    wanted = _floating(record.wanted)
    found = _floating(record.found)
    added = list(behind) or [torch.zeros_like(value) for value in wanted]
    whole = float(square_error(wanted, [value + extra for value, extra in zip(found, added, strict=True)]))
    best: Slopes | None = None
    for points in POINTS:
        if best is not None and (points > most or abs(best.explained - whole) <= CLOSE * whole):
            break
        tried = _integrate(record, wanted, added, whole, points)
        if best is None or abs(tried.explained - whole) < abs(best.explained - whole):
            best = tried
    return best if best is not None else Slopes({}, [], whole, 0.0, 0)


def _integrate(record: Record, wanted: Sequence[Tensor], behind: Sequence[Tensor], whole: float, points: int) -> Slopes:
    places, weights = np.polynomial.legendre.leggauss(points)
    sites = {site: torch.zeros_like(error) for site, error in record.errors.items()}
    results = [torch.zeros_like(value) for value in wanted]
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        leaves = {site: (error * float(place)).requires_grad_() for site, error in record.errors.items()}
        with torch.enable_grad():
            found = _floating(run_with(record.sites, record.batch, leaves))
            ends = [value + float(place) * extra for value, extra in zip(found, behind, strict=True)]
            error = square_error(wanted, ends)
            asked = [*leaves.values(), *ends]
            gradients = _gradients(error, asked)
        for total, gradient in zip([*sites.values(), *results], gradients, strict=True):
            if gradient is not None:
                total.add_(gradient, alpha=float(weight))
    explained = sum((inner(slope, record.errors[site]) for site, slope in sites.items()), 0.0)
    explained += sum(inner(slope, extra) for slope, extra in zip(results, behind, strict=True))
    return Slopes(sites, results, whole, explained, points)


def _gradients(error: Tensor, asked: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not error.requires_grad:
        return [None] * len(asked)
    derivable = [value for value in asked if value.requires_grad]
    found = iter(torch.autograd.grad(error, derivable, allow_unused=True))
    return [next(found) if value.requires_grad else None for value in asked]


def inner(one: Tensor, other: Tensor) -> float:
    """Inner product of two tensors of one shape, summed in float64; what is not finite counts nothing."""
    return float(torch.nan_to_num(one.double() * other.double(), nan=0.0, posinf=0.0, neginf=0.0).sum())


def _floating(values: Sequence[Tensor]) -> list[Tensor]:
    return [value for value in values if value.is_floating_point()]
