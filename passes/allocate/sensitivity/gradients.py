"""Gradients of a loss of the results with respect to what options put through grids: weights as read, activations as
read, results.

A leaf of zeros is added wherever a place is, so that one operator's reading of a value is told from another's. The
program is run by the interpreter's own `compute`; attention in the form whose derivatives are products and a softmax.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir.interp import compute
from qcompiler.ir.program import Node, Program
from qcompiler.measure import sample_count
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity.method import Place, Subject
from qcompiler.spec import QuantSpec

Kind = Literal["auto", "divergence", "squares"]
KINDS: tuple[Kind, ...] = ("auto", "divergence", "squares")
_MATRIX = 3
"""Results of at most so many axes count as class scores."""


@dataclass(frozen=True)
class Sample:
    """A few samples.

    Args:
        inputs: flat.
        label: true classes, None where unknown.
    """

    inputs: Sequence[Tensor]
    label: Tensor | None

    @property
    def count(self) -> int:
        """How many samples these are."""
        return sample_count(self.inputs)


@dataclass(frozen=True)
class Run:
    """A program with its leaves.

    Args:
        values: of all inputs and operators.
        leaves: zeros that were added at each place.
        results: floating results, flat.
    """

    values: Mapping[Node, object]
    leaves: Mapping[Place, Tensor]
    results: Sequence[Tensor]


def samples(subject: Subject, size: int = 1, most: int | None = None) -> list[Sample]:
    """The samples in parts of `size`, where all inputs begin with one free axis; else batch by batch.

    Raises:
        InputError: without samples.
    """
    program = subject.program
    firsts = {program.shape(node)[0] if program.shape(node) else 0 for node in program.inputs}
    symbol = program.dimensions.symbols.get(str(firsts.pop())) if len(firsts) == 1 else None
    found: list[Sample] = []
    for number, batch in enumerate(subject.ctx.batches):
        label = subject.labels[number] if number < len(subject.labels) else None
        if symbol is None:
            found.append(Sample(batch, label))
            continue
        step, count = max(size, symbol.low), len(batch[0])
        for start in range(0, count - count % step or count, step):
            part = slice(start, start + step)
            found.append(Sample([value[part] for value in batch], None if label is None else label[part]))
    if not found:
        raise InputError(
            "gradients are taken on real samples, and there is no calibration data",
            mend="pass calibration=..., or sensitivity=weight, which needs none",
        )
    return found[:most]


def places(subject: Subject, units: Sequence[Unit]) -> list[dict[Place, list[QuantSpec | None]]]:
    """Per unit: every place of its options, and what each option does there, None where nothing."""
    found: list[dict[Place, list[QuantSpec | None]]] = []
    for unit in units:
        grids = [subject.grids(option) for option in unit.options]
        every = dict.fromkeys(place for grid in grids for place in grid)
        found.append({place: [grid.get(place) for grid in grids] for place in every})
    return found


def run(program: Program, inputs: Sequence[Tensor], wanted: Sequence[Place], widen: bool = False) -> Run:
    """Evaluates a program with leaves at places, under gradients.

    Args:
        program: whose parameters are read.
        inputs: flat.
        wanted: places; those of values that are not floating get no leaf.
        widen: compute in float64.
    """
    params: dict[Node, object] = {node: compute(program, node, {}, widen=widen) for node in program.param_nodes}
    values: dict[Node, object] = dict(zip(program.inputs, inputs, strict=True))
    around = ChainMap(values, params)
    at_node: dict[Node, list[Node | None]] = {}
    for node, source in wanted:
        at_node.setdefault(node, []).append(source)
    leaves: dict[Place, Tensor] = {}

    def open_(place: Place, value: object) -> object:
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            return value
        leaves[place] = torch.zeros_like(value).requires_grad_()
        return value + leaves[place]

    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for node in program.graph.nodes:
            if node.op != "call_function":
                continue
            sources = {source: around[source] for source in node.all_input_nodes}
            here = at_node.get(node, ())
            sources |= {source: open_((node, source), sources[source]) for source in here if source is not None}
            values[node] = compute(program, node, sources, widen=widen)
            if None in here:
                values[node] = open_((node, None), values[node])
    results = [values[node] for node in program.outputs]
    floating = [value for value in results if isinstance(value, Tensor) and value.is_floating_point()]
    return Run(values, leaves, floating)


def differentiate(
    program: Program, loss: Tensor, leaves: Mapping[Place, Tensor], again: bool = False, keep: bool = False
) -> dict[Place, Tensor]:
    """The gradient of a number at every leaf.

    Args:
        program: that the leaves belong to.
        loss: one number.
        leaves: by place.
        again: whether the gradients are to be differentiated too.
        keep: whether the loss is to be differentiated again.

    Raises:
        UnsupportedError: naming an operator through which no derivative passes.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH):
            found = torch.autograd.grad(
                loss, list(leaves.values()), create_graph=again, retain_graph=again or keep, allow_unused=True
            )
    except RuntimeError as error:
        raise UnsupportedError(
            f"the results cannot be differentiated: {str(error).splitlines()[0]}", mend=_MEND
        ) from error
    for (node, source), gradient in zip(leaves, found, strict=True):
        if gradient is None:
            what = "its result" if source is None else f"%{source.name}"
            raise UnsupportedError(
                f"no gradient of the results reaches {what} at %{node.name} ({program.op(node)})",
                where=f"from module {program.origin(node).module or '(top)'}",
                mend=_MEND,
            )
    return dict(zip(leaves, (gradient for gradient in found if gradient is not None), strict=True))


_MEND = "choose a sensitivity that needs no gradients: output, kl or local"


def kind_of(program: Program, kind: Kind) -> Kind:
    """What the results are: class scores when there is one result of at most three axes, the last of a known size."""
    if kind != "auto":
        return kind
    shapes = [program.shape(node) for node in program.outputs]
    scores = len(shapes) == 1 and 0 < len(shapes[0]) <= _MATRIX and isinstance(shapes[0][-1], int) and shapes[0][-1] > 1
    return "divergence" if scores else "squares"


def random_scores(run_: Run, kind: Kind, signal: float, generator: torch.Generator) -> Tensor:
    """A random number whose gradients' squares have the curvature of the harm as mean.

    Formula   divergence: log-probability of classes drawn from the model itself, over the root of how many rows there
              are. squares: sum(v * y) for v ~ N(0, 2) over the root of the mean square `signal` of a sample's results.
    """
    if kind == "divergence":
        rows = run_.results[0].reshape(-1, run_.results[0].shape[-1])
        drawn = torch.multinomial(rows.detach().softmax(-1), 1, generator=generator)
        return rows.log_softmax(-1).gather(1, drawn).sum() / len(rows) ** 0.5
    normal = partial(torch.randn, generator=generator)
    parts = [(normal(value.shape) * value).sum() for value in run_.results]
    return torch.stack(parts).sum() * (2 / signal) ** 0.5


def task_loss(run_: Run, kind: Kind, signal: float, label: Tensor | None) -> Tensor:
    """Cross-entropy for the label, else for the class ranked first; squares: |y - y_float|^2 over the signal."""
    if kind == "divergence":
        rows = run_.results[0].reshape(-1, run_.results[0].shape[-1])
        return cross_entropy(rows, rows.detach().argmax(-1) if label is None else label.reshape(-1))
    parts = [(value - value.detach()).square().sum() for value in run_.results]
    return torch.stack(parts).sum() / signal


def signal_of(subject: Subject) -> float:
    """Mean over samples of the square of the floating results, which relative errors are relative to."""
    wanted = [value for batch in subject.trial.wanted for value in batch if value.is_floating_point()]
    count = sum(len(batch[0]) if batch[0].dim() else 1 for batch in subject.trial.wanted)
    return max(sum(float(value.double().square().sum()) for value in wanted) / max(count, 1), 1e-30)


def changes(
    subject: Subject, place: Place, specs: Sequence[QuantSpec | None], values: Mapping[Node, object]
) -> Iterator[Tensor | None]:
    """By option, what a grid adds to the value at a place; None where nothing."""
    node, source = place
    value = subject.program.param(source) if source is not None and source.op == "get_attr" else values[source or node]
    made: dict[QuantSpec, Tensor] = {}
    for spec in specs:
        if spec is None or not isinstance(value, Tensor):
            yield None
            continue
        if spec not in made:
            exact = value.detach()
            made[spec] = subject.trial.through(source or node, spec, exact) - exact
        yield made[spec]
