"""Further options of units: the same numbers on average, spread unevenly inside each weight, or single elements kept.

Formula   for each option of a unit and each method: the weight's spec with segments, where the method finds anything
          better than all alike, or with its outliers
Shapes    any
Promise   options run wherever they are offered: a kernel that takes such a weight was found, else the reason is told
Needs     the inputs of the layers when there is calibration data; else all columns count alike
Source    see `segments_inside` and `outliers`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from qcompiler.analysis.weights import CONVOLUTIONS
from qcompiler.errors import SpecError, UnsupportedError
from qcompiler.ir.program import Node, Program
from qcompiler.passes.allocate.outliers import OUTLIERS, importance, keep_outliers
from qcompiler.passes.allocate.problem import Option, Unit
from qcompiler.passes.allocate.segments_inside import METHODS, cut, with_widths
from qcompiler.passes.allocate.sensitivity import gradients as gr
from qcompiler.passes.allocate.sensitivity.method import Place, Subject
from qcompiler.passes.allocate.trial import Trial
from qcompiler.passes.allocate.units import Offer
from qcompiler.pipeline import Context
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec
from qcompiler.target import Kernel, Target

_GRADIENTS = 32
"""Samples whose gradients are looked at."""


@dataclass
class _Refiner:
    """Finds the uneven specs of weights, each once."""

    offered: Offer
    target: Target
    trial: Trial | None
    gradients: Mapping[Node, Tensor]
    share: float
    specs: dict[tuple[Node, QuantSpec, str], QuantSpec | None] = field(default_factory=dict)
    moments: dict[tuple[Node, int], Tensor] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def unit(self, unit: Unit, methods: Sequence[str]) -> Unit:
        """The unit with its further options behind the others."""
        found = list(unit.options)
        for option in unit.options:
            for method in methods:
                finer = {name: self.assignment(name, item, method) for name, item in option.assignments.items()}
                assignments = {name: finer[name] or item for name, item in option.assignments.items()}
                if any(finer.values()) and assignments not in [other.assignments for other in found]:
                    found.append(Option(f"{option.name}+{method}", assignments, option.scheme))
        return replace(unit, options=tuple(found))

    def assignment(self, name: str, item: Assignment, method: str) -> Assignment | None:
        """What an operator gets instead; None where the method changes nothing or no kernel takes it."""
        program = self.offered.program
        node = next(node for node in self.offered.choices if node.name == name)
        weight = program.bind(node).get("weight")
        spec = item.inputs.get("weight")
        if spec is None or not _is_layer(program, node) or not isinstance(weight, Node) or weight.op != "get_attr":
            return None
        kernel = _kernel_for(self.target, program, node, item)
        if isinstance(kernel, str):
            self.reasons[name] = kernel
            return None
        key = (weight, spec, method)
        if key not in self.specs:
            self.specs[key] = self.finer(node, weight, spec, method)
        finer = self.specs[key]
        return None if finer is None else replace(item, kernel=kernel.name, inputs={**item.inputs, "weight": finer})

    def finer(self, node: Node, weight: Node, spec: QuantSpec, method: str) -> QuantSpec | None:
        """The spec that a method makes of another; None where it changes nothing."""
        value = self.offered.program.param(weight).detach().float()
        outputs, moment = self.gradients.get(node, torch.ones(len(value))), self.moment(node, weight)
        if method == OUTLIERS:
            return keep_outliers(spec, importance(value, moment, outputs), self.share)
        axis, reach, choose = METHODS[method]
        slices = cut(value, spec, axis, moment, outputs, reach)
        return with_widths(slices, choose(slices)) if slices is not None else None

    def moment(self, node: Node, weight: Node) -> Tensor:
        """Of what a layer reads: [columns, columns] of a linear layer, [columns] of a convolution or without data."""
        program = self.offered.program
        value, columns = program.bind(node)["input"], int(program.shape(weight)[1])
        if self.trial is None or not isinstance(value, Node) or value.op == "get_attr":
            return torch.ones(columns)
        if (value, columns) not in self.moments:
            samples = [sample.detach().double() for sample in self.trial.samples(value)]
            linear = program.op(node) == "aten.linear"
            self.moments[value, columns] = _second_moment(samples) if linear else _energies(samples, columns)
        return self.moments[value, columns]


def with_options(offered: Offer, methods: Sequence[str], ctx: Context, share: float = 0.01) -> Offer:
    """The offer with uneven variants of its options.

    Args:
        offered: units with plain options.
        methods: `omq`, `waterfill`, `slim`, `abmp`, `gwq`.
        ctx: target, and calibration data if there is any.
        share: of the elements of a weight that `gwq` keeps.

    Raises:
        SpecError: for a method that there is not.
    """
    unknown = sorted(set(methods) - {*METHODS, OUTLIERS})
    if unknown:
        known = ", ".join([*METHODS, OUTLIERS])
        raise SpecError(f"there is no way '{unknown[0]}' to mix widths inside a weight", mend=known)
    if not methods:
        return offered
    subject = Subject(offered.program, ctx)
    trial = subject.trial if ctx.batches else None
    refiner = _Refiner(offered, ctx.target, trial, _gradients(subject, offered) if ctx.batches else {}, share)
    units = tuple(refiner.unit(unit, methods) for unit in offered.units)
    told: Mapping[str, list[str]] = {reason: [] for reason in refiner.reasons.values()}
    for name, reason in refiner.reasons.items():
        told[reason].append(name)
    for reason, names in told.items():
        ctx.log(f"no widths inside {len(names)} weights: {reason}")
    return replace(offered, units=units)


def _kernel_for(target: Target, program: Program, node: Node, item: Assignment) -> Kernel | str:
    """The kernel of an assignment if it takes any weight, else the first one that does and reads the same arguments."""
    rows = [row for row in target.kernels if row.name == item.kernel]
    rows += [row for row in target.kernels if program.op(node) in row.ops and row.name != item.kernel]
    for row in rows:
        needed = {name for name, slot in row.slots.items() if slot.need == "must"}
        anything = "weight" in row.slots and any(accept.anything for accept in row.slots["weight"].accepts)
        guarded = any(target.backend.guards[name](program, node) for name in row.guards)
        if anything and needed <= set(item.inputs) <= set(row.slots) and not guarded:
            return row
    return f"{target.name} has no kernel for {program.op(node)} beside {', '.join(item.inputs)} that takes any numbers"


def _gradients(subject: Subject, offered: Offer) -> dict[Node, Tensor]:
    """Mean square of the gradient of the results' harm at each output of every layer; none where nothing derives."""
    program, ctx = subject.program, subject.ctx
    wanted: list[Place] = [(node, None) for node in offered.choices if _is_layer(program, node)]
    kind = gr.kind_of(program, "auto")
    signal = gr.signal_of(subject)
    totals: dict[Node, Tensor] = {}
    generator = torch.Generator().manual_seed(ctx.seed)
    try:
        for part in gr.samples(subject, most=_GRADIENTS):
            run = gr.run(program, part.inputs, wanted)
            loss = gr.random_scores(run, kind, signal, generator)
            for (node, _), gradient in gr.differentiate(program, loss, run.leaves).items():
                axis = 1 if program.op(node) in CONVOLUTIONS else gradient.dim() - 1
                energy = gradient.double().square().movedim(axis, 0).flatten(1).sum(1)
                totals[node] = totals.get(node, torch.zeros_like(energy)) + energy
    except UnsupportedError as error:
        ctx.log(f"outputs of a layer count alike: {error.what}")
        return {}
    return {node: energy + energy.mean() for node, energy in totals.items()}


def _is_layer(program: Program, node: Node) -> bool:
    return program.op(node) == "aten.linear" or program.op(node) in CONVOLUTIONS


def _second_moment(samples: Sequence[Tensor]) -> Tensor:
    rows = [sample.reshape(-1, sample.shape[-1]) for sample in samples]
    return sum((part.T @ part for part in rows), torch.zeros(())) / sum(map(len, rows))


def _energies(samples: Sequence[Tensor], columns: int) -> Tensor:
    """Mean square of each channel; groups of a grouped convolution count alike."""
    means = [sample.square().movedim(1, 0).flatten(1).mean(1) for sample in samples]
    return torch.stack(means).mean(0).reshape(-1, columns).mean(0)
