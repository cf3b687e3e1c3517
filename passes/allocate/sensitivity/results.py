"""Sensitivities that look at the results with one unit at a time quantized.

Formula   output: |y - fq(y)|^2 / |y|^2. sqnr: 120 - SQNR in decibels, mean over samples. kl: KL(softmax(y) |
          softmax(fq(y))). loss_delta: cross-entropy of fq(y) less that of y, for the user's labels, else for the class
          that y ranks first. local: |z - fq(z)|^2 / |z|^2 of each operator's own result, it alone quantized
Shapes    float64 [options, samples] per unit
Promise   0 for float; output, kl and local not below 0
Needs     calibration data; pairs (inputs, labels) for losses on labels
Source    output and sqnr after Zhao et al. 2024, "MixDQ"; kl after Cai et al. 2020, "ZeroQ"; loss_delta after Hubara et
          al. 2020, "AdaQuant"; local is standard
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.passes.allocate.harm import Results, divergences, errors, log_probabilities, noise_ratios
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity.method import Harm, Subject

Metric = Callable[[Sequence[Results]], Tensor]
_SILENT_DB = 120.0
"""Above this ratio of signal to noise results count as exact."""


@dataclass(frozen=True)
class OutputError:
    """Relative squared error of the results."""

    name: ClassVar[str] = "output"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        return toggled(subject, units, errors)


@dataclass(frozen=True)
class OutputDecibels:
    """Signal-to-noise ratio of the results, on its logarithmic scale."""

    name: ClassVar[str] = "sqnr"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        return toggled(subject, units, decibels)


@dataclass(frozen=True)
class OutputDivergence:
    """Divergence of the class probabilities."""

    name: ClassVar[str] = "kl"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "divergence"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        return toggled(subject, units, divergences)


@dataclass(frozen=True)
class LossDelta:
    """Rise of the task's loss; below 0 where a unit does good, which counts as 0 on the whole."""

    name: ClassVar[str] = "loss_delta"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "divergence"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        return toggled(subject, units, lambda results: loss_rises(results, subject.labels))


@dataclass(frozen=True)
class LocalError:
    """Relative squared error of each operator's own result."""

    name: ClassVar[str] = "local"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        trial = subject.trial
        quiet = torch.zeros(1, dtype=torch.float64)
        for number, unit in enumerate(units, 1):
            rows = [
                sum((trial.own_errors(subject.nodes[at], item) for at, item in option.assignments.items()), quiet)
                for option in unit.options
            ]
            yield torch.stack(torch.broadcast_tensors(*rows))
            subject.ctx.progress(number, len(units))


def toggled(subject: Subject, units: Sequence[Unit], metric: Metric) -> Iterator[Tensor]:
    """A metric of the results [samples] with one unit at a time quantized."""
    for number, unit in enumerate(units, 1):
        yield torch.stack([metric(subject.trial.results(option.assignments)) for option in unit.options])
        subject.ctx.progress(number, len(units))


def decibels(results: Sequence[Results]) -> Tensor:
    """How far each sample's signal-to-noise ratio is below silence, in decibels: float64 [samples]."""
    return (10 * noise_ratios(results).clamp(min=1e-30).log10() + _SILENT_DB).clamp_(min=0.0)


def loss_rises(results: Sequence[Results], labels: Sequence[Tensor | None]) -> Tensor:
    """Rise of each sample's cross-entropy along the last axis of the first result: float64 [samples]."""
    found: list[Tensor] = []
    for number, batch in enumerate(results):
        wanted, got = (log_probabilities(tensors[0]) for tensors in (batch.wanted, batch.found))
        known = labels[number] if number < len(labels) else None
        classes = wanted.argmax(-1) if known is None else known.reshape(wanted.shape[:-1])
        rise = (wanted - got).gather(-1, classes[..., None]).squeeze(-1)
        found.append(rise.reshape(len(rise), -1).mean(1))
    return torch.cat(found)
