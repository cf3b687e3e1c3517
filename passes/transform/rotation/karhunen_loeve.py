"""Karhunen-Loeve rotation: the axes of the inputs' own second moment, spread evenly by a Hadamard matrix.

Formula   T = U . H, moment = U diag(lambda) U^T; the second moment of X T is H^T diag(lambda) H, whose diagonal is
          mean(lambda) everywhere when all elements of H have one magnitude: all channels are equally strong. Where
          there is no such H, plane rotations level what is left
Shapes    moment [n, n] -> T [n, n] orthogonal, float64
Source    Xu et al. 2025, "MambaQuant: Quantizing the Mamba Family with Variance Aligned Rotation Methods"; that
          plane rotations can level any diagonal: Schur and Horn
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcompiler.passes.transform.factors import Factor

_LEVEL = 1e-9


def karhunen_loeve(moment: Tensor, mixing: Factor) -> Tensor:
    """The transform for a second moment about 0, which need not have full rank.

    Args:
        moment: symmetric, positive semidefinite.
        mixing: orthogonal map of n coordinates that spreads the axes; a Hadamard matrix.
    """
    moment = moment.double()
    vectors: Tensor = torch.linalg.eigh((moment + moment.T) / 2)[1]
    return levelled(moment, mixing.times(vectors))


def levelled(moment: Tensor, rotation: Tensor) -> Tensor:
    """The rotation followed by the few plane rotations that make all diagonal elements of its moment equal.

    Shapes: moment, rotation [n, n] -> [n, n].
    """
    columns, product = rotation.T.clone(), (moment @ rotation).T.clone()
    diagonal = (columns * product).sum(1)
    mean = diagonal.mean()
    for _ in range(len(diagonal) - 1):
        low, high = int(diagonal.argmin()), int(diagonal.argmax())
        if float(diagonal[high] - diagonal[low]) <= _LEVEL * float(mean):
            break
        cosine, sine = _plane(diagonal[low], diagonal[high], columns[low] @ product[high], mean)
        turn = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
        pair = [low, high]
        columns[pair], product[pair] = turn @ columns[pair], turn @ product[pair]
        diagonal[pair] = (columns[pair] * product[pair]).sum(1)
    return columns.T.contiguous()


def _plane(low: Tensor, high: Tensor, between: Tensor, mean: Tensor) -> tuple[float, float]:
    """Cosine and sine of the plane rotation after which the first of two diagonal elements is the mean.

    `c^2 low + 2 c s between + s^2 high = mean` in the tangent t: `(high - mean) t^2 + 2 between t + (low - mean) = 0`.
    """
    a, b, c = float(high - mean), float(between), float(low - mean)
    tangent = -c / (b + math.copysign(math.sqrt(max(b * b - a * c, 0.0)), b))
    cosine = 1 / math.sqrt(1 + tangent * tangent)
    return cosine, tangent * cosine
