"""Matrices that stay what they are while they are learned: orthogonal, invertible, Kronecker products.

Formula   Cayley step  R' = (I + t/2 W)^-1 (I - t/2 W) R,  W = (G R^T - R G^T) / 2,  t = min(rate, 1 / |W|_1);
          Cayley map   Q = (I - S)^-1 (I + S),  S = (A - A^T) / 2;
          band         T = diag(d) (I + B),  B = M within the band, each row scaled down to sum |B_ij| <= 0.9
Shapes    [fibres, n, n], every operation on each fibre by itself
Promise   R' and Q orthogonal; T invertible, with |I + B| |(I + B)^-1| <= 19 in the infinity norm
Source    Li et al. 2020, "Efficient Riemannian Optimization on the Stiefel Manifold via the Cayley Transform" (the
          step, here solved instead of iterated); Levy-Desplanques (a strictly dominant diagonal is invertible)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LARGEST_ROW = 0.9


def cayley_step(rotation: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """One descent step on the orthogonal matrices, which turns by no more than one radian.

    Shapes: rotation, gradient [fibres, n, n] -> the same.
    """
    outer = gradient @ rotation.mT
    skew = (outer - outer.mT) / 2
    length = skew.abs().sum(-2).amax(-1)[:, None, None]
    step = skew * (1 / (length + 1e-8)).clamp(max=rate) / 2
    eye = torch.eye(rotation.shape[-1], dtype=rotation.dtype)
    return torch.linalg.solve(eye + step, (eye - step) @ rotation)


def cayley_map(free: Tensor) -> Tensor:
    """An orthogonal matrix of any square one, differentiable; the identity of zero.

    Shapes: free [..., n, n] -> the same.
    """
    skew = (free - free.mT) / 2
    eye = torch.eye(free.shape[-1], dtype=free.dtype)
    return torch.linalg.solve(eye - skew, eye + skew)


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    """The closest orthogonal matrix, in float64.

    Shapes: matrix [..., n, n] -> the same.
    """
    left, _, right = torch.linalg.svd(matrix.double())
    return left @ right


def banded(diagonal: Tensor, free: Tensor, width: int) -> Tensor:
    """`diag(d) (I + B)`: B holds what of `free` is off the diagonal and less than `width` away from it.

    Shapes: diagonal [fibres, n] positive, free [fibres, n, n] -> [fibres, n, n].
    """
    size = free.shape[-1]
    place = torch.arange(size)
    distance = (place[:, None] - place).abs()
    inside = free * ((distance > 0) & (distance < width))
    limit = (_LARGEST_ROW / inside.abs().sum(-1, keepdim=True).clamp(min=_LARGEST_ROW)).detach()
    return diagonal[..., None] * (torch.eye(size, dtype=free.dtype) + inside * limit)


def band_widths(size: int, stages: int) -> list[int]:
    """How wide the band is at each stage: from two diagonals beside the main one to everything."""
    if stages < 2 or size < 3:
        return [size]
    return [2 + (size - 2) * stage // (stages - 1) for stage in range(stages)]


def kronecker_factors(size: int) -> tuple[int, int]:
    """`a * b = size` with a <= b and both as close to the root as can be; a is 1 for a prime."""
    first = next(count for count in range(math.isqrt(size), 0, -1) if size % count == 0)
    return first, size // first
