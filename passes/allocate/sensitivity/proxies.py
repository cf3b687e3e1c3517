"""Scores of a unit from one pass, that know no grids: an option costs its unit's score times its relative noise.

Formula   snip: mean over samples of sum |g w|. grad_norm: mean of |g|. first_order: mean of |g^T d|, d what an option's
          grids change. synflow: sum |w dR/dw|, R the sum of all results of |weights| on an input of ones. parameters:
          number of weights. orm: exp(-beta sum_j CKA(F_l, F_j)) over the results F of all other operators with weights
Shapes    float64 [options, samples] per unit; synflow, parameters and orm [options, 1]
Promise   not below 0; what passes no gradient is refused by name
Needs     calibration data, but for synflow and parameters; operators that can be differentiated, but for the last two
Source    Lee et al. 2019, "SNIP"; Abdelfattah et al. 2021, "Zero-Cost Proxies"; Tanaka et al. 2020, "SynFlow"; Ma et
          al. 2023, "OMPQ", with the linear CKA of Kornblith et al. 2019; the selection after Dong et al. 2023, "EMQ"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.analysis.weights import spatial_axes
from qcompiler.data import sample_inputs
from qcompiler.errors import UnsupportedError
from qcompiler.ir.program import Node, Program
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity import gradients as gr
from qcompiler.passes.allocate.sensitivity.curvature import check
from qcompiler.passes.allocate.sensitivity.method import Harm, Place, Subject, graded

Score = Callable[[Tensor, Tensor], Tensor]
"""Of the gradient of a weight and the weight."""


@dataclass(frozen=True)
class Snip:
    """What the loss would feel if weights went missing."""

    loss: gr.Kind = "auto"
    name: ClassVar[str] = "snip"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "auto"

    def __post_init__(self) -> None:
        check(self.loss)

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        return _scored(subject, units, self.loss, lambda gradient, weight: (gradient * weight).abs().sum())


@dataclass(frozen=True)
class GradientNorm:
    """Length of the gradient."""

    loss: gr.Kind = "auto"
    name: ClassVar[str] = "grad_norm"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "auto"

    def __post_init__(self) -> None:
        check(self.loss)

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        return _scored(subject, units, self.loss, lambda gradient, _: gradient.square().sum().sqrt())


@dataclass(frozen=True)
class FirstOrder:
    """First term of the loss's expansion, its absolute value sample by sample so that samples do not cancel."""

    loss: gr.Kind = "auto"
    name: ClassVar[str] = "first_order"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "auto"

    def __post_init__(self) -> None:
        check(self.loss)

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        tables = gr.places(subject, units)
        columns: list[list[Tensor]] = [[] for _ in units]
        for run, gradients in task_gradients(subject, [place for table in tables for place in table], self.loss):
            for unit, table, column in zip(units, tables, columns, strict=True):
                total = torch.zeros(len(unit.options), dtype=torch.float64)
                for place, specs in table.items():
                    for option, change in enumerate(gr.changes(subject, place, specs, run.values)):
                        if change is not None:
                            total[option] += float((gradients[place] * change).double().sum())
                column.append(total.abs())
        for column in columns:
            yield torch.stack(column, 1)


@dataclass(frozen=True)
class SynapticFlow:
    """What flows through the weights, whatever the data."""

    name: ClassVar[str] = "synflow"
    needs_data: ClassVar[bool] = False
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        flow = synaptic_flow(subject.program, {node for unit in units for node in subject.weights(unit)})
        for unit in units:
            score = sum(
                float((weight * gradient).sum()) for weight, gradient in map(flow.__getitem__, subject.weights(unit))
            )
            if not score > 0:
                raise UnsupportedError(
                    f"nothing flows through '{unit.name}' when all weights are positive and the input is all alike",
                    mend="norms and softmax stop it; choose another sensitivity",
                )
            yield graded(subject, unit, torch.tensor([score]))


@dataclass(frozen=True)
class Parameters:
    """How many weights there are."""

    name: ClassVar[str] = "parameters"
    needs_data: ClassVar[bool] = False
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        for unit in units:
            count = sum(subject.program.param(node).numel() for node in subject.weights(unit))
            yield graded(subject, unit, torch.tensor([float(count)]))


@dataclass(frozen=True)
class Orthogonality:
    """Operators whose results are like no other's cannot be made up for.

    Args:
        beta: how much likeness counts.
        samples: most samples, a Gram matrix of which is made for each operator.
    """

    beta: float = 0.1
    samples: int = 64
    name: ClassVar[str] = "orm"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "error"

    def __post_init__(self) -> None:
        check("auto", self.samples)

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        grams: dict[Node, Tensor] = {}
        for node in subject.program.nodes:
            if spatial_axes(subject.program, node) is not None:
                grams[node] = gram(subject.trial.samples(node), self.samples)
        for unit in units:
            members = [subject.nodes[name] for name in unit.nodes]
            strange = [node for node in members if node not in grams]
            if strange:
                raise UnsupportedError(
                    f"'{strange[0].name}' ({subject.program.op(strange[0])}) is no layer whose results can be compared",
                    mend="choose another sensitivity, or keep it in float: keep=NAME",
                )
            alike = [
                sum(alignment(grams[node], grams[other]) for other in grams if other is not node) for node in members
            ]
            score = sum(torch.exp(torch.tensor(-self.beta * value)) for value in alike)
            yield graded(subject, unit, torch.as_tensor(score)[None])


def synaptic_flow(program: Program, weights: set[Node]) -> dict[Node, tuple[Tensor, Tensor]]:
    """Absolute weights and what the sum of all results of absolute weights owes them, float64, on an input of ones.

    Raises:
        UnsupportedError: naming an operator through which no derivative passes.
    """
    absolute = program.copy()
    for node in absolute.param_nodes:
        value = absolute.param(node)
        if value.is_floating_point():
            absolute.set_param(node, value.detach().abs())
    wanted = [
        (user, node) for node in absolute.param_nodes if node.name in {w.name for w in weights} for user in node.users
    ]
    inputs = [
        torch.ones_like(value, dtype=torch.float64) if value.is_floating_point() else torch.ones_like(value)
        for value in sample_inputs(program)
    ]
    run = gr.run(absolute, inputs, wanted, widen=True)
    flow = torch.stack([value.sum() for value in run.results]).sum()
    found: dict[Node, tuple[Tensor, Tensor]] = {}
    by_name = {node.name: node for node in weights}
    for (_, source), gradient in gr.differentiate(absolute, flow, run.leaves).items():
        node = by_name[source.name if source is not None else ""]
        before = found[node][1] if node in found else 0
        found[node] = (program.param(node).detach().double().abs(), gradient + before)
    return found


def gram(values: Sequence[Tensor], most: int) -> Tensor:
    """Centred inner products of samples: float64 [samples, samples]."""
    rows = torch.cat([value.reshape(len(value), -1) for value in values])[:most].double()
    rows = rows - rows.mean(0)
    return rows @ rows.T


def alignment(one: Tensor, other: Tensor) -> float:
    """Linear centred kernel alignment of two Gram matrices, 0 .. 1."""
    scale = (one.square().sum() * other.square().sum()).sqrt()
    return float((one * other).sum() / scale) if scale > 0 else 0.0


def task_gradients(
    subject: Subject, wanted: Sequence[Place], loss: gr.Kind
) -> Iterator[tuple[gr.Run, Mapping[Place, Tensor]]]:
    """Gradients of each sample's loss; of a random direction of the results where the float model has no loss."""
    kind, signal = gr.kind_of(subject.program, loss), gr.signal_of(subject)
    generator = torch.Generator().manual_seed(subject.ctx.seed)
    parts = gr.samples(subject)
    for number, part in enumerate(parts, 1):
        run = gr.run(subject.program, part.inputs, wanted)
        if kind == "divergence":
            score = gr.task_loss(run, kind, signal, part.label)
        else:
            score = gr.random_scores(run, kind, signal * part.count, generator)
        yield run, gr.differentiate(subject.program, score, run.leaves)
        subject.ctx.progress(number, len(parts))


def _scored(subject: Subject, units: Sequence[Unit], loss: gr.Kind, score: Score) -> Iterator[Tensor]:
    """Losses from a score of each weight and its gradient, summed over a unit's weights, sample by sample."""
    params = {node for unit in units for node in subject.weights(unit)}
    tables = gr.places(subject, units)
    wanted = [place for table in tables for place in table if place[1] in params]
    scores: dict[Place, list[float]] = {place: [] for place in wanted}
    for _, gradients in task_gradients(subject, wanted, loss):
        for place, gradient in gradients.items():
            weight = subject.program.param(place[1]).detach() if place[1] is not None else gradient
            scores[place].append(float(score(gradient, weight)))
    for unit, table in zip(units, tables, strict=True):
        rows = [torch.tensor(scores[place], dtype=torch.float64) for place in table if place in scores]
        yield graded(subject, unit, torch.stack(rows).sum(0))
