"""The best step for normally distributed numbers: what rotated activations look like, whatever the model.

Formula   argmin over s of E (s q(z / s) - z)^2, z ~ N(0, 1), q nearest on the grid of the format; in closed form per
          cell [a, b] of value v: (1 + v^2) dP - d(z p) + 2 v dp, P and p distribution and density
Shapes    values [levels] in order -> scalar
Source    Max 1960, "Quantizing for Minimum Distortion"; used for rotated tokens by Yang et al. 2025, "RobuQ: Pushing
          DiTs to W1.58A2 via Robust Activation Quantization"
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcompiler.formats.search import golden_section


def normal_step(values: Tensor) -> float:
    """The scale of grid values [levels], in order and not all zero, that suits N(0, 1) best."""
    values = values.double()
    reach = float(values.abs().max())
    # Beyond 8 deviations there is nothing to cover; one level may want to stand at the mean of half the numbers.
    return golden_section(lambda step: normal_error(values, step), 0.2 / reach, 8 / reach, 40)


def normal_error(values: Tensor, step: float) -> float:
    """Mean squared error of rounding N(0, 1) to `step * values`, values [levels] in order."""
    values = values.double() * step
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    edges = torch.cat([ends[:1], (values[1:] + values[:-1]) / 2, ends[1:]])
    density = torch.exp(-edges.square() / 2) / math.sqrt(2 * math.pi)
    below = (1 + torch.erf(edges / math.sqrt(2))) / 2
    moment = torch.where(edges.isfinite(), edges * density, 0.0)
    cells = (1 + values.square()) * below.diff() - moment.diff() + 2 * values * density.diff()
    return float(cells.sum())
