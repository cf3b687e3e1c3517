"""Activations.

Formula sigmoid    the rational function of `backends.reference.pointwise.logistic`
        silu       `x * sigmoid(x)`
        tanh       `x P(x^2) / Q(x^2)` for |x| up to 9, by Horner's rule with fused multiply-adds
        erf        `x + x P(x^2)` up to 0.921875, `1 - exp(-(x + x P(x)))` above
        gelu       `(0.5 x) * (erf(x * sqrt(1/2)) + 1)`; by tanh `(0.5 x) * (tanh(x * (C x x + B)) + 1)`
Shapes  any -> the same, float32
Source  onnxruntime 1.31, MLAS `MlasComputeLogistic`, `MlasComputeTanh`, `MlasComputeErf`; QuickGelu with alpha = 1,
        into which Sigmoid and Mul are fused; the polynomials are Eigen's (sigmoid, tanh) and N. Juffa's (erf)
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.backends.reference.floats.fused import fused
from qcompiler.backends.reference.floats.powers import constant, polynomial, power_of_e
from qcompiler.backends.reference.pointwise import logistic

_TANH_REACH = 9.0
_TANH_UPPER = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_LOWER = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_ERF_REACH, _ERF_SPLIT = 3.925, 0.921875
_ERF_SMALL = (-5.99104969e-4, 4.99339588e-3, -2.67667342e-2, 1.12818025e-1, -3.76124859e-1, 1.28379151e-1)
_ERF_BIG = (
    1.72948930e-5,
    -3.83208680e-4,
    3.88393435e-3,
    -2.42545605e-2,
    1.06777847e-1,
    6.34846687e-1,
    1.28717512e-1,
)
_ERF_EXP = (1.38319808e-3, 8.37550033e-3, 4.16689515e-2, 1.66664466e-1, 4.99999851e-1, 1.0, 1.0)
_ROOT_HALF = 0.70710678118654752440
_GELU_CUBE, _GELU_LINE = 0.035677408136300125, 0.7978845608028654


def sigmoid(self: Tensor) -> Tensor:
    """The logistic function; other dtypes than float32 are left to torch."""
    return logistic(self) if self.dtype == torch.float32 else torch.sigmoid(self)


def silu(self: Tensor) -> Tensor:
    """`x * sigmoid(x)`; other dtypes than float32 are left to torch."""
    return self * logistic(self) if self.dtype == torch.float32 else torch.nn.functional.silu(self)


def tanh(self: Tensor) -> Tensor:
    """The hyperbolic tangent; other dtypes than float32 are left to torch."""
    if self.dtype != torch.float32:
        return torch.tanh(self)
    x = self.clamp(-_TANH_REACH, _TANH_REACH)
    square = x * x
    return polynomial(_TANH_UPPER, square) * x / polynomial(_TANH_LOWER, square)


def erf(self: Tensor) -> Tensor:
    """The error function; other dtypes than float32 are left to torch."""
    if self.dtype != torch.float32:
        return torch.erf(self)
    size = self.abs().clamp(max=constant(_ERF_REACH))
    small = fused(polynomial(_ERF_SMALL, size * size), size, size)
    big = 1 - power_of_e(-fused(polynomial(_ERF_BIG, size), size, size), _ERF_EXP)
    return torch.copysign(torch.where(size > _ERF_SPLIT, big, small), self)


def gelu(self: Tensor, *, approximate: str = "none") -> Tensor:
    """The Gaussian error linear unit; other dtypes than float32 are left to torch."""
    if self.dtype != torch.float32:
        return torch.nn.functional.gelu(self, approximate=approximate)
    if approximate == "tanh":
        curve = tanh(self * (constant(_GELU_CUBE) * self * self + constant(_GELU_LINE)))
    else:
        curve = erf(self * constant(_ROOT_HALF))
    return 0.5 * self * (curve + 1)
