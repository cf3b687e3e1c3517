"""What tests of smoothing share: sites with planted channels, and decibels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcompiler.passes.transform.evaluate import Reader
from qcompiler.passes.transform.smoothing.method import SmoothingSite, View
from qcompiler.spec import QuantSpec

TENSOR8 = "int8 sym block=(-1,-1) scale=f32"
CHANNEL8 = "int8 sym block=(1,-1) scale=f32"
TOKEN8 = "int8 sym block=(1,-1) scale=f32 dynamic"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spec(text: str) -> QuantSpec | None:
    return QuantSpec.parse(text) if text else None


def site(
    x: Tensor, *weights: Tensor, inputs: str = TENSOR8, weight: str = CHANNEL8, shiftable: bool = True
) -> SmoothingSite:
    """Linear layers that read rows of channels, one coordinate per channel."""
    readers = tuple(Reader(one, spec(weight)) for one in weights)
    low, high = x.double().amin(0), x.double().amax(0)
    view = View(low, high, x, -1, spec(inputs), readers, torch.arange(x.shape[1]))
    return SmoothingSite("site", x.shape[1], (view,), shiftable)


def outliers(tokens: int, channels: int, count: int, size: float, seed: int = 0) -> Tensor:
    """Normal rows, some channels larger."""
    x = noise(tokens, channels, seed=seed)
    x[:, :count] *= size
    return x


def spread(tokens: int, channels: int, seed: int = 0) -> Tensor:
    """Channels whose sizes are log-normal."""
    return noise(tokens, channels, seed=seed) * noise(channels, seed=seed + 100).exp()


def matrix(rows: int, columns: int, seed: int = 50) -> Tensor:
    return noise(rows, columns, seed=seed) / columns**0.5


def decibels(error: float) -> float:
    return math.inf if error == 0 else -10 * math.log10(error)
