"""Polynomials and powers of e by fused multiply-adds, as MLAS computes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcompiler.backends.reference.floats.fused import fused

_BIAS = 12582912.0
"""1.5 * 2^23: adding it rounds to a whole number."""
_PER_LOG = 1.44269504088896341
_LOG_HIGH, _LOG_LOW = -6.93145752e-1, -1.42860677e-6


def constant(value: float) -> Tensor:
    """A float32 number."""
    return torch.tensor(value, dtype=torch.float32)


def polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """A polynomial by Horner's rule, the coefficient of the highest power first; x and result float32."""
    total = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = fused(total, x, constant(coefficient))
    return total


def power_of_e(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """`exp(x) = 2^m p(r)`: `m = round(x / ln 2)`, `r = x - m ln 2` in two steps, p the polynomial of `coefficients`."""
    exponent = fused(x, constant(_PER_LOG), constant(_BIAS)) - _BIAS
    rest = fused(exponent, constant(_LOG_LOW), fused(exponent, constant(_LOG_HIGH), x))
    # In float64 because two to a very negative power is none of float32, although the product may be.
    return torch.ldexp(polynomial(coefficients, rest).double(), exponent.double()).float()
