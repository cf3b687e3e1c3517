"""Sensitivities that need nothing but a trial: the error of weights, of one operator's result, of all results.

Formula   weight: sum over weights of |w - fq(w)|^2 / |w|^2. local: sum over operators of |y - fq(y)|^2 / |y|^2, each
          alone quantized. output: the same of the results with the whole unit quantized. kl: mean of
          KL(softmax(y) | softmax(fq(y))) along the last axis of the first result
Shapes    tables [unit][option]
Promise   0 for float, not below 0
Needs     calibration data, but for `weight`
Source    kl after Cai et al. 2020, "ZeroQ"; output after Zhao et al. 2024, "MixDQ", whose signal-to-noise ratio is its
          logarithm; local and weight are standard
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.ir.program import Program
from qcompiler.passes.allocate.measures import Sensitivity
from qcompiler.passes.allocate.problem import Option, Table, Unit
from qcompiler.passes.allocate.trial import Results, Trial, through_grid
from qcompiler.pipeline import Context

Metric = Callable[[Sequence[Results]], float]


@dataclass(frozen=True)
class WeightError:
    """Relative squared error of the weights themselves."""

    name: ClassVar[str] = "weight"
    needs_data: ClassVar[bool] = False

    def measure(self, program: Program, units: Sequence[Unit], ctx: Context) -> Table:
        """See `Sensitivity`."""
        del ctx
        nodes = {node.name: node for node in program.nodes}

        def of(option: Option) -> float:
            total = 0.0
            for name, assigned in option.assignments.items():
                bound = program.bind(nodes[name])
                for argument, spec in assigned.inputs.items():
                    weight = program.constant(bound[argument])
                    if weight is not None:
                        error = (through_grid(weight, spec) - weight).square().sum()
                        total += float(error / weight.square().sum().clamp(min=1e-30))
            return total

        return [[of(option) for option in unit.options] for unit in units]


@dataclass(frozen=True)
class LocalError:
    """Relative squared error of each operator's own result."""

    name: ClassVar[str] = "local"
    needs_data: ClassVar[bool] = True

    def measure(self, program: Program, units: Sequence[Unit], ctx: Context) -> Table:
        """See `Sensitivity`."""
        trial = Trial(program, ctx.batches)
        nodes = {node.name: node for node in program.nodes}
        table: list[list[float]] = []
        for number, unit in enumerate(units, 1):
            errors = [
                [trial.own_error(nodes[at], item) for at, item in each.assignments.items()] for each in unit.options
            ]
            table.append([sum(own) for own in errors])
            ctx.progress(number, len(units))
        return table


@dataclass(frozen=True)
class OutputError:
    """Relative squared error of the results."""

    name: ClassVar[str] = "output"
    needs_data: ClassVar[bool] = True

    def measure(self, program: Program, units: Sequence[Unit], ctx: Context) -> Table:
        """See `Sensitivity`."""
        return _toggled(program, units, ctx, relative_error)


@dataclass(frozen=True)
class OutputDivergence:
    """Divergence of the class probabilities."""

    name: ClassVar[str] = "kl"
    needs_data: ClassVar[bool] = True

    def measure(self, program: Program, units: Sequence[Unit], ctx: Context) -> Table:
        """See `Sensitivity`."""
        return _toggled(program, units, ctx, divergence)


SENSITIVITIES: tuple[type[Sensitivity], ...] = (WeightError, LocalError, OutputError, OutputDivergence)


def relative_error(results: Sequence[Results]) -> float:
    """Squared error of all floating results over their square."""
    noise, signal = 0.0, 0.0
    for batch in results:
        for wanted, found in zip(batch.wanted, batch.found, strict=True):
            if wanted.is_floating_point():
                noise += float((wanted.double() - found.double()).square().sum())
                signal += float(wanted.double().square().sum())
    return noise / signal if signal else float(noise > 0)


def divergence(results: Sequence[Results]) -> float:
    """Mean divergence of softmax along the last axis of the first result, in nats."""
    total, count = 0.0, 0
    for batch in results:
        wanted, found = (_log_probabilities(tensors[0]) for tensors in (batch.wanted, batch.found))
        total += float((wanted.exp() * (wanted - found)).sum())
        count += wanted.shape[0]
    return max(total / max(count, 1), 0.0)


def _log_probabilities(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.double().reshape(-1, logits.shape[-1] if logits.dim() else 1), 1)


def _toggled(program: Program, units: Sequence[Unit], ctx: Context, metric: Metric) -> Table:
    """A metric of the results with one unit at a time quantized."""
    trial = Trial(program, ctx.batches)
    table: list[list[float]] = []
    for number, unit in enumerate(units, 1):
        table.append([metric(trial.results(option.assignments)) for option in unit.options])
        ctx.progress(number, len(units))
    return table
