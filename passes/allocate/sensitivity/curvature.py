"""Sensitivities by a quadratic model of the harm: curvature at the float program times what the grids change.

Formula   fisher: 1/2 sum_i F_ii d_i^2, F = E[g g^T], g the gradient of a class drawn from the model (of a random
          direction of the results, for squares). gauss_newton: 1/2 E[(g^T d)^2], all entries of F. hessian_trace:
          1/2 tr(H) / n |d|^2 with tr(H) = E[v^T H v], v = +-1. hessian_eigenvalue: 1/2 lambda_max(H) / n |d|^2 of the
          weights, lambda_max by Lanczos' method
Shapes    float64 [options, samples], [options, parts x probes] for the trace, [options, 1] for the eigenvalue
Promise   not below 0; what passes no gradient is refused by name
Needs     calibration data, differentiable operators; two derivatives for the Hessian
Source    Dong et al. 2019, "HAWQ"; Dong et al. 2020, "HAWQ-V2"; Hutchinson 1989; Lanczos 1950; fisher after Martens
          2020, "New Insights and Perspectives on the Natural Gradient Method"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar
from zlib import crc32

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity import gradients as gr
from qcompiler.passes.allocate.sensitivity.method import Harm, Place, Subject

_SETTLED = 0.05
"""A mean is good enough when its standard error is this part of it."""
_EIGEN_TOLERANCE = 1e-2
_EXHAUSTED = 1e-5
"""A new direction as small as this is nothing but rounding."""


@dataclass(frozen=True)
class Fisher:
    """Diagonal of the Fisher information.

    Args:
        loss: `auto`, `divergence` or `squares`.
        draws: random gradients per sample.
    """

    loss: gr.Kind = "auto"
    draws: int = 2
    name: ClassVar[str] = "fisher"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "auto"

    def __post_init__(self) -> None:
        check(self.loss, self.draws)

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        return _by_random_gradients(subject, units, self.loss, self.draws, full=False)


@dataclass(frozen=True)
class GaussNewton:
    """The whole Fisher information, seen through random gradients; options as of `fisher`."""

    loss: gr.Kind = "auto"
    draws: int = 2
    name: ClassVar[str] = "gauss_newton"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "auto"

    def __post_init__(self) -> None:
        check(self.loss, self.draws)

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        return _by_random_gradients(subject, units, self.loss, self.draws, full=True)


@dataclass(frozen=True)
class HessianTrace:
    """Mean curvature.

    Args:
        loss: `auto`, `divergence` or `squares`.
        probes: most random vectors; ten at least are drawn, then until all traces are known to 5 %.
        parts: the samples are taken in so many parts.
    """

    loss: gr.Kind = "auto"
    probes: int = 24
    parts: int = 2
    name: ClassVar[str] = "hessian_trace"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "auto"
    joint: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.loss, self.probes, self.parts)

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        tables = gr.places(subject, units)
        wanted = [place for table in tables for place in table]
        whole = gr.samples(subject, sum(len(batch[0]) for batch in subject.ctx.batches))
        parts = gr.samples(subject, -(-sum(len(item.inputs[0]) for item in whole) // self.parts))
        traces: dict[Place, list[float]] = {place: [] for place in wanted}
        sizes: dict[Place, list[Tensor]] = {}
        generator = torch.Generator().manual_seed(subject.ctx.seed)
        for number, part in enumerate(parts, 1):
            run = gr.run(subject.program, part.inputs, wanted)
            loss = _mean_loss(subject, run, part, self.loss)
            first = gr.differentiate(subject.program, loss, run.leaves, again=True)
            probe_traces(first, run.leaves, self.probes, generator, traces)
            for table in tables:
                for place, specs in table.items():
                    found = _squares_over_size(subject, place, specs, run.values)
                    sizes[place] = [found] if place not in sizes else [*sizes[place], found]
            subject.ctx.progress(number, len(parts))
        for unit, table in zip(units, tables, strict=True):
            yield _weighed(len(unit.options), table, traces, sizes)


@dataclass(frozen=True)
class HessianEigenvalue:
    """Largest curvature of the weights.

    Args:
        loss: `auto`, `divergence` or `squares`.
        rounds: most products with the Hessian.
        samples: most samples.
    """

    loss: gr.Kind = "auto"
    rounds: int = 12
    samples: int = 8
    name: ClassVar[str] = "hessian_eigenvalue"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "auto"

    def __post_init__(self) -> None:
        check(self.loss, self.rounds, self.samples)

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        part = gr.samples(subject, self.samples, 1)[0]
        tables = gr.places(subject, units)
        weights = [{place: specs for place, specs in table.items() if _reads_weight(place)} for table in tables]
        for unit in units:
            subject.weights(unit)
        run = gr.run(subject.program, part.inputs, [place for table in weights for place in table])
        loss = _mean_loss(subject, run, part, self.loss)
        first = gr.differentiate(subject.program, loss, run.leaves, again=True)
        for number, (unit, table) in enumerate(zip(units, weights, strict=True), 1):
            generator = torch.Generator().manual_seed(subject.ctx.seed + crc32(unit.name.encode()))
            top = largest_eigenvalue(
                [first[place] for place in table], [run.leaves[place] for place in table], self.rounds, generator
            )
            rows = torch.zeros(len(unit.options), 1, dtype=torch.float64)
            for place, specs in table.items():
                rows[:, 0] += 0.5 * max(top, 0.0) * _squares_over_size(subject, place, specs, run.values)
            yield rows
            subject.ctx.progress(number, len(units))


def check(loss: str, *counts: int) -> None:
    """Refuses options that make no sense.

    Raises:
        SpecError: for an unknown loss or a count below 1.
    """
    if loss not in gr.KINDS:
        raise SpecError(f"there is no loss '{loss}'", mend=f"choose one of {', '.join(gr.KINDS)}")
    if min(counts, default=1) < 1:
        raise SpecError(f"{min(counts)} is no number of gradients or samples", mend="at least one is needed")


def probe_traces(
    first: Mapping[Place, Tensor],
    leaves: Mapping[Place, Tensor],
    most: int,
    generator: torch.Generator,
    traces: Mapping[Place, list[float]],
) -> None:
    """Appends the mean of `v^T H v` for random signs v to the traces of each place.

    Independent signs at all places make one product serve them all: what is between places has mean 0.
    """
    own: dict[Place, list[float]] = {place: [] for place in leaves}
    for probe in range(most):
        signs = {
            place: torch.randint(0, 2, leaf.shape, generator=generator).to(leaf.dtype).mul_(2).sub_(1)
            for place, leaf in leaves.items()
        }
        product = torch.stack([(first[place] * sign).sum() for place, sign in signs.items()]).sum()
        second = torch.autograd.grad(product, list(leaves.values()), retain_graph=True, materialize_grads=True)
        for (place, sign), row in zip(signs.items(), second, strict=True):
            own[place].append(float((sign * row).double().sum()))
        if probe + 1 >= min(10, most) and all(map(_settled, own.values())):
            break
    for place, values in own.items():
        traces[place].append(sum(values) / len(values))


def largest_eigenvalue(
    first: Sequence[Tensor], leaves: Sequence[Tensor], rounds: int, generator: torch.Generator
) -> float:
    """Largest eigenvalue of one block of the Hessian, by Lanczos' method; below the true one until it has settled."""
    vector = torch.cat([torch.randn(leaf.numel(), generator=generator) for leaf in leaves])
    basis: list[Tensor] = []
    products: list[Tensor] = []
    found = 0.0
    for _ in range(min(rounds, len(vector))):
        basis.append(vector / vector.norm().clamp(min=1e-30))
        parts = basis[-1].split([leaf.numel() for leaf in leaves])
        product = torch.stack([(row.flatten() * part).sum() for row, part in zip(first, parts, strict=True)]).sum()
        second = torch.autograd.grad(product, list(leaves), retain_graph=True, materialize_grads=True)
        products.append(torch.cat([row.flatten() for row in second]))
        small = (torch.stack(basis) @ torch.stack(products).T).double()
        before, found = found, float(torch.linalg.eigvalsh((small + small.T) / 2)[-1])
        vector = _beside(products[-1], basis)
        if abs(found - before) <= _EIGEN_TOLERANCE * abs(found) or vector.norm() <= _EXHAUSTED * products[-1].norm():
            break
    return found


def _beside(vector: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """What of a vector is at right angles to others; twice, for what rounding leaves."""
    rows = torch.stack(list(basis))
    for _ in range(2):
        vector = vector - rows.T @ (rows @ vector)
    return vector


def _mean_loss(subject: Subject, run: gr.Run, part: gr.Sample, loss: gr.Kind) -> Tensor:
    """The task's loss, mean over samples."""
    kind = gr.kind_of(subject.program, loss)
    found = gr.task_loss(run, kind, gr.signal_of(subject), part.label)
    return found if kind == "divergence" else found / part.count


def _by_random_gradients(
    subject: Subject, units: Sequence[Unit], loss: gr.Kind, draws: int, full: bool
) -> Iterator[Tensor]:
    """Half the mean square of what random gradients see of each option's change."""
    tables = gr.places(subject, units)
    wanted = [place for table in tables for place in table]
    kind, signal = gr.kind_of(subject.program, loss), gr.signal_of(subject)
    parts = gr.samples(subject)
    generator = torch.Generator().manual_seed(subject.ctx.seed)
    columns: list[list[Tensor]] = [[] for _ in units]
    for number, part in enumerate(parts, 1):
        run = gr.run(subject.program, part.inputs, wanted)
        drawn = []
        for draw in range(draws):
            score = gr.random_scores(run, kind, signal * part.count, generator)
            drawn.append(gr.differentiate(subject.program, score, run.leaves, keep=draw + 1 < draws))
        for unit, table, column in zip(units, tables, columns, strict=True):
            column.append(_quadratic(subject, len(unit.options), table, run, drawn, full))
        subject.ctx.progress(number, len(parts))
    for column in columns:
        yield torch.stack(column, 1)


def _quadratic(
    subject: Subject,
    options: int,
    table: Mapping[Place, Sequence[gr.QuantSpec | None]],
    run: gr.Run,
    drawn: Sequence[Mapping[Place, Tensor]],
    full: bool,
) -> Tensor:
    """`1/2 E[(g^T d)^2]`, or of the diagonal, by option: float64 [options]."""
    seen = torch.zeros(options, len(drawn), dtype=torch.float64)
    squares = torch.zeros(options, len(drawn), dtype=torch.float64)
    for place, specs in table.items():
        for option, change in enumerate(gr.changes(subject, place, specs, run.values)):
            if change is None:
                continue
            for draw, gradients in enumerate(drawn):
                product = gradients[place] * change
                seen[option, draw] += float(product.sum())
                squares[option, draw] += float(product.square().sum())
    return 0.5 * (seen.square() if full else squares).mean(1)


def _squares_over_size(
    subject: Subject, place: Place, specs: Sequence[gr.QuantSpec | None], values: Mapping[torch.fx.Node, object]
) -> Tensor:
    """`|d|^2 / n` by option: float64 [options]."""
    found = [
        0.0 if change is None else float(change.double().square().mean())
        for change in gr.changes(subject, place, specs, values)
    ]
    return torch.tensor(found, dtype=torch.float64)


def _weighed(
    options: int,
    table: Mapping[Place, object],
    traces: Mapping[Place, Sequence[float]],
    sizes: Mapping[Place, Sequence[Tensor]],
) -> Tensor:
    """Half the trace times the mean square change, by part: float64 [options, parts]."""
    parts = max((len(traces[place]) for place in table), default=1)
    found = torch.zeros(options, parts, dtype=torch.float64)
    for place in table:
        for part, (trace, size) in enumerate(zip(traces[place], sizes[place], strict=True)):
            found[:, part] += 0.5 * trace * size
    return found


def _settled(values: Sequence[float]) -> bool:
    found = torch.tensor(values, dtype=torch.float64)
    return len(values) > 1 and float(found.std() / len(values) ** 0.5) <= _SETTLED * abs(float(found.mean()))


def _reads_weight(place: Place) -> bool:
    return place[1] is not None and place[1].op == "get_attr"
