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
from functools import partial
from typing import ClassVar, Literal, get_args

from qcompiler.budget import Budget
from qcompiler.cost import LatencyTable
from qcompiler.errors import SpecError, UnsupportedError
from qcompiler.ir.program import Program, Stage
from qcompiler.measure import limit_samples
from qcompiler.passes.allocate.candidates import Candidates
from qcompiler.passes.allocate.costs import COSTS, Size
from qcompiler.passes.allocate.deployed import tried
from qcompiler.passes.allocate.frontier import Axes, pareto
from qcompiler.passes.allocate.judge import Balance, Judge
from qcompiler.passes.allocate.latency import Latency, settled
from qcompiler.passes.allocate.losses import labels_of, measure_losses
from qcompiler.passes.allocate.measures import Cost, Costs
from qcompiler.passes.allocate.milp import Milp
from qcompiler.passes.allocate.network_segments import UnitKind
from qcompiler.passes.allocate.options import with_options
from qcompiler.passes.allocate.peak_memory import RESOURCE as PEAK
from qcompiler.passes.allocate.peak_memory import peak_memory
from qcompiler.passes.allocate.predictor import Predictor
from qcompiler.passes.allocate.problem import LOSS, Pair, Problem, Table
from qcompiler.passes.allocate.sensitivity import read_terms
from qcompiler.passes.allocate.sensitivity.method import Subject
from qcompiler.passes.allocate.sensitivity.stability import stability
from qcompiler.passes.allocate.sensitivity.synthetic import synthetic_batches
from qcompiler.passes.allocate.solvers import SolverName, make_solver
from qcompiler.passes.allocate.time_ranges import check_ranges, divide, mean_table
from qcompiler.passes.allocate.uniform import kept_nodes
from qcompiler.passes.allocate.units import FLOAT, Offer, offer, pin
from qcompiler.pipeline import Annotates, Context, Promise
from qcompiler.plan import LEFT_IN_FLOAT, Assignment
from qcompiler.simulate import Simulation
from qcompiler.spec import Number, Scheme, parse_scheme
from qcompiler.target import Target

DataName = Literal["calibration", "synthetic"]
GroupBudgets = Literal["shared", "split"]
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
        group_budgets: one budget is `shared` by all groups, or `split` in ratios that are tried on whole plans.
        solver: `milp`, `dynamic_program`, `greedy`, `one_shot` or `genetic`.
        size: most bytes of the parameters; see `Budget` for how limits are written.
        average_bits: most bits per weight.
        bops: most bit operations.
        latency: most seconds of one call, or `0.5x` of what float takes.
        peak_memory: most bytes of activations.
        max_drop: largest error of the results; with it the size is minimised, or what `minimise` says.
        minimise: `loss`, or a resource when `max_drop` is given.
        keep: patterns of what stays in float, as of `assign`.
        pin: scheme, or any other option's name, by pattern, such as `conv1=w8a16|head=float`.
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
        units: what is decided at once: `layer`, `edge` (weights apart from what operators read, where kernels allow it;
            `pin` and `edges` then speak of weights), `segment`, `block` (what is repeated in the network) or
            `attention`.
        inside: further options with several widths inside a weight, `|` between them: `omq`, `waterfill`, `slim`,
            `abmp`; or with single elements kept in half precision: `gwq`.
        outliers: share of the elements of a weight that `gwq` keeps.
        ranges: losses by range of an input, such as `4 over timestep`; all ranges share one plan and its grids.
        balance: the `worst` of the ranges counts, or their `mean`.
        simulate: whole plans are tried as `quantized` programs, or as they would be `deployed`, kernel by kernel.
        frontier: pictures for the report, such as `size` or `size:latency|average_bits`.
    """

    schemes: str = _DEFAULT
    sensitivity: str = "output"
    groups: str = ""
    group_budgets: GroupBudgets = "shared"
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
    outliers: float = 0.01
    ranges: str = ""
    balance: Balance = "worst"
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
        check_ranges(self.ranges)
        for text in (self.sensitivity, *(kind for _, kind in _by_pattern(self.groups))):
            read_terms(text)
        if self.group_budgets == "split" and not (self.groups and self.guard and not self.ranges and not self.max_drop):
            raise SpecError("split budgets need groups and the guard, and go with no ranges and no max_drop")
        if self.data not in get_args(DataName):
            raise SpecError(f"there is no data '{self.data}'", mend=f"choose one of {', '.join(get_args(DataName))}")
        if not 0 < self.outliers < 1:
            raise SpecError(f"a share of {self.outliers} outliers", mend="choose it between 0 and 1; 0.01 is usual")
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
        ranges = divide(program, ctx.batches, self.ranges)
        draws = [partial(ranges.draw, number) for number in range(len(ranges.members))] if ranges else []
        parts = [measured.tables(draw) for draw in draws]
        losses = [mean_table(tables) for tables in zip(*parts, strict=True)] if parts else measured.tables()
        apart = [tables[0] for tables in parts] if self.balance == "worst" else []
        problem = self._problem(program, offered, losses[0], ctx)
        trial = subject.trial if self.max_drop or (self.guard and ctx.batches) else None
        judge = Judge(offered, trial and tried(trial, self.simulate, ctx), self.sensitivity, ranges, self.balance)
        solver = make_solver(self.solver, self.gap, self.seconds)
        candidates = self._candidates(losses[1:], apart, measured.member, ctx)
        allowed = self.budget.resolve("max_drop", 1.0)
        if allowed is not None:
            resource = self.minimise if self.minimise not in ("", LOSS) else "size"
            choice, note = judge.least(problem, solver, resource, allowed)
        elif "latency" in problem.limits:
            latency = Latency(offered, self.predictor(program, ctx.target))
            choice, note = settled(problem, latency, judge, lambda near: candidates.best(near, judge), ctx.log)
        else:
            choice, note = candidates.best(problem, judge)
        if self.stability:
            solve = None if self.max_drop else lambda table: solver.solve(replace(problem, loss=table)).choice
            ctx.log(str(stability(lambda draw: measured.tables(draw)[0], solve, self.stability, ctx.seed)))
        for axes in Axes.parse(self.frontier):
            ctx.drawn(pareto(problem, axes, judge.plans(), choice))
        _annotate(program, offered, choice)
        ctx.log(describe_choice(problem, choice))
        ctx.log(note)
        if ranges is not None and trial is not None:
            ctx.log(judge.by_range(choice))
        return program

    def predictor(self, program: Program, target: Target) -> Predictor:
        """What predicts latencies.

        Raises:
            InputError: when the table cannot be read.
            UnsupportedError: when there is none and the target's peaks are not known.
        """
        table = LatencyTable.load(self.latencies) if self.latencies else self.table
        return Predictor(program, table, target)

    def _candidates(
        self, losses: Sequence[Table], apart: Sequence[Table], member: Sequence[int], ctx: Context
    ) -> Candidates:
        """What is tried against each other."""
        following = Milp(self.gap, self.seconds) if self.candidates > 1 else None
        solver = make_solver(self.solver, self.gap, self.seconds)
        split = member if self.group_budgets == "split" else ()
        return Candidates(solver, following, self.candidates, self.guard, losses, apart, split, ctx.log)

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
        if self.inside and found.split is not None:
            raise SpecError("weights that are decided apart have one width", mend="use units=layer with inside")
        methods = [word.strip() for word in self.inside.split("|") if word.strip()]
        found = with_options(found, methods, ctx, self.outliers)
        units = found.units
        if self.edges:
            order = {node.name: place for place, node in enumerate(program.nodes)}
            ranked = sorted((order[unit.nodes[0]], unit.name) for unit in units if unit.nodes)
            ends = {ranked[0][1], ranked[-1][1]}
            label = edge.name if edge is not None else FLOAT
            units = pin(units, lambda unit: unit.name in ends, label, found.named)
        named = {option.name for unit in units for option in unit.options}
        for pattern, text in _by_pattern(self.pin):
            names = {node.name for node in kept_nodes(program, pattern)}
            label = text if text in named else _label(text)
            units = pin(units, lambda unit, names=names: bool(names & set(unit.nodes)), label, found.named)
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
            if offered.split is not None:
                raise UnsupportedError("no latency is known of a weight without its activation", mend="use units=layer")
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
        found = {name: offered.spread(known[name].measure(program, offered.counted, ctx)) for name in wanted}
        return found | (peak_memory(program, offered.units) if PEAK in self.budget.words else {})


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


def _label(text: str) -> str:
    """The name of the option that a scheme makes."""
    scheme = read_scheme(text)
    return FLOAT if scheme is None else scheme.name


def describe_choice(problem: Problem, choice: Sequence[int]) -> str:
    """How many units get which option."""
    names = [unit.options[option].name for unit, option in zip(problem.units, choice, strict=True)]
    return f"{len(names)} units: " + ", ".join(f"{names.count(name)} as {name}" for name in dict.fromkeys(names))


def _pairs(offered: Offer, found: Mapping[str, Costs]) -> tuple[Pair, ...]:
    """What changes of format between two units cost, by resource."""
    units = offered.units
    forbidden = offered.split.forbidden(units) if offered.split is not None else {}
    places = dict.fromkeys([*forbidden, *(place for cost in found.values() for place in cost.pairs)])
    return tuple(
        Pair(
            left,
            right,
            forbidden.get((left, right)) or [[0.0] * len(units[right].options) for _ in units[left].options],
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
