"""What all learned rounding shares: units from front to back, their examples, and putting the results in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from qcompiler.errors import SpecError
from qcompiler.examples import examples, weigh_channels
from qcompiler.ir.program import Node, Program
from qcompiler.passes.solve.driver import Site, Solved, finite_weight, put_codes, set_ranges, weight_sites
from qcompiler.passes.solve.expression import Codes
from qcompiler.passes.solve.front_to_back import (
    Reader,
    dequantizers,
    put_expression,
    readers_of,
    settle,
    share_ranges,
)
from qcompiler.passes.solve.learned.units import Unit, channel_axis, layer_units, learnable, segment_units
from qcompiler.passes.solve.learned.variables import Bias, Quantized, StepSize, WeightVariable
from qcompiler.passes.solve.ranges import Search, SearchName
from qcompiler.pipeline import Context
from qcompiler.qparams import Qparams, is_static, qparam_values, qparams_of, quantizers, set_qparams
from qcompiler.spec import QuantSpec
from qcompiler.stats import Stream
from qcompiler.training import Loss, Outcome, Sample, Schedule, Variable, reconstruct
from qcompiler.walk import Walk

UnitName = Literal["layer", "segment"]
Importance = Literal["none", "channel", "fisher"]
MakeVariable = Callable[[Quantized, int, bool], WeightVariable]
"""A weight on its grid, a seed, and whether the grid is the weight's own, to what is learned of it."""


@dataclass(frozen=True)
class Plan:
    """What to learn, on what, and how.

    Args:
        make: what is learned of a weight.
        schedule: how long.
        unit: `layer` or `segment`.
        window: so many units are learned together; each window starts one unit after the last one.
        rows: examples per step.
        search: how scales are found that are not set yet.
        inputs: `quantized`: a unit reads what the solved units before it leave; `float`: what the float model gives.
        importance: what a squared error counts: `none` the same everywhere; `channel` one over the variance of the
            channel; `fisher` by the gradient of the divergence of the final result.
        divergence: add the divergence of results as distributions over channels.
        homologous: also aim at what the float unit makes of the quantized input.
        step_rate: of the scales of static activations inside a unit, 0 leaves them.
        bias_rate: of biases, 0 leaves them.
    """

    make: MakeVariable
    schedule: Schedule
    unit: UnitName = "layer"
    window: int = 1
    rows: int = 32
    search: SearchName = "mse"
    inputs: Stream = "quantized"
    importance: Importance = "none"
    divergence: bool = False
    homologous: bool = False
    step_rate: float = 0.0
    bias_rate: float = 0.0

    def __post_init__(self) -> None:
        for what, value, known in (
            ("unit", self.unit, ("layer", "segment")),
            ("stream of inputs", self.inputs, ("quantized", "float")),
            ("importance", self.importance, ("none", "channel", "fisher")),
        ):
            if value not in known:
                raise SpecError(f"there is no {what} '{value}'", mend=f"choose one of {', '.join(known)}")
        if self.window < 1 or self.rows < 1:
            raise SpecError(
                f"window={self.window}, rows={self.rows} leave nothing to learn on", mend="both are at least 1"
            )


@dataclass
class _Progress:
    """What is known while units are solved."""

    walk: Walk
    weights: dict[Reader, WeightVariable] = field(default_factory=dict)
    done: dict[Reader, tuple[Solved, QuantSpec]] = field(default_factory=dict)
    steps: dict[Qparams, StepSize] = field(default_factory=dict)
    biases: dict[Node, Bias] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)


def learn(program: Program, ctx: Context, plan: Plan, step: str) -> list[Outcome]:
    """Learns the weights of linears and convolutions; all others go to the nearest grid value.

    Args:
        program: quantized; static activations calibrated.
        ctx: its batches are walked through the program.
        plan: what and how.
        step: name of the pass.

    Returns:
        one outcome per window, in order.

    Raises:
        InputError: without calibration data; when weights or activations hold NaN or infinity.
    """
    readers = readers_of(program)
    if not readers:
        return []
    own = _own_grids(program)
    share_ranges(program, [reader.site for reader in readers])
    set_ranges(program, Search(plan.search).range)
    state = _Progress(Walk(program, ctx.batches, ("float", "quantized")))
    chosen = learnable(program, readers)
    installs = []
    for reader in [reader for reader in readers if reader not in chosen]:
        value, install = settle(program, reader, None)
        _settle_weight(state.walk, reader, value)
        installs.append(install)
    units = (layer_units if plan.unit == "layer" else segment_units)(program, chosen)
    for number, unit in enumerate(units):
        state.walk.to(unit.start)
        window = units[number : number + plan.window]
        _prepare(program, state, window, plan, own, ctx.seed)
        if window[-1].results and (number == 0 or number + plan.window <= len(units)):
            state.outcomes.append(_train(program, state, window, plan, ctx.seed + number))
        _leave(program, state, unit)
        ctx.progress(number + 1, len(units))
    for install in installs:
        install(program, step)
    _install(program, state, step)
    ctx.log(summary(state.outcomes, sum(len(unit.readers) for unit in units)))
    return state.outcomes


def summary(outcomes: Sequence[Outcome], weights: int) -> str:
    """One line for the user."""
    if not outcomes:
        return "no weight to learn"
    gains = [outcome.after / outcome.before for outcome in outcomes if outcome.before > 0]
    mean = sum(gains) / len(gains) if gains else 1.0
    least = min(outcome.decided for outcome in outcomes)
    return f"{weights} weights: held-out error {mean:.0%} of the start's on average, at least {least:.1%} decided"


def start_of(program: Program, reader: Reader) -> Quantized:
    """The weight of a reader on the grid that its scales make."""
    scale, zero_point = qparam_values(program, reader.site.qparams)
    weight = finite_weight(program, reader.site.param).detach().float()
    return Quantized(weight, scale, zero_point, reader.site.spec)


def _own_grids(program: Program) -> set[Site]:
    """The weights that share their scales with no other."""
    users: dict[Qparams, list[Site]] = {}
    for site in weight_sites(program):
        users.setdefault(site.qparams, []).append(site)
    return {sites[0] for sites in users.values() if len(sites) == 1}


def _prepare(program: Program, state: _Progress, window: Sequence[Unit], plan: Plan, own: set[Site], seed: int) -> None:
    """Makes the variables of a window that no earlier window has made."""
    inside = set(state.walk.pending(window[-1].stop))
    for reader in [reader for unit in window for reader in unit.readers]:
        if reader not in state.weights:
            start = start_of(program, reader)
            state.weights[reader] = plan.make(start, seed + len(state.weights) + len(state.done), reader.site in own)
            bias = program.bind(reader.node).get("bias")
            if plan.bias_rate and isinstance(bias, Node) and bias.op == "get_attr" and len(bias.users) == 1:
                value = program.param(bias).float()
                unit_size = max(float(value.square().mean().sqrt()), float(start.weight.square().mean().sqrt()))
                state.biases[bias] = Bias(value, unit_size, plan.bias_rate)
    for node in quantizers(program) if plan.step_rate else ():
        qparams = qparams_of(program, node)
        users = {user for scale in qparams.scales for user in scale.users}
        static = is_static(qparams) and node in inside and len(qparams.scales) == 1
        if static and users <= inside and qparams not in state.steps:
            scale, _ = qparam_values(program, qparams)
            spec = cast(QuantSpec, program.bind(node)["spec"])
            state.steps[qparams] = StepSize(cast(Tensor, scale), spec, plan.step_rate)


def _train(program: Program, state: _Progress, window: Sequence[Unit], plan: Plan, seed: int) -> Outcome:
    walk, last = state.walk, window[-1]
    pending = walk.pending(last.stop)
    variables, nodes = _variables(program, state, window, set(pending))
    samples = [_sample(walk, last, pending, plan, batch) for batch in range(walk.batches)]
    axis = channel_axis(program, last)
    if plan.importance == "channel":
        samples = weigh_channels(samples, axis)
    if plan.importance == "fisher":
        samples = [fisher(walk, last, sample, batch) for batch, sample in enumerate(samples)]

    def forward(values: Sequence[Tensor], sample: Sample) -> list[Tensor]:
        given: dict[Node, Tensor] = {}
        for value, places in zip(values, nodes, strict=True):
            given |= {node: value.to(program.tensor_type(node).dtype) for node in places}
        found = walk.ahead(last.stop, sample.live, "quantized", given)
        return [cast(Tensor, found[node]) for node in last.results]

    data = examples(program, samples, last.results, plan.rows)
    return reconstruct(forward, variables, Loss(axis, plan.divergence), plan.schedule, data, seed)


def _variables(
    program: Program, state: _Progress, window: Sequence[Unit], inside: set[Node]
) -> tuple[list[Variable], list[list[Node]]]:
    """What is learned in a window, and the nodes that each stands for."""
    found: list[tuple[Variable, list[Node]]] = []
    for reader in [reader for unit in window for reader in unit.readers]:
        found.append((state.weights[reader], dequantizers(reader.site)))
        bias = program.bind(reader.node).get("bias")
        if isinstance(bias, Node) and bias in state.biases:
            found.append((state.biases[bias], [bias]))
    for qparams, size in state.steps.items():
        if inside.intersection(qparams.scales[0].users):
            found.append((size, [qparams.scales[0]]))
    return [variable for variable, _ in found], [nodes for _, nodes in found]


def _sample(walk: Walk, unit: Unit, pending: Sequence[Node], plan: Plan, batch: int) -> Sample:
    """What a unit reads of one batch, and what it should give."""
    members = set(pending)
    read = {source for node in pending for source in node.all_input_nodes} - members
    exact = walk.live(batch, "float")
    seen = walk.live(batch, plan.inputs)
    kinds: list[Mapping[Node, object]] = [exact, *([walk.live(batch, "quantized")] if plan.homologous else [])]
    with torch.no_grad():
        results = [walk.ahead(unit.stop, live, "float") for live in kinds]
    targets = tuple(tuple(cast(Tensor, values[node]) for node in unit.results) for values in results)
    return Sample({node: value for node, value in seen.items() if node in read}, targets)


def fisher(walk: Walk, unit: Unit, sample: Sample, batch: int) -> Sample:
    """Importance `(|g| / rms(g) + 1)^2`, g the gradient of KL(float || quantized so far) at the unit's results."""
    live = walk.live(batch, "float")
    with torch.no_grad():
        wanted = _logits(walk, walk.ahead(None, live, "float"))
        found = walk.ahead(unit.stop, walk.live(batch, "quantized"), "quantized")
    leaves = {node: cast(Tensor, found[node]).detach().requires_grad_() for node in unit.results}
    with torch.enable_grad():
        logits = _logits(walk, walk.ahead(None, live, "float", leaves) | leaves)
        logs = functional.log_softmax(logits, -1)
        loss = functional.kl_div(logs, functional.log_softmax(wanted, -1), reduction="sum", log_target=True)
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    importance = []
    for leaf, gradient in zip(leaves.values(), gradients, strict=True):
        size = torch.zeros_like(leaf) if gradient is None else gradient.abs()
        spread = size.square().mean().sqrt()
        importance.append((size / spread + 1).square() if spread > 0 else torch.ones_like(leaf))
    return replace(sample, importance=tuple(importance))


def _logits(walk: Walk, values: Mapping[Node, object]) -> Tensor:
    """The program's first floating-point result."""
    results = [values[node] for node in walk.program.outputs if node in values]
    return next(value.float() for value in results if isinstance(value, Tensor) and value.is_floating_point())


def _settle_weight(walk: Walk, reader: Reader, value: Tensor) -> None:
    value = value.to(walk.program.tensor_type(reader.site.param).dtype)
    for node in dequantizers(reader.site):
        walk.settle(node, value)


def _leave(program: Program, state: _Progress, unit: Unit) -> None:
    """Settles what was learned of a unit that the walk is about to leave; of its weights only the codes are kept."""
    for reader in unit.readers:
        variable = state.weights.pop(reader)
        _settle_weight(state.walk, reader, variable.hard())
        state.done[reader] = (variable.solved(), variable.spec())
    inside = set(state.walk.pending(unit.stop))
    for reader in unit.readers:
        bias = program.bind(reader.node).get("bias")
        if isinstance(bias, Node) and bias in state.biases:
            state.walk.settle(bias, state.biases[bias].hard().to(program.tensor_type(bias).dtype))
    for qparams, size in state.steps.items():
        if inside.intersection(qparams.scales[0].users):
            state.walk.settle(qparams.scales[0], size.hard())


def _install(program: Program, state: _Progress, step: str) -> None:
    """Puts everything learned into the program."""
    for reader, (solved, spec) in state.done.items():
        dtype = program.tensor_type(reader.site.param).dtype
        if spec != reader.site.spec:
            parts = Codes(spec, solved.codes.float(), solved.scale, solved.zero_point)
            put_expression(program, reader.site, parts, step)
            continue
        zero_point = torch.zeros(()) if solved.zero_point is None else solved.zero_point
        set_qparams(program, reader.site.qparams, solved.scale, zero_point)
        put_codes(program, reader.site, solved.codes.to(dtype), step)
    for bias, learned in state.biases.items():
        program.set_param(bias, learned.hard().to(program.tensor_type(bias).dtype))
    for qparams, size in state.steps.items():
        for node in qparams.scales:
            program.set_param(node, size.hard())
