"""Least squares of binary and ternary numbers: pure functions of a matrix whose rows are independent.

Shapes: weights [rows, columns], masks bool of the same shape, scales and shifts [rows].
Source: Rastegari et al. 2016, "XNOR-Net"; Yan et al. 2025, "PT2-LLM: Post-Training Ternarization for Large Language
Models" (the 2x2 refits).
"""

from __future__ import annotations

import torch
from torch import Tensor

_RIDGE = 1e-6


def sign(x: Tensor) -> Tensor:
    """1 or -1; zero counts as positive."""
    return torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of the chosen elements of each row, 0 where none is chosen."""
    return (x * mask).sum(1) / mask.sum(1).clamp(min=1)


def binary_fit(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of the chosen elements: `w ~ scale * sign(w - shift) + shift`; 0 where none is chosen.

    The scale is the exact least-squares one for this shift and these signs.
    """
    shift = masked_mean(weight, mask)
    return masked_mean((weight - shift[:, None]).abs(), mask), shift


def binary_value(weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`scale * sign(w - shift) + shift`."""
    return scale[:, None] * sign(weight - shift[:, None]) + shift[:, None]


def solve_pairs(left: Tensor, cross: Tensor, right: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Solves `[left, cross; cross, right] [a; b] = [first; second]` for each row, slightly damped.

    Every argument is [rows]. Where the system is singular the damping picks a solution of small size.
    """
    damping = _RIDGE * (left + right)
    left, right = left + damping, right + damping
    determinant = left * right - cross.square()
    safe = torch.where(determinant > 0, determinant, torch.ones_like(determinant))
    a, b = (right * first - cross * second) / safe, (left * second - cross * first) / safe
    return torch.where(determinant > 0, a, 0.0), torch.where(determinant > 0, b, 0.0)


def pair_refit(weight: Tensor, first: Tensor, second: Tensor, moment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The best `a, b` of `w ~ a * first + b * second` in each row.

    Args:
        weight: [rows, columns].
        first: a plane of the same shape.
        second: another one.
        moment: [columns, columns], what an error costs; None counts every element alike.
    """
    left = first if moment is None else first @ moment
    right = second if moment is None else second @ moment
    return solve_pairs(
        (left * first).sum(1),
        (left * second).sum(1),
        (right * second).sum(1),
        (left * weight).sum(1),
        (right * weight).sum(1),
    )
