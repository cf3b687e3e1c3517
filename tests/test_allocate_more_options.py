"""Kept elements, activations apart from weights, repeated blocks, ranges of an input, split budgets, ties."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qcompiler.compiler import build
from qcompiler.errors import InputError, SpecError, UnsupportedError
from qcompiler.ir.program import Program
from qcompiler.job import Job, prepare, run_job
from qcompiler.passes.allocate.costs import AverageBits, BitOperations, bit_operations
from qcompiler.passes.allocate.decoupled import split_budgets
from qcompiler.passes.allocate.milp import Milp
from qcompiler.passes.allocate.options import with_options
from qcompiler.passes.allocate.outliers import importance, keep_outliers
from qcompiler.passes.allocate.problem import LOSS, Option, Problem, Unit
from qcompiler.passes.allocate.time_ranges import divide, least_worst, mean_table
from qcompiler.passes.allocate.trial import through_grid
from qcompiler.passes.allocate.units import offer
from qcompiler.passes.recipes import Recipe
from qcompiler.spec import QuantSpec, bits_per_element, nearest, parse_scheme
from qcompiler.spec.outliers import Outliers, outlier_places, with_outliers, without_outliers
from qcompiler.spec.parts import Parts
from tests.allocate_models import DATA, Branches, Tied, canonical, job_of, joining_target, noise, offered

ROWS = QuantSpec.parse("int3 sym block=(1,-1) scale=f32")
TOKENS = "w8a8_token|w4a8_token|w4a4_token"


# -- single elements ---------------------------------------------------------------------------------------------------


@given(places=st.lists(st.integers(0, 100_000), min_size=1, max_size=40, unique=True).map(sorted))
@settings(deadline=None, max_examples=50)
def test_places_are_written_and_read_back(places: list[int]) -> None:
    spec = replace(ROWS, parts=Parts(outliers=Outliers.at(places)))
    assert QuantSpec.parse(str(spec)) == spec
    assert outlier_places(spec, (1000, 101)) == places
    widest = max(after - before for before, after in itertools.pairwise((-1, *places)))
    width = 8 if widest < 256 else 16 if widest < 65536 else 32
    extra = len(places) * (16 + width)
    assert bits_per_element(spec, (1000, 101)) * 101_000 == pytest.approx(
        bits_per_element(ROWS, (1000, 101)) * 101_000 + extra
    )


@pytest.mark.parametrize("text", ["", "AA", "_w", "?!", "gA"])
def test_places_that_cannot_be_read(text: str) -> None:
    with pytest.raises(SpecError, match="outliers="):
        Outliers(text)


def test_places_outside_and_other_parts_are_refused() -> None:
    spec = replace(ROWS, parts=Parts(outliers=Outliers.at([5, 900])))
    with pytest.raises(SpecError, match="element at 900 is to be kept, of a tensor with 800"):
        outlier_places(spec, (20, 40))
    with pytest.raises(SpecError, match="beside plain codes only"):
        replace(ROWS, parts=Parts(outliers=Outliers.at([5]), planes=2))


def test_kept_elements_are_in_half_precision_and_in_no_range() -> None:
    weight = noise(4, 32)
    weight[1, 7], weight[2, 30] = 50.03, -81.7
    spec = replace(ROWS, parts=Parts(outliers=Outliers.at([39, 94])))
    found = through_grid(weight, spec)
    assert found[1, 7] == weight[1, 7].half()
    assert found[2, 30] == weight[2, 30].half()
    rest = without_outliers(weight, spec)
    assert rest[1, 7] == rest[2, 30] == 0
    back = with_outliers(rest, weight, spec)
    assert (back[1, 7], back[2, 30]) == (found[1, 7], found[2, 30])
    assert float((back - weight).abs().max()) < 0.1
    kept = torch.ones_like(weight, dtype=torch.bool)
    kept[1, 7] = kept[2, 30] = False
    error, whole = ((value - weight)[kept].square().sum() for value in (found, nearest(weight, ROWS)))
    assert float(error) < 0.5 * float(whole)


def test_what_matters_is_kept() -> None:
    weight = torch.ones(4, 10)
    weight[2, 3] = 3
    moment, outputs = torch.ones(10), torch.ones(4)
    moment[8], outputs[0] = 5.0, 1.9
    scores = importance(weight, moment, outputs)
    assert float(scores[0, 8]) == pytest.approx(5 * 1.9)
    assert float(importance(weight, torch.diag(moment), outputs)[2, 3]) == 9
    spec = keep_outliers(ROWS, scores, 0.05)
    assert spec is not None
    assert outlier_places(spec, (4, 10)) == [8, 23]
    three = keep_outliers(ROWS, scores, 0.051)
    assert three is not None
    assert len(outlier_places(three, (4, 10))) == math.ceil(0.051 * 40)
    assert keep_outliers(spec, scores, 0.05) is None
    assert keep_outliers(ROWS, scores, 0.99) is None


def test_options_with_kept_elements_count_their_bits() -> None:
    program, context = canonical(Branches)
    plain = offer(program, context.target, [parse_scheme("w3a16")], ())
    found = with_options(plain, ["gwq"], context, 0.02)
    assert [option.name for option in found.units[0].options] == ["w3a16", "w3a16+gwq"]
    bits = AverageBits().measure(program, found.units, context).table
    (assigned,) = found.units[0].options[1].assignments.values()
    parts = assigned.inputs["weight"].parts
    assert parts is not None
    assert parts.outliers is not None
    count = 4 * 32 * 32 + 8 * 32
    assert len(parts.outliers.places) == math.ceil(0.02 * 1024)
    assert (bits[0][1] - bits[0][0]) * count == pytest.approx(parts.outliers.bits)
    assert assigned.inputs["weight"].numbers == "uint3+f16"


@pytest.mark.parametrize("target", ["simulation", "onnxruntime"])
def test_plans_with_kept_elements_run_and_replay(target: str) -> None:
    module = Branches()
    with torch.no_grad():
        for layer in (module.q, module.v, module.out, module.head):
            layer.weight[3, 5] = 6
    program = prepare(module.eval(), "simulation", calibration=DATA, recipe=Recipe("none", ())).program
    options = "schemes=w3a16, average_bits=6, guard=false, inside=gwq, pin=*=w3a16"
    errors: list[float] = []
    with torch.no_grad():
        wanted = module(DATA[0])
    for more in ("", "+gwq"):
        made = build(job_of(options + more, program, target))
        found = torch.as_tensor(made(DATA[0]))
        errors.append(float((found - wanted).square().sum() / wanted.square().sum()))
    assert errors[1] < 0.3 * errors[0]
    again = build(prepare(program, target, recipe=job_of(options).recipe, plan=made.plan))
    assert again.plan.assignments == made.plan.assignments
    assert torch.equal(torch.as_tensor(again(DATA[0])), found)
    assert not made.report.fallbacks


# -- weights and activations apart -------------------------------------------------------------------------------------


def test_weights_and_what_reads_one_value_are_units() -> None:
    program, context = canonical(Branches)
    found = offer(program, context.target, [parse_scheme(name) for name in TOKENS.split("|")], (), "edge")
    assert found.split is not None
    weights = [unit for unit in found.units if unit.nodes]
    edges = [unit for unit in found.units if not unit.nodes]
    assert [len(unit.options) for unit in weights] == [2] * 5
    assert [sorted(unit.options[0].assignments) for unit in edges] == [
        ["linear", "linear_1", "linear_2"],
        ["linear_3"],
        ["linear_4"],
    ]
    assert found.uniform("w4a4_token") == (1,) * 8
    assert found.plan(found.uniform("w4a4_token")) == offered(Branches, TOKENS).plan((2, 2, 2))


def test_pairs_cost_what_the_whole_operators_do() -> None:
    program, context = canonical(Branches)
    found = offer(program, context.target, [parse_scheme(name) for name in TOKENS.split("|")], (), "edge")
    costs = found.spread(BitOperations().measure(program, found.counted, context))
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        choice = [int(torch.randint(len(unit.options), (), generator=draw)) for unit in found.units]
        plan = found.plan(choice)
        used = costs.fixed + sum(row[option] for row, option in zip(costs.table, choice, strict=True))
        used += sum(table[choice[left]][choice[right]] for (left, right), table in costs.pairs.items())
        assert used == pytest.approx(sum(bit_operations(program, node, plan.get(node.name)) for node in program.nodes))


def test_bits_apart_are_better_than_bits_together() -> None:
    lines: dict[str, list[str]] = {}
    plans = {}
    for kind in ("layer", "edge"):
        lines[kind] = []
        job = replace(job_of(f"schemes={TOKENS}, bops=0.04x, units={kind}"), log=lines[kind].append)
        nodes = run_job(job)[1].nodes
        plans[kind] = {node.name: node.meta["assignment"] for node in nodes if "assignment" in node.meta}
    pairs = {(item.inputs["weight"].bits, item.inputs["input"].bits) for item in plans["edge"].values()}
    assert (8, 4) in pairs, "which no scheme offers"
    told = {kind: next(line for line in lines[kind] if line.startswith("error of the results")) for kind in lines}
    assert float(told["edge"].split()[4].rstrip(";")) < float(told["layer"].split()[4].rstrip(";"))


def test_combinations_without_a_kernel_are_forbidden() -> None:
    job = job_of("schemes=w8a8_dynamic|w4a16g16|float, average_bits=7, units=edge", target="onnxruntime")
    program = run_job(replace(job, passes=job.passes[:0]))[1]
    schemes = [parse_scheme("w8a8_dynamic"), parse_scheme("w4a16g16"), None]
    found = offer(program, job.target, schemes, (), "edge")
    assert found.split is not None
    names = [
        [option.name for option in found.units[at].options] for at in next(iter(found.split.forbidden(found.units)))
    ]
    table = next(iter(found.split.forbidden(found.units).values()))
    pairs = [(names[0][k], names[1][m], loss) for k, row in enumerate(table) for m, loss in enumerate(row)]
    allowed = {(weight, edge) for weight, edge, loss in pairs if loss == 0}
    four, dynamic = "uint4 asym group=16 scale=f32", names[1][0]
    assert ("int8 sym channel scale=f32", dynamic) in allowed
    assert (four, "float") in allowed
    assert ("float", "float") in allowed
    assert (four, dynamic) not in allowed


def test_weights_that_several_read_stay_whole() -> None:
    program, context = canonical(Tied)
    found = offer(program, context.target, [parse_scheme("w8a16"), parse_scheme("w4a16")], (), "edge")
    assert found.split is not None
    assert [unit.nodes for unit in found.split.whole[: found.split.left]] == [("embedding", "linear_1")]
    assert len(found.split.parts) == 1


@pytest.mark.parametrize("solver", ["greedy", "genetic", "dynamic_program"])
def test_every_solver_can_decide_apart(solver: str) -> None:
    nodes = run_job(job_of(f"schemes={TOKENS}, bops=0.05x, units=edge, solver={solver}"))[1].nodes
    assert sum("assignment" in node.meta for node in nodes) == 5


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ("average_bits=6, units=edge, inside=slim", SpecError, "decided apart have one width"),
        ("latency=0.5x, units=edge", UnsupportedError, "no latency is known of a weight without its activation"),
        ("average_bits=6, ranges=some", SpecError, "cannot read the ranges 'some'"),
        ("average_bits=6, ranges=2 over t", SpecError, "no input 't'"),
        ("average_bits=6, ranges=99 over x", InputError, "32 samples for 99 ranges"),
        ("average_bits=6, group_budgets=split", SpecError, "split budgets need groups"),
        ("average_bits=6, outliers=1", SpecError, "a share of 1"),
    ],
)
def test_what_does_not_go_together(options: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        run_job(job_of(options))


# -- blocks ------------------------------------------------------------------------------------------------------------


class Repeats(nn.Module):
    """An entry, three repeats of two residual branches of different sizes, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        self.left = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(16, 24) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(24, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for left, up, down in zip(self.left, self.up, self.down, strict=True):
            x = x + torch.relu(left(x))
            x = x + down(torch.relu(up(x)))
        return self.head(x)


def test_blocks_are_what_is_repeated() -> None:
    job = prepare(Repeats().eval(), "simulation", calibration=[noise(4, 8)], recipe=Recipe("none", ()))
    program = run_job(job)[1]
    found = offer(program, job.target, [parse_scheme("w8a16"), parse_scheme("w4a16")], (), "block")
    modules = {node.name: program.origin(node).module for node in program.nodes}
    assert [[modules[name] for name in unit.nodes] for unit in found.units] == [
        ["enter"],
        *([f"left.{at}", f"up.{at}", f"down.{at}"] for at in range(3)),
        ["head"],
    ]


# -- ranges of an input ------------------------------------------------------------------------------------------------


class Timed(nn.Module):
    """Two layers of which one is heard early and the other late."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.early, self.late = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        share = t[:, None] / 100
        return (1 - share) * self.early(x) + share * self.late(x)


@cache
def timed_program() -> Program:
    """The traced program of a timed model."""
    sample = (noise(12, 16), torch.arange(12.0))
    return prepare(Timed().eval(), "simulation", calibration=[sample], recipe=Recipe("none", ())).program


def timed(options: str) -> tuple[Job, list[str]]:
    """Most samples are early ones."""
    times = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 98, 99])
    lines: list[str] = []
    recipe = Recipe.of("test", [f"mixed_precision{{{options}}}"])
    job = prepare(timed_program(), "simulation", calibration=[(noise(12, 16), times)], recipe=recipe)
    return replace(job, log=lines.append), lines


def test_samples_are_divided_by_an_input() -> None:
    job, _ = timed("average_bits=6")
    found = divide(job.program, job.batches, "6 over t")
    assert found is not None
    assert found.bounds[0] == (0, 1)
    assert found.bounds[5] == (98, 99)
    harms = torch.arange(12).double()
    assert found.by_range(harms) == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]
    assert found.draw(2, 1).tolist() == [0]
    assert divide(job.program, job.batches, "") is None
    with pytest.raises(InputError, match="7 losses of 12 samples"):
        found.draw(0, 7)


def test_the_worst_range_decides() -> None:
    schemes = "schemes=w4a16|w3a16|w2a16, average_bits=5.3"
    harms: dict[str, list[float]] = {}
    for balance in ("mean", "worst"):
        job, lines = timed(f"{schemes}, ranges=6 over t, balance={balance}")
        run_job(job)
        line = next(line for line in lines if "by range of t" in line)
        harms[balance] = [float(word.split()[1]) for word in line.partition("of t: ")[2].split(", ")]
    assert max(harms["worst"]) < max(harms["mean"])
    assert sum(harms["worst"]) >= sum(harms["mean"])


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=4)
def test_the_least_worst_range_is_that_of_brute_force(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    tables = [
        torch.rand(4, 3, generator=draw, dtype=torch.float64).sort(1, descending=True).values.tolist() for _ in range(3)
    ]
    units = tuple(Unit(f"u{at}", tuple(Option(str(k)) for k in range(3))) for at in range(4))
    problem = Problem(units, mean_table(tables), {"size": [[1.0, 2.0, 4.0]] * 4}, {"size": 9.0})
    found = Milp(gap=0.0).solve(least_worst(problem, tables, Milp(gap=0.0))).choice

    def worst(choice: tuple[int, ...]) -> float:
        return max(sum(table[unit][option] for unit, option in enumerate(choice)) for table in tables)

    every = [choice for choice in itertools.product(range(3), repeat=4) if problem.feasible(choice)]
    assert problem.feasible(found)
    assert worst(found) <= min(map(worst, every)) * 1.002


# -- split budgets -----------------------------------------------------------------------------------------------------


def two_groups(scale: float = 1.0) -> tuple[Problem, list[int]]:
    draw = torch.Generator().manual_seed(3)
    groups = [0, 0, 0, 1, 1]
    loss = torch.rand(5, 3, generator=draw, dtype=torch.float64).sort(1, descending=True).values
    loss[3:] *= scale
    counts = [100.0, 300.0, 200.0, 400.0, 100.0]
    bits = [[count * width / 1100 for width in (2, 4, 8)] for count in counts]
    units = tuple(Unit(f"u{at}", tuple(Option(str(k)) for k in range(3))) for at in range(5))
    return Problem(units, loss.tolist(), {"average_bits": bits}, {"average_bits": 4.5}), groups


def test_split_budgets_have_the_mean_bits_of_the_whole() -> None:
    problem, groups = two_groups()
    splits = split_budgets(problem, groups)
    assert len(splits) == 10
    for step, split in enumerate(splits):
        caps = [split.limits[f"average_bits of group {group}"] for group in (0, 1)]
        assert sum(caps) == pytest.approx(4.5)
        ratio = (caps[1] / 500) / (caps[0] / 600)
        assert ratio == pytest.approx(0.46 + 0.1 * step)
        own = split.costs["average_bits of group 1"]
        assert own[:3] == [[0.0] * 3] * 3
        assert own[3:] == problem.costs["average_bits"][3:]
    assert split_budgets(problem, [0] * 5) == []


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_a_metric_does_not_matter_to_split_budgets(scale: float) -> None:
    one, groups = two_groups()
    other, _ = two_groups(scale)
    solver = Milp(gap=0.0)
    pairs = zip(split_budgets(one, groups)[2:], split_budgets(other, groups)[2:], strict=True)
    assert all(solver.solve(first).choice == solver.solve(second).choice for first, second in pairs)
    if scale > 1:
        assert solver.solve(one).choice != solver.solve(other).choice, "one budget hears the larger metric"


def test_groups_can_have_budgets_of_their_own() -> None:
    lines: list[str] = []
    options = "schemes=w8a16|w4a16|w2a16, average_bits=6.4, groups=*head*|out=local, group_budgets=split"
    job = job_of(options.replace("*head*|out", "out"))
    program = run_job(replace(job, log=lines.append))[1]
    assert any("of 10 splits of the budget can be kept" in line for line in lines)
    assert sum("assignment" in node.meta for node in program.nodes) == 5


# -- ties --------------------------------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Two residual additions, one behind the other, and an activation behind each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first, self.second = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.first(x))
        x = torch.relu(x + self.second(x))
        return self.head(x)


@cache
def chained() -> Program:
    """The traced program of a chain."""
    return prepare(Chain().eval(), "simulation", calibration=[noise(2, 4, 4, 4)], recipe=Recipe("none", ())).program


def canonical_chain() -> Program:
    job = prepare(chained(), "simulation", calibration=[noise(2, 4, 4, 4)], recipe=Recipe("none", ()))
    return run_job(job)[1]


def test_all_that_meets_along_residual_additions_is_one_unit() -> None:
    program = canonical_chain()
    found = offer(program, joining_target(), [parse_scheme("w8a8"), parse_scheme("w4a4"), None], ())
    modules = {node.name: program.origin(node).module for node in program.nodes}
    assert [[modules[name] for name in unit.nodes] for unit in found.units] == [["stem", "first", "second", "head"]]


def test_weights_alone_do_not_tie_residual_additions() -> None:
    found = offer(canonical_chain(), joining_target(), [parse_scheme("w8a8"), parse_scheme("w4a8")], ())
    assert [len(unit.nodes) for unit in found.units] == [1, 1, 1, 1]


def test_an_activation_that_a_kernel_absorbs_carries_the_numbers() -> None:
    program = canonical_chain()
    found = offer(program, joining_target(), [parse_scheme("w8a8")], ())
    plan = found.plan((0,) * len(found.units))
    stem = next(node for node in program.nodes if program.origin(node).module == "stem" and node.name in plan)
    (relu,) = stem.users
    assert plan[stem.name].result_at == relu.name
    added = [item for name, item in plan.items() if program.op(program.node(name)) == "aten.add.Tensor"]
    assert len(added) == 2
    assert all(program.op(program.node(item.result_at)) == "aten.relu" for item in added)


def test_a_pin_holds_for_all_that_is_tied() -> None:
    recipe = Recipe.of("test", ["mixed_precision{schemes=w8a8|w4a4|float, average_bits=20, pin=second=w4a4}"])
    job = prepare(chained(), "simulation", calibration=[noise(2, 4, 4, 4)], recipe=recipe)
    nodes = run_job(replace(job, target=joining_target()))[1].nodes
    plan = [node.meta["assignment"].inputs for node in nodes if "assignment" in node.meta]
    assert [inputs["weight"].bits for inputs in plan if "weight" in inputs] == [4, 4, 4, 4]


def test_the_loss_of_ranges_is_no_resource_of_the_plan() -> None:
    problem, _ = two_groups()
    limited = least_worst(problem, [problem.loss], Milp(gap=0.0))
    assert limited.limits["loss of range 1"] == pytest.approx(Milp(gap=0.0).solve(problem).used[LOSS])
