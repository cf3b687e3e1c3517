"""The allocation problem and its solvers: exactness against brute force, certificates, limits, ties, pairs."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import InputError, SpecError, UnsupportedError
from qcompiler.passes.allocate.core import make_core
from qcompiler.passes.allocate.dynamic_program import DynamicProgram
from qcompiler.passes.allocate.frontier import exact_frontier, frontier, hypervolume, knee
from qcompiler.passes.allocate.genetic import Genetic
from qcompiler.passes.allocate.greedy import greedy, one_shot
from qcompiler.passes.allocate.lagrangian import lagrangian_bound
from qcompiler.passes.allocate.milp import Milp
from qcompiler.passes.allocate.problem import LOSS, Option, Pair, Problem, Table, Unit
from qcompiler.passes.allocate.solvers import SolverName, make_solver

EXACT = Milp(gap=0.0)


def units(sizes: list[int], pinned: dict[int, int] | None = None) -> tuple[Unit, ...]:
    pins = pinned or {}
    return tuple(
        Unit(f"unit{number}", tuple(Option(str(k)) for k in range(size)), pinned=pins.get(number))
        for number, size in enumerate(sizes)
    )


def random_problem(seed: int, resources: int, pairs: float = 0.3, most_units: int = 6) -> Problem:
    """Up to 6 units of up to 4 options, with ties, pins, pair terms and forbidden pairs; limits in between."""
    draw = random.Random(seed)
    count = draw.randint(2, most_units)
    sizes = [draw.randint(1, 4) for _ in range(count)]
    first, second = draw.sample(range(count), 2)
    ties: tuple[tuple[int, ...], ...] = ()
    if draw.random() < 0.5:
        sizes[second] = sizes[first]
        ties = ((first, second),)
    names = ["size", "latency", "bops"][:resources]
    costs = {name: [[float(draw.randint(1, 100)) for _ in range(size)] for size in sizes] for name in names}
    loss = [[draw.random() for _ in range(size)] for size in sizes]
    found: list[Pair] = []
    for left, right in itertools.combinations(range(count), 2):
        if draw.random() < pairs:
            shape = (sizes[left], sizes[right])
            own = table(lambda: draw.uniform(-0.3, 0.3) if draw.random() < 0.9 else math.inf, shape)
            extra = {name: table(lambda: float(draw.randint(0, 10)), shape) for name in names if draw.random() < 0.5}
            found.append(Pair(left, right, own, extra))
    limits = {name: sum(draw.uniform(min(row), max(row)) for row in rows) + 7 for name, rows in costs.items()}
    pins = {0: 0} if draw.random() < 0.1 and not ties else {}
    return Problem(units(sizes, pins), loss, costs, limits, {"size": 5.0}, tuple(found), ties)


def table(number: object, shape: tuple[int, int]) -> list[list[float]]:
    return [[number() for _ in range(shape[1])] for _ in range(shape[0])]  # pyright: ignore[reportCallIssue]


def brute_force(problem: Problem) -> float | None:
    """The least objective over all choices, None when none keeps the limits."""
    choices = itertools.product(*(range(len(unit.options)) for unit in problem.units))
    return min((problem.used(one, problem.minimise) for one in choices if problem.feasible(one)), default=None)


def layered(count: int, options: int, seed: int = 0, pairs: int = 0) -> Problem:
    """Units like real layers: sizes over decades, loss that falls by 4 with each bit, two resources."""
    draw = np.random.default_rng(seed)
    bits = np.arange(2, 2 + options)
    size, hurt = draw.lognormal(10, 1, count), draw.lognormal(0, 2, count)
    loss = hurt[:, None] * 4.0**-bits * draw.uniform(0.7, 1.3, (count, options))
    size = np.ceil(size[:, None] * bits / 8)
    latency = np.ceil(size * draw.lognormal(0, 0.3, count)[:, None] * draw.uniform(0.8, 1.2, (count, options)))
    limits = {
        name: float(cost.min(1).sum() + 0.4 * (cost.max(1) - cost.min(1)).sum())
        for name, cost in (("size", size), ("latency", latency))
    }
    terms = [
        Pair(number, number + 1, (0.1 * loss.std() * draw.normal(size=(options, options))).tolist())
        for number in range(pairs)
    ]
    tables: dict[str, Table] = {"size": size.tolist(), "latency": latency.tolist()}
    return Problem(units([options] * count), loss.tolist(), tables, limits, {}, tuple(terms))


# -- exactness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(10))
def test_milp_and_brute_force_agree(block: int) -> None:
    for seed in range(block * 14, block * 14 + 14):
        problem = random_problem(seed, resources=1 + seed % 3)
        best, found = brute_force(problem), EXACT.attempt(problem)
        assert (found is None) == (best is None), seed
        if found is not None and best is not None:
            assert problem.feasible(found.choice), seed
            assert found.objective == pytest.approx(best, abs=1e-9), seed
            assert found.gap <= 1e-6, seed


@pytest.mark.parametrize("block", range(6))
def test_dynamic_program_and_brute_force_agree(block: int) -> None:
    for seed in range(1000 + block * 12, 1012 + block * 12):
        problem = random_problem(seed, resources=1)
        best, found = brute_force(problem), DynamicProgram().attempt(problem)
        assert (found is None) == (best is None), seed
        if found is not None:
            assert problem.feasible(found.choice), seed
            assert found.objective == pytest.approx(best, abs=1e-12), seed


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_no_bound_is_above_the_optimum(seed: int, resources: int) -> None:
    problem = random_problem(seed, resources)
    best = brute_force(problem)
    core = make_core(problem)
    if best is not None:
        assert lagrangian_bound(core).value * core.unit <= best + 1e-9


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_heuristics_keep_limits_and_never_beat_the_optimum(seed: int, resources: int) -> None:
    problem = random_problem(seed, resources)
    best, core = brute_force(problem), make_core(problem)
    for rule in (greedy, one_shot, Genetic(population=8, generations=3).search):
        picks = rule(core)
        if picks is not None:
            choice = core.expand(picks)
            assert best is not None
            assert problem.feasible(choice)
            assert problem.used(choice, LOSS) >= best - 1e-12


def test_a_resource_can_be_minimised_under_a_limited_loss() -> None:
    for seed in range(30):
        problem = random_problem(seed, resources=2)
        reached = EXACT.attempt(problem)
        if reached is None:
            continue
        swapped = replace(problem, minimise="size", limits={LOSS: reached.objective + 0.05, "latency": 1e9})
        found = EXACT.solve(swapped)
        assert found.objective == pytest.approx(brute_force(swapped), abs=1e-9)
        assert found.used[LOSS] <= reached.objective + 0.05 + 1e-9


def test_two_thousand_units_with_two_budgets() -> None:
    found = Milp(gap=1e-4).solve(layered(2000, 8))
    assert found.gap <= 1e-4
    assert all(slack >= -1e-6 for slack in found.slack.values())
    assert found.seconds < 15


def test_a_long_chain_of_pairs_is_solved_alike() -> None:
    problem = layered(25, 4, pairs=24)
    problem = replace(problem, limits={"size": problem.limits["size"]})
    found = EXACT.solve(problem)
    assert found.gap <= 1e-9
    assert DynamicProgram().solve(problem).objective == pytest.approx(found.objective, rel=1e-9)


def test_interaction_terms_change_the_choice() -> None:
    """Errors of A and B add up, those of A and C do not: the additive model lowers A and B, the whole one A and C."""
    loss = [[0.0, 1.0], [0.0, 1.0], [0.0, 1.2]]
    together = Pair(0, 1, [[0.0, 0.0], [0.0, 2.0]])
    problem = Problem(units([2, 2, 2]), loss, {"size": [[8.0, 4.0]] * 3}, {"size": 16.0})
    assert EXACT.solve(problem).choice == (1, 1, 0)
    assert EXACT.solve(replace(problem, pairs=(together,))).choice in ((1, 0, 1), (0, 1, 1))
    cancelling = Pair(0, 1, [[0.0, 0.0], [0.0, -2.0]])
    dear = replace(problem, loss=[[0.0, 1.0], [0.0, 1.0], [0.0, 0.3]], pairs=(cancelling,))
    assert EXACT.solve(dear).choice[:2] == (1, 1)


# -- invariances -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_order_of_units_does_not_matter(seed: int, shuffle: random.Random) -> None:
    problem = replace(layered(12, 4, seed), pairs=())
    order = list(range(12))
    shuffle.shuffle(order)
    moved = replace(
        problem,
        units=tuple(problem.units[at] for at in order),
        loss=[problem.loss[at] for at in order],
        costs={name: [rows[at] for at in order] for name, rows in problem.costs.items()},
    )
    found = EXACT.solve(moved).choice
    assert tuple(found[order.index(at)] for at in range(12)) == EXACT.solve(problem).choice


@pytest.mark.parametrize("factor", [1e-9, 1e6])
def test_units_of_measurement_do_not_matter(factor: float) -> None:
    problem = layered(30, 5)
    scaled = replace(
        problem,
        loss=[[value * factor for value in row] for row in problem.loss],
        costs={**problem.costs, "size": [[value * 1e3 for value in row] for row in problem.costs["size"]]},
        limits={**problem.limits, "size": problem.limits["size"] * 1e3},
    )
    assert EXACT.solve(scaled).choice == EXACT.solve(problem).choice


def test_more_budget_is_never_worse() -> None:
    problem = layered(40, 5)
    values = [
        EXACT.solve(replace(problem, limits={"size": problem.limits["size"] * part})).objective
        for part in (0.8, 0.9, 1.0, 1.2)
    ]
    assert values == sorted(values, reverse=True)


def test_pins_and_ties_hold() -> None:
    problem = layered(10, 4)
    pinned = replace(problem, units=units([4] * 10, {3: 0}), ties=((0, 1), (1, 7)))
    choice = EXACT.solve(pinned).choice
    assert choice[3] == 0
    assert choice[0] == choice[1] == choice[7]


def test_forbidden_choices_give_the_next_best() -> None:
    problem = replace(layered(4, 3), limits={"size": 1e9})
    every = itertools.product(*(range(len(unit.options)) for unit in problem.units))
    ranked = sorted(problem.used(choice, LOSS) for choice in every if problem.feasible(choice))
    found: list[tuple[int, ...]] = []
    for value in ranked[:4]:
        following = EXACT.attempt(problem, found)
        assert following is not None
        assert following.objective == pytest.approx(value, abs=1e-9)
        found.append(following.choice)
    assert len(set(found)) == 4


# -- infeasible and malformed problems ---------------------------------------------------------------------------------


def test_an_impossible_budget_names_the_limit_and_the_least() -> None:
    problem = replace(layered(5, 3), limits={"size": 10.0, "latency": 1e9})
    least = sum(min(row) for row in problem.costs["size"])
    with pytest.raises(InputError, match=f"size can be {least:.7g} at least, and 10 is allowed"):
        make_solver("milp").solve(problem)


def test_limits_that_contradict_each_other_are_told_together() -> None:
    costs: dict[str, Table] = {"size": [[1.0, 9.0]], "latency": [[9.0, 1.0]]}
    problem = Problem(units([2]), [[0.0, 0.0]], costs, {"size": 2.0, "latency": 2.0})
    with pytest.raises(InputError, match=r"together.*size is then 9 at least.*latency is then 9 at least"):
        make_solver("milp").solve(problem)


def test_contradicting_pins_are_told() -> None:
    problem = Problem(units([2, 2], {0: 0, 1: 1}), [[0.0, 0.0]] * 2, ties=((0, 1),))
    with pytest.raises(InputError, match="contradict"):
        make_solver("milp").solve(problem)


@pytest.mark.parametrize("name", ["milp", "dynamic_program", "greedy", "one_shot", "genetic"])
def test_every_solver_solves_and_refuses(name: SolverName) -> None:
    problem = replace(layered(8, 4), limits={"size": layered(8, 4).limits["size"]})
    found = make_solver(name).solve(problem)
    assert problem.feasible(found.choice)
    assert found.bound <= EXACT.solve(problem).objective * (1 + 1e-9) <= found.objective * (1 + 2e-9)
    with pytest.raises(InputError, match="at least"):
        make_solver(name).solve(replace(problem, limits={"size": 1.0}))


def test_a_dynamic_program_keeps_one_limit_only() -> None:
    with pytest.raises(UnsupportedError, match="size, latency"):
        DynamicProgram().solve(layered(4, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": [[0.0]]}, "one number for each option"),
        ({"loss": [[0.0, math.nan]]}, "NaN"),
        ({"limits": {"energy": 1.0}}, "energy"),
        ({"units": units([2], {0: 5})}, "no option 5"),
        ({"pairs": (Pair(0, 0, [[0.0]]),)}, "two different units"),
    ],
)
def test_malformed_problems_are_refused(change: dict[str, object], message: str) -> None:
    good = Problem(units([2]), [[0.0, 1.0]], {"size": [[2.0, 1.0]]}, {"size": 2.0})
    with pytest.raises(SpecError, match=message):
        replace(good, **change)  # pyright: ignore[reportArgumentType]


def test_dominated_options_are_dropped_and_equal_ones_keep_the_first() -> None:
    loss = [[0.1, 0.2, 0.1, 0.05]]
    problem = Problem(units([4]), loss, {"size": [[4.0, 5.0, 4.0, 9.0]]}, {"size": 20.0})
    assert make_core(problem).alive.tolist() == [[True, False, False, True]]


def test_a_pair_can_save_a_dominated_option() -> None:
    loss = [[0.1, 0.2], [0.0, 0.0]]
    problem = Problem(units([2, 2]), loss, {"size": [[1.0, 1.0], [1.0, 2.0]]}, {"size": 9.0})
    assert not make_core(problem).alive[0, 1]
    helpful = replace(problem, pairs=(Pair(0, 1, [[0.0, 0.0], [-0.5, 0.0]]),))
    assert make_core(helpful).alive[0, 1]
    assert EXACT.solve(helpful).choice == (1, 0)


# -- frontiers ---------------------------------------------------------------------------------------------------------


def test_the_exact_frontier_is_every_choice_that_none_beats() -> None:
    problem = random_problem(5, resources=1, pairs=0.5)
    every = [one for one in itertools.product(*(range(len(unit.options)) for unit in problem.units))]
    free = replace(problem, limits={})
    points = sorted((free.used(one, "size"), free.used(one, LOSS)) for one in every if free.feasible(one))
    best, expected = math.inf, []
    for size, value in points:
        if value < best - 1e-12:
            best = value
            expected.append((size, value))
    found = [(one.used["size"], one.objective) for one in exact_frontier(problem, "size")]
    assert found == [pytest.approx(pair, abs=1e-9) for pair in expected]


def test_a_sampled_frontier_lies_on_the_exact_one_and_beats_uniform_choices() -> None:
    problem = layered(12, 4)
    sampled = frontier(problem, "size", points=6, solver=EXACT)
    exact = exact_frontier(problem, "size")
    unlimited = frontier(replace(problem, limits={}), "size", points=6, solver=EXACT)
    values = {round(one.objective, 9) for one in exact}
    assert all(round(one.objective, 9) in values for one in unlimited)
    assert all(one.used["latency"] <= problem.limits["latency"] * (1 + 1e-9) for one in sampled)
    uniform = [(problem.used([k] * 12, "size"), problem.used([k] * 12, LOSS)) for k in range(4)]
    reference = (max(size for size, _ in uniform) + 1, max(value for _, value in uniform) + 1)
    solved = [(one.used["size"], one.objective) for one in unlimited]
    assert hypervolume(solved, reference) >= hypervolume(uniform, reference)
    assert 0 < knee(exact, "size") < len(exact) - 1


def test_a_rounded_dynamic_program_stays_within_the_limit() -> None:
    problem = replace(layered(60, 6), limits={"size": layered(60, 6).limits["size"]})
    found = DynamicProgram(step=1e-3).solve(problem)
    assert problem.feasible(found.choice)
    assert found.objective <= EXACT.solve(problem).objective * 1.2


def test_the_same_search_gives_the_same_choice() -> None:
    core, search = make_core(layered(20, 5)), Genetic(population=16, generations=5, seed=3)
    first, second = search.search(core), search.search(core)
    assert first is not None
    assert second is not None
    assert (first == second).all()


def test_a_genetic_search_takes_any_measure() -> None:
    core = make_core(layered(10, 4))
    found = Genetic(population=16, generations=10).search(core, lambda picks: float(np.abs(picks - 2).sum()))
    assert found is not None
    assert np.abs(found - 2).sum() <= 10


def test_of_all_steps_over_the_peak_only_the_worst_is_told() -> None:
    units = (Unit("a", (Option("x"),)),)
    steps = {f"peak_memory at %{name}": bytes_ for name, bytes_ in (("p", 20.0), ("q", 50.0), ("r", 30.0))}
    problem = Problem(units, [[1.0]], {name: [[taken]] for name, taken in steps.items()}, dict.fromkeys(steps, 10.0))
    with pytest.raises(InputError, match="peak_memory at %q can be 50 at least, and 10 is allowed") as refused:
        make_solver("milp").solve(problem)
    assert "%r" not in str(refused.value)
