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
from typing import ClassVar

from qcompiler.budget import Budget
from qcompiler.errors import SpecError, UnsupportedError
from qcompiler.ir.program import Program, Stage
from qcompiler.measure import limit_samples
from qcompiler.passes.allocate.costs import COSTS
from qcompiler.passes.allocate.decoupled import decoupled, weightings
from qcompiler.passes.allocate.judge import Judge
from qcompiler.passes.allocate.measures import Costs, Sensitivity
from qcompiler.passes.allocate.milp import Milp
from qcompiler.passes.allocate.peak_memory import RESOURCE as PEAK
from qcompiler.passes.allocate.peak_memory import peak_memory
from qcompiler.passes.allocate.problem import LOSS, Pair, Problem, Solution, Table
from qcompiler.passes.allocate.sensitivities import SENSITIVITIES
from qcompiler.passes.allocate.solvers import SolverName, make_solver
from qcompiler.passes.allocate.trial import Trial
from qcompiler.passes.allocate.uniform import kept_nodes
from qcompiler.passes.allocate.units import FLOAT, Offer, offer, pin
from qcompiler.pipeline import Annotates, Context, Promise
from qcompiler.plan import Assignment
from qcompiler.spec import Number, Scheme, parse_scheme

_TOLD = 4
_DEFAULT = "w8a16|w4a16g32|w3a16g32|w2a16g32"


@dataclass(frozen=True)
class MixedPrecision:
    """Chooses a scheme for every unit under a budget.

    Args:
        schemes: what is offered, `|` between them: short names, `float`, or a weight's number and after `/` an
            activation's, such as `int3 sym channel scale=f16` or `int4 sym channel scale=f32 / uint8 asym tensor
            scale=f32`.
        sensitivity: `output`, `kl`, `local` or `weight`.
        groups: sensitivity by pattern, such as `*conv*=output|*attention*=kl`: losses of each group are brought to one
            scale, and what the groups weigh against each other is tried on whole plans.
        solver: `milp`, `dynamic_program`, `greedy`, `one_shot` or `genetic`.
        size: most bytes of the parameters; see `Budget` for how limits are written.
        average_bits: most bits per weight.
        bops: most bit operations.
        latency: most seconds.
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
    name: ClassVar[str] = "mixed_precision"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Annotates()

    def __post_init__(self) -> None:
        self.budget.check_words()
        make_solver(self.solver, self.gap, self.seconds)
        _sensitivity(self.sensitivity)
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
        ctx = replace(ctx, batches=list(limit_samples(program, ctx.batches, self.samples)))
        offered = self._offer(program, ctx)
        losses = self._losses(program, offered, ctx)
        problem = self._problem(program, offered, losses[0], ctx)
        trial = Trial(program, ctx.batches) if self.max_drop or (self.guard and ctx.batches) else None
        judge = Judge(offered, trial, self.sensitivity)
        solver = make_solver(self.solver, self.gap, self.seconds)
        allowed = self.budget.resolve("max_drop", 1.0)
        if allowed is not None:
            resource = self.minimise if self.minimise not in ("", LOSS) else "size"
            choice, note = judge.least(problem, solver, resource, allowed)
        else:
            solution = solver.solve(problem)
            ctx.log(describe_solution(problem, solution))
            choice, note = solution.choice, f"predicted loss {solution.used[LOSS]:.4g}"
            if self.guard:
                choice, note = judge.best(problem, self._candidates(problem, solution, losses[1:]))
        _annotate(program, offered, choice)
        ctx.log(describe_choice(problem, choice))
        ctx.log(note)
        return program

    def _offer(self, program: Program, ctx: Context) -> Offer:
        schemes = [read_scheme(text) for text in filter(None, map(str.strip, self.schemes.split("|")))]
        edge = read_scheme(self.edges) if self.edges else None
        if edge is not None and edge.name not in [scheme.name for scheme in schemes if scheme is not None]:
            schemes.append(edge)
        found = offer(program, ctx.target, schemes, kept_nodes(program, self.keep))
        if not found.units:
            raise UnsupportedError(
                f"{ctx.target.name} can run no operator of this model in any of {self.schemes}",
                where="; ".join(sorted(set(found.refusals.values()))[:5]) or "the model has no operator with weights",
                mend="offer other schemes; `qcompiler targets` lists what each target takes",
            )
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

    def _losses(self, program: Program, offered: Offer, ctx: Context) -> list[Table]:
        """The loss table; with groups one for each of the weightings that are tried."""
        kinds = [self.sensitivity]
        member = [0] * len(offered.units)
        for pattern, kind in _by_pattern(self.groups):
            names = {node.name for node in kept_nodes(program, pattern)}
            for number, unit in enumerate(offered.units):
                member[number] = len(kinds) if names & set(unit.nodes) else member[number]
            kinds.append(kind)
        tables = {kind: _sensitivity(kind).measure(program, offered.units, ctx) for kind in dict.fromkeys(kinds)}
        if not self.groups:
            return [tables[self.sensitivity]]
        of_group = [tables[kind] for kind in kinds]
        return [decoupled(of_group, member, weights) for weights in weightings(len(kinds))]

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
        known = {cost.resource: cost for cost in COSTS}
        wanted = dict.fromkeys(["size", *(name for name in self.budget.words if name not in ("max_drop", PEAK))])
        if self.minimise and self.minimise != LOSS:
            wanted[self.minimise] = None
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise UnsupportedError(
                f"nothing tells what {unknown[0]} each option takes", mend=f"limit one of {', '.join([*known, PEAK])}"
            )
        found = {name: known[name]().measure(program, offered.units, ctx) for name in wanted}
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
            node.meta["refusal"] = "left in float by the allocation"


def _by_pattern(text: str) -> list[tuple[str, str]]:
    """Pattern and word of each `pattern=word`, `|` between them."""
    parts = [part.strip().rpartition("=") for part in text.split("|") if part.strip()]
    if not all(pattern and word for pattern, _, word in parts):
        raise SpecError(f"'{text}' is not a list of pattern=word", mend="for example conv1=w8a16|head=float")
    return [(pattern, word) for pattern, _, word in parts]


def _sensitivity(name: str) -> Sensitivity:
    known = {kind.name: kind for kind in SENSITIVITIES}
    if name not in known:
        raise SpecError(f"there is no sensitivity '{name}'", mend=f"sensitivities: {', '.join(known)}")
    return known[name]()
