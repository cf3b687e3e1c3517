"""Sensitivities that look at numbers alone: weights, or the activations that are to be quantized.

Formula   weight: sum of |w - fq(w)|^2 / |w|^2. kurtosis: mean over output channels of m4 / m2^2. zd: one over the
          share of weights that stand more than a deviation above the mean. entropy: (H_8 - H) / H_8 of the histogram of
          codes. kurtosis and zd score a unit, and an option costs the score times its relative noise
Shapes    float64 [options, 1] per unit, entropy of activations [options, batches]
Promise   not below 0
Needs     weights; entropy of activations: calibration data
Source    kurtosis after Feng et al. 2024, "MPQ-DM"; zd after Dumitru et al. 2024, "Layer-Wise Quantization"; entropy
          after Liang et al. 2024, "QuantMCU"; weight is standard
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.formats import Integer
from qcompiler.passes.allocate.problem import Option, Unit
from qcompiler.passes.allocate.sensitivity.method import Harm, Subject, graded
from qcompiler.spec import QuantSpec, choose_qparams, quantize

_WHOLE_BITS = 8


@dataclass(frozen=True)
class WeightError:
    """Relative squared error of the weights themselves."""

    name: ClassVar[str] = "weight"
    needs_data: ClassVar[bool] = False
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        for unit in units:
            yield torch.tensor([[_weight_noise(subject, option)] for option in unit.options], dtype=torch.float64)


@dataclass(frozen=True)
class Kurtosis:
    """Weights with outliers need more bits."""

    name: ClassVar[str] = "kurtosis"
    needs_data: ClassVar[bool] = False
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        for unit in units:
            values = [kurtosis(subject.program.param(node).detach()) for node in subject.weights(unit)]
            yield graded(subject, unit, torch.cat(values).mean()[None])


@dataclass(frozen=True)
class OutlierShare:
    """Weights few of which stand out need more bits."""

    name: ClassVar[str] = "zd"
    needs_data: ClassVar[bool] = False
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        for unit in units:
            values = [subject.program.param(node).detach().double().flatten() for node in subject.weights(unit)]
            weights = torch.cat(values)
            above = (weights - weights.mean() > weights.std(correction=0)).double().mean()
            yield graded(subject, unit, 1 / above.clamp(min=1 / len(weights))[None])


@dataclass(frozen=True)
class Entropy:
    """What the histograms of codes of weights and activations lose against 8 bits."""

    name: ClassVar[str] = "entropy"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        for unit in units:
            rows = [_entropy_losses(subject, option) for option in unit.options]
            yield torch.stack(torch.broadcast_tensors(*rows))


def kurtosis(weight: Tensor) -> Tensor:
    """Fourth moment over the squared second of each output channel that is not constant: [channels] or fewer."""
    rows = weight.double().reshape(len(weight), -1) if weight.dim() > 1 else weight.double().reshape(1, -1)
    rows = rows - rows.mean(1, keepdim=True)
    second = rows.square().mean(1)
    varied = second > 0
    found = rows[varied].pow(4).mean(1) / second[varied].square()
    return found if len(found) else torch.zeros(1, dtype=torch.float64)


def code_entropy(value: Tensor, spec: QuantSpec) -> float:
    """Entropy in bits of the codes of a value, ranges being those of its blocks."""
    _, counts = quantize(value.float(), *choose_qparams(value.float(), spec), spec).unique(return_counts=True)
    shares = counts.double() / counts.sum()
    return float(-(shares * shares.log2()).sum())


def _entropy_losses(subject: Subject, option: Option) -> Tensor:
    """Summed over the option's activations and weights: float64 [batches] or [1]."""
    grids = subject.grids(option)
    activations = {
        (node if source is None else source): spec
        for (node, source), spec in grids.items()
        if source is None or source.op != "get_attr"
    }
    total = torch.zeros(1, dtype=torch.float64)
    for node, spec in activations.items():
        total = total + torch.tensor([_lost(value, spec) for value in subject.trial.samples(node)], dtype=torch.float64)
    params = {source: spec for (_, source), spec in grids.items() if source is not None and source.op == "get_attr"}
    return total + sum(_lost(subject.program.param(node).detach(), spec) for node, spec in params.items())


def _lost(value: Tensor, spec: QuantSpec) -> float:
    signed = not (spec.format.is_integer and spec.levels[0].zero_point == "int")
    whole = code_entropy(value, replace(spec, format=Integer(_WHOLE_BITS, signed), parts=None))
    return max(whole - code_entropy(value, spec), 0.0) / whole if whole > 0 else 0.0


def _weight_noise(subject: Subject, option: Option) -> float:
    grids = subject.grids(option).items()
    constant = [(node, spec) for (_, node), spec in grids if node is not None and node.op == "get_attr"]
    return sum(subject.weight_error(node, spec) for node, spec in constant)
