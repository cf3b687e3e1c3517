"""Mixed precision: the scheme of every unit, solved as one program under the user's budget and judged as a whole.

Formula   units and options from the graph and the target; loss by a sensitivity, costs by resource; the solver's
          choice and the uniform ones within the budget are tried with everything quantized, and the best one is taken
Shapes    any
Promise   Annotates: `meta["assignment"]` or `meta["refusal"]` on operator nodes; the budget holds for what is counted
Needs     the target's kernel rows; calibration data unless the sensitivity needs none
Source    Hubara et al. 2020, "AdaQuant" (knapsack over losses); the guard is own
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from qcompiler.budget import Budget
from qcompiler.cost import LatencyTable
from qcompiler.errors import SpecError, UnsupportedError
from qcompiler.ir.program import Program, Stage
from qcompiler.measure import limit_samples
from qcompiler.passes.allocate.costs import COSTS, Size
from qcompiler.passes.allocate.deployed import tried
from qcompiler.passes.allocate.frontier import Axes, pareto
from qcompiler.passes.allocate.judge import Judge
from qcompiler.passes.allocate.latency import Latency, settled
from qcompiler.passes.allocate.losses import labels_of, measure_losses
from qcompiler.passes.allocate.measures import Cost, Costs
from qcompiler.passes.allocate.milp import Milp
from qcompiler.passes.allocate.network_segments import UnitKind
from qcompiler.passes.allocate.options import with_options
from qcompiler.passes.allocate.peak_memory import RESOURCE as PEAK
from qcompiler.passes.allocate.peak_memory import peak_memory
from qcompiler.passes.allocate.predictor import Predictor
from qcompiler.passes.allocate.problem import LOSS, Pair, Problem, Solution, Table
from qcompiler.passes.allocate.sensitivity import read_terms
from qcompiler.passes.allocate.sensitivity.method import Subject
from qcompiler.passes.allocate.sensitivity.stability import stability
from qcompiler.passes.allocate.sensitivity.synthetic import synthetic_batches
from qcompiler.passes.allocate.solvers import SolverName, make_solver
from qcompiler.passes.allocate.uniform import kept_nodes
from qcompiler.passes.allocate.units import FLOAT, Offer, offer, pin
from qcompiler.pipeline import Annotates, Context, Promise
from qcompiler.plan import Assignment
from qcompiler.simulate import Simulation
from qcompiler.spec import Number, Scheme, parse_scheme
from qcompiler.target import Target

LEFT_IN_FLOAT = "left in float by the allocation"
DataName = Literal["calibration", "synthetic"]
_TOLD = 4
_DEFAULT = "w8a16|w4a16g32|w3a16g32|w2a16g32"


@dataclass(frozen=True)
class MixedPrecision:
    """Chooses a scheme for every unit under a budget.

    Args:
        schemes: what is offered, `|` between them: short names, `float`, or a weight's number and after `/` an
            activation's, such as `int3 sym channel scale=f16` or `int4 sym channel scale=f32 / uint8 asym tensor
            scale=f32`.
        sensitivity: `output`, `kl`, `fisher`, ...; options in brackets, `fisher(draws=4; loss=squares)`; several with
            factors, `output + 0.5*ssim`, are brought to one scale and added.
        groups: sensitivity by pattern, such as `*conv*=output|*attention*=kl`: losses of each group are brought to one
            scale, and what the groups weigh against each other is tried on whole plans.
        solver: `milp`, `dynamic_program`, `greedy`, `one_shot` or `genetic`.
        size: most bytes of the parameters; see `Budget` for how limits are written.
        average_bits: most bits per weight.
        bops: most bit operations.
        latency: most seconds of one call, or `0.5x` of what float takes.
        peak_memory: most bytes of activations.
        max_drop: largest error of the results; with it the size is minimised, or what `minimise` says.
        minimise: `loss`, or a resource when `max_drop` is given.
        keep: patterns of what stays in float, as of `assign`.
        pin: scheme by pattern, such as `conv1=w8a16|head=float`.
        edges: scheme of the first and the last unit.
        samples: most calibration samples that losses are measured on.
        candidates: how many best choices are tried as a whole; more than one needs the solver `milp`.
        gap: relative gap at which the solver may stop.
        seconds: the solver's time limit.
        guard: try the uniform plans and the greedy one too, and take the best.
        cache: folder in which measured losses are kept and found again; empty keeps none.
        data: what losses are measured on: `calibration`, or `synthetic` noise that needs no data.
        stability: how many times losses are taken from other draws of the samples, to see what depends on them.
        latencies: path of a table that `qcompiler bench` wrote; without one latency is modelled by the target's peaks.
        table: such a table itself, instead of a path.
        overhead: bytes of the emitted files besides their parameters.
        units: what is decided at once: `layer`, `segment` or `attention`.
        inside: further options with several widths inside a weight, `|` between them: `omq`, `waterfill`, `slim`,
            `abmp`.
        simulate: whole plans are tried as `quantized` programs, or as they would be `deployed`, kernel by kernel.
        frontier: pictures for the report, such as `size` or `size:latency|average_bits`.
    """

    schemes: str = _DEFAULT
    sensitivity: str = "output"
    groups: str = ""
    solver: SolverName = "milp"
    size: str = ""
    average_bits: str = ""
    bops: str = ""
    latency: str = ""
    peak_memory: str = ""
    max_drop: str = ""
    minimise: str = ""
    keep: str = ""
    pin: str = ""
    edges: str = ""
    samples: int = 64
    candidates: int = 1
    gap: float = 1e-6
    seconds: float = 15.0
    guard: bool = True
    cache: str = ""
    stability: int = 0
    data: DataName = "calibration"
    latencies: str = ""
    table: LatencyTable | None = None
    overhead: float = 0.0
    units: UnitKind = "layer"
    inside: str = ""
    simulate: Simulation = "quantized"
    frontier: str = ""
    name: ClassVar[str] = "mixed_precision"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Annotates()

    def __post_init__(self) -> None:
        self.budget.check_words()
        make_solver(self.solver, self.gap, self.seconds)
        Axes.parse(self.frontier)
        for text in (self.sensitivity, *(kind for _, kind in _by_pattern(self.groups))):
            read_terms(text)
        if self.data not in get_args(DataName):
            raise SpecError(f"there is no data '{self.data}'", mend=f"choose one of {', '.join(get_args(DataName))}")
        if self.samples < 1:
            raise SpecError(f"{self.samples} samples", mend="losses are measured on one at least")
        if self.candidates < 1 or (self.candidates > 1 and self.solver != "milp"):
            raise SpecError(f"{self.candidates} candidates of the solver {self.solver}", mend="use solver=milp")

    @property
    def budget(self) -> Budget:
        """The limits as a value."""
        words = {field.name: getattr(self, field.name) for field in dataclasses.fields(Budget)}
        return Budget(**words)

    def with_budget(self, budget: Budget) -> MixedPrecision:
        """The pass with limits added or replaced."""
        return replace(self, **{name: str(word) for name, word in budget.words.items()})

    def run(self, program: Program, ctx: Context) -> Program:
        """Annotates the nodes.

        Raises:
            InputError: when the budget cannot be met (says which limit binds and the least that is possible), or data
                is missing.
            SpecError: without a limit, for unknown words, or a pattern that matches nothing.
            UnsupportedError: when no operator can be quantized.
        """
        if not self.budget.words:
            raise SpecError(
                "mixed precision needs a budget", mend="for example size=4x, average_bits=4.2 or max_drop=0.01"
            )
        if self.data == "synthetic":
            ctx = replace(ctx, batches=synthetic_batches(program, self.samples, ctx.seed))
        used = list(limit_samples(program, ctx.batches, self.samples))
        ctx, labels = replace(ctx, batches=used), labels_of(ctx.batches, used)
        subject = Subject(program, ctx, labels)
        offered = self.offered(program, ctx)
        measured = measure_losses(subject, offered.units, self.sensitivity, _by_pattern(self.groups), self.cache)
        losses = measured.tables()
        problem = self._problem(program, offered, losses[0], ctx)
        trial = subject.trial if self.max_drop or (self.guard and ctx.batches) else None
        judge = Judge(offered, trial and tried(trial, self.simulate, ctx), self.sensitivity)
        solver = make_solver(self.solver, self.gap, self.seconds)
        allowed = self.budget.resolve("max_drop", 1.0)
        if allowed is not None:
            resource = self.minimise if self.minimise not in ("", LOSS) else "size"
            choice, note = judge.least(problem, solver, resource, allowed)
        elif "latency" in problem.limits:
            latency = Latency(offered, self.predictor(program, ctx.target))
            choice, note = settled(
                problem, latency, judge, lambda near: self._chosen(near, judge, losses[1:], ctx), ctx.log
            )
        else:
            choice, note = self._chosen(problem, judge, losses[1:], ctx)
        if self.stability:
            solve = None if self.max_drop else lambda table: solver.solve(replace(problem, loss=table)).choice
            ctx.log(str(stability(lambda draw: measured.tables(draw)[0], solve, self.stability, ctx.seed)))
        for axes in Axes.parse(self.frontier):
            ctx.drawn(pareto(problem, axes, judge.plans(), choice))
        _annotate(program, offered, choice)
        ctx.log(describe_choice(problem, choice))
        ctx.log(note)
        return program

    def predictor(self, program: Program, target: Target) -> Predictor:
        """What predicts latencies.

        Raises:
            InputError: when the table cannot be read.
            UnsupportedError: when there is none and the target's peaks are not known.
        """
        table = LatencyTable.load(self.latencies) if self.latencies else self.table
        return Predictor(program, table, target)

    def _chosen(
        self, problem: Problem, judge: Judge, losses: Sequence[Table], ctx: Context
    ) -> tuple[tuple[int, ...], str]:
        """The choice within the limits, and a line about it."""
        solution = make_solver(self.solver, self.gap, self.seconds).solve(problem)
        ctx.log(describe_solution(problem, solution))
        if self.guard:
            return judge.best(problem, self._candidates(problem, solution, losses))
        return solution.choice, f"predicted loss {solution.used[LOSS]:.4g}"

    def offered(self, program: Program, ctx: Context) -> Offer:
        """Units and options, the pinned ones too.

        Raises:
            SpecError: for unknown words, or a pattern that matches nothing.
            UnsupportedError: when no operator can be quantized.
        """
        schemes = [read_scheme(text) for text in filter(None, map(str.strip, self.schemes.split("|")))]
        edge = read_scheme(self.edges) if self.edges else None
        if edge is not None and edge.name not in [scheme.name for scheme in schemes if scheme is not None]:
            schemes.append(edge)
        found = offer(program, ctx.target, schemes, kept_nodes(program, self.keep), self.units)
        if not found.units:
            raise UnsupportedError(
                f"{ctx.target.name} can run no operator of this model in any of {self.schemes}",
                where="; ".join(sorted(set(found.refusals.values()))[:5]) or "the model has no operator with weights",
                mend="offer other schemes; `qcompiler targets` lists what each target takes",
            )
        found = with_options(found, [word.strip() for word in self.inside.split("|") if word.strip()], ctx)
        units = found.units
        if self.edges:
            ends = {units[0].name, units[-1].name}
            units = pin(units, lambda unit: unit.name in ends, edge.name if edge is not None else FLOAT)
        for pattern, text in _by_pattern(self.pin):
            names = {node.name for node in kept_nodes(program, pattern)}
            scheme = read_scheme(text)
            label = FLOAT if scheme is None else scheme.name
            units = pin(units, lambda unit, names=names: bool(names & set(unit.nodes)), label)
        return replace(found, units=units)

    def _problem(self, program: Program, offered: Offer, loss: Table, ctx: Context) -> Problem:
        """The numbers, all resources that the budget speaks of among them."""
        found = self._costs(program, offered, ctx)
        most = {name: self.budget.resolve(name.partition(" ")[0], cost.reference) for name, cost in found.items()}
        return Problem(
            offered.units,
            loss,
            {name: cost.table for name, cost in found.items()},
            {name: limit for name, limit in most.items() if limit is not None},
            {name: cost.fixed for name, cost in found.items()},
            _pairs(offered, found),
        )

    def _costs(self, program: Program, offered: Offer, ctx: Context) -> dict[str, Costs]:
        """What is counted: bytes, what the budget limits, what is minimised. Peak memory is one row for each step."""
        known: dict[str, Cost] = {cost.resource: cost() for cost in COSTS} | {"size": Size(self.overhead)}
        if "latency" in (*self.budget.words, self.minimise) or "latency" in self.frontier:
            known["latency"] = Latency(offered, self.predictor(program, ctx.target))
        wanted = dict.fromkeys(["size", *(name for name in self.budget.words if name not in ("max_drop", PEAK))])
        if self.minimise and self.minimise != LOSS:
            wanted[self.minimise] = None
        drawn = [name for axes in Axes.parse(self.frontier) for name in (axes.resource, axes.objective)]
        wanted |= dict.fromkeys(name for name in drawn if name != LOSS)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise UnsupportedError(
                f"nothing tells what {unknown[0]} each option takes", mend=f"limit one of {', '.join([*known, PEAK])}"
            )
        found = {name: known[name].measure(program, offered.units, ctx) for name in wanted}
        return found | (peak_memory(program, offered.units) if PEAK in self.budget.words else {})

    def _candidates(self, problem: Problem, first: Solution, losses: Sequence[Table]) -> list[tuple[int, ...]]:
        """The best choices, best first, the greedy one, and those of other loss tables."""
        choices = [first.choice]
        while len(choices) < self.candidates:
            following = Milp(self.gap, self.seconds).attempt(problem, choices)
            if following is None:
                break
            choices.append(following.choice)
        choices.append(make_solver("greedy").solve(problem).choice)
        solver = make_solver(self.solver, self.gap, self.seconds)
        choices += [solver.solve(replace(problem, loss=loss)).choice for loss in losses]
        return list(dict.fromkeys(choices))


def read_scheme(text: str) -> Scheme | None:
    """A scheme from its short name, or from the numbers of weights and, after `/`, activations; None for `float`.

    Raises:
        SpecError: when it cannot be read.
    """
    if text == FLOAT:
        return None
    if " " not in text:
        return parse_scheme(text)
    weight, _, activation = (part.strip() for part in text.partition("/"))
    number = Number.parse(activation) if activation else None
    return Scheme(Number.parse(weight), number, " ".join(text.split()))


def describe_choice(problem: Problem, choice: Sequence[int]) -> str:
    """How many units get which option."""
    names = [unit.options[option].name for unit, option in zip(problem.units, choice, strict=True)]
    return f"{len(names)} units: " + ", ".join(f"{names.count(name)} as {name}" for name in dict.fromkeys(names))


def describe_solution(problem: Problem, solution: Solution) -> str:
    """How good a solution is proven to be, and what it takes of each limit."""
    tightest = sorted(problem.limits, key=lambda name: solution.slack[name] / max(abs(problem.limits[name]), 1e-300))
    parts = [f"{name} {solution.used[name]:.6g} of {problem.limits[name]:.6g}" for name in tightest[:_TOLD]]
    proof = f"{problem.minimise} {solution.objective:.4g}, at least {solution.bound:.4g}, gap {solution.gap:.2g}"
    return "; ".join([f"{solution.solver}: {proof}, in {solution.seconds:.2f} s", *parts])


def _pairs(offered: Offer, found: Mapping[str, Costs]) -> tuple[Pair, ...]:
    """What changes of format between two units cost, by resource."""
    places = dict.fromkeys(place for cost in found.values() for place in cost.pairs)
    units = offered.units
    return tuple(
        Pair(
            left,
            right,
            [[0.0] * len(units[right].options) for _ in units[left].options],
            {name: cost.pairs[left, right] for name, cost in found.items() if (left, right) in cost.pairs},
        )
        for left, right in places
    )


def _annotate(program: Program, offered: Offer, choice: Sequence[int]) -> None:
    plan: Mapping[str, Assignment] = offered.plan(choice)
    asked = {
        name: unit.options[option].name
        for unit, option in zip(offered.units, choice, strict=True)
        for name in unit.nodes
    }
    for node in program.nodes:
        node.meta.pop("assignment", None)
        node.meta.pop("refusal", None)
        node.meta["asked"] = asked.get(node.name, FLOAT)
        if node.name in plan:
            node.meta["assignment"] = plan[node.name]
        elif node.name in offered.refusals:
            node.meta["refusal"] = offered.refusals[node.name]
        elif node.name in asked:
            node.meta["refusal"] = LEFT_IN_FLOAT


def _by_pattern(text: str) -> list[tuple[str, str]]:
    """Pattern and word of each `pattern=word`, `|` between them."""
    parts = [part.strip().partition("=") for part in text.split("|") if part.strip()]
    if not all(pattern and word for pattern, _, word in parts):
        raise SpecError(f"'{text}' is not a list of pattern=word", mend="for example conv1=w8a16|head=float")
    return [(pattern, word) for pattern, _, word in parts]
