"""What an eye would see: distances between images, for models whose result is one.

Formula   ssim: 1 - mean of (2 m1 m2 + c1) (2 s12 + c2) / ((m1^2 + m2^2 + c1) (s1 + s2 + c2)) over windows of 7.
          gmsd: standard deviation of (2 g1 g2 + c) / (g1^2 + g2^2 + c), g lengths of Prewitt gradients at half size.
          Both with the range of the float result as the range of values
Shapes    results [n, channels, height, width] -> float64 [options, n] per unit
Promise   0 for equal images, not below 0
Needs     calibration data; one result with two spatial axes
Source    Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity"; Xue et al. 2014,
          "Gradient Magnitude Similarity Deviation". With `output` they make an objective like that of "QuantFace"
          (2025), whose learned distances need networks of their own: sensitivity=output+0.5*ssim+0.5*gmsd
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from qcompiler.errors import UnsupportedError
from qcompiler.passes.allocate.harm import Results
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity.method import Harm, Subject
from qcompiler.passes.allocate.sensitivity.results import Metric, toggled

_WINDOW = 7
_AXES = 4
_C1, _C2, _C3 = 0.01**2, 0.03**2, 0.0026


@dataclass(frozen=True)
class StructuralSimilarity:
    """Loss of structure."""

    name: ClassVar[str] = "ssim"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        return toggled(subject, units, _of_images(subject, structural_distance))


@dataclass(frozen=True)
class GradientSimilarity:
    """Loss of edges."""

    name: ClassVar[str] = "gmsd"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        return toggled(subject, units, _of_images(subject, gradient_distance))


def structural_distance(wanted: Tensor, found: Tensor) -> Tensor:
    """One less the structural similarity; images in 0 .. 1, [n, channels, h, w] -> [n]."""
    size = min(_WINDOW, *wanted.shape[-2:])

    def mean(value: Tensor) -> Tensor:
        return functional.avg_pool2d(value, size, 1)

    one, two = mean(wanted), mean(found)
    first, second = mean(wanted * wanted) - one * one, mean(found * found) - two * two
    both = mean(wanted * found) - one * two
    likeness = (2 * one * two + _C1) * (2 * both + _C2)
    likeness = likeness / ((one * one + two * two + _C1) * (first + second + _C2))
    return (1 - likeness.flatten(1).mean(1)).clamp_(min=0.0)


def gradient_distance(wanted: Tensor, found: Tensor) -> Tensor:
    """Deviation of the likeness of gradients; images in 0 .. 1, [n, channels, h, w] -> [n]."""
    one, two = (_edges(value) for value in (wanted, found))
    likeness = (2 * one * two + _C3) / (one.square() + two.square() + _C3)
    return likeness.flatten(1).std(1, correction=0)


def _edges(value: Tensor) -> Tensor:
    planes = value.reshape(-1, 1, *value.shape[-2:])
    small = functional.avg_pool2d(planes, 2) if min(planes.shape[-2:]) >= 2 * _WINDOW else planes
    across = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=value.dtype) / 3
    both = functional.conv2d(small, torch.stack([across, across.T])[:, None], padding=1)
    length = both.square().sum(1).sqrt()
    return length.reshape(len(value), -1, *length.shape[-2:])


def _of_images(subject: Subject, distance: Callable[[Tensor, Tensor], Tensor]) -> Metric:
    """The metric over results brought to 0 .. 1.

    Raises:
        UnsupportedError: when the program does not have one image as result.
    """
    nodes = subject.program.outputs
    if len(nodes) != 1 or len(subject.program.shape(nodes[0])) != _AXES:
        raise UnsupportedError(
            f"@{subject.program.name} does not give one image [n, channels, height, width], which could be looked at",
            mend="choose another sensitivity, such as output",
        )

    def metric(results: Sequence[Results]) -> Tensor:
        rows: list[Tensor] = []
        for batch in results:
            low, high = batch.wanted[0].amin(), batch.wanted[0].amax()
            scale = (high - low).clamp(min=1e-30).double()
            pair = [(value.double() - low) / scale for value in (batch.wanted[0], batch.found[0])]
            rows.append(distance(pair[0], pair[1]))
        return torch.cat(rows)

    return metric
