"""The pass that allocates: budgets, the guard, and plans that replay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import qcompiler
from qcompiler import Budget
from qcompiler.compiler import build
from qcompiler.errors import InputError, SpecError, UnsupportedError
from qcompiler.job import prepare, run_job
from qcompiler.passes.allocate.costs import AverageBits
from qcompiler.passes.allocate.harm import relative_error
from qcompiler.passes.allocate.judge import Judge
from qcompiler.passes.allocate.mixed import MixedPrecision, read_scheme
from qcompiler.passes.allocate.problem import LOSS, Problem
from qcompiler.passes.allocate.sensitivity import measure_table
from qcompiler.passes.allocate.trial import Trial
from qcompiler.passes.allocate.units import offer
from qcompiler.passes.recipes import Recipe, load_recipe
from qcompiler.report import Report
from qcompiler.spec import parse_scheme
from tests.allocate_models import (
    DATA,
    WEIGHTS,
    Branches,
    canonical,
    job_of,
    traced,
    widths,
)


def test_the_layer_that_matters_gets_the_bits() -> None:
    module = Branches()
    with torch.no_grad():
        module.k.weight.mul_(1e-3)  # hardly heard, the gate being near 0
        module.v.weight.mul_(8)
    heard = prepare(module, "simulation", calibration=DATA, recipe=Recipe("none", ())).program
    found = widths(job_of(f"schemes={WEIGHTS}, average_bits=6", heard))
    assert found["v"] > found["k"]
    assert found["k"] == 2


@pytest.mark.parametrize("solver", ["milp", "dynamic_program", "greedy", "one_shot", "genetic"])
def test_every_solver_keeps_the_budget(solver: str) -> None:
    found = widths(job_of(f"schemes={WEIGHTS}, average_bits=6, solver={solver}"))
    assert len(found) == 5
    assert sum(found.values()) / 5 < 6


def test_two_budgets_hold_together() -> None:
    lines: list[str] = []
    job = replace(job_of(f"schemes={WEIGHTS}, size=4.2x, bops=0.15x"), log=lines.append)
    run_job(job)
    (line,) = [line for line in lines if line.startswith("milp")]
    assert "size" in line
    assert "bops" in line


def test_an_impossible_budget_says_what_is_possible() -> None:
    with pytest.raises(InputError, match=r"average_bits can be 4.125 at least, and 3 is allowed"):
        run_job(job_of(f"schemes={WEIGHTS}, average_bits=3"))


def test_the_error_of_the_results_can_be_limited() -> None:
    loose = build(job_of(f"schemes={WEIGHTS}, max_drop=0.02"))
    strict = build(job_of(f"schemes={WEIGHTS}, max_drop=0.002"))
    sizes = [sum(layer.bytes for layer in artifact.report.layers) for artifact in (loose, strict)]
    assert sizes[0] < sizes[1]
    assert loose.report.sqnr_db is not None
    assert strict.report.sqnr_db is not None
    assert loose.report.sqnr_db > 15
    assert strict.report.sqnr_db > 25
    with pytest.raises(InputError, match="max_drop can be"):
        run_job(job_of("schemes=w2a16g16, max_drop=0.0001"))


def test_pins_edges_and_kept_layers() -> None:
    options = f"schemes={WEIGHTS}, average_bits=6, keep=q, pin=v=w3a16g16|out=w2a16g16, edges=w5a16g16"
    found = widths(job_of(options))
    assert "q" not in found
    assert (found["k"], found["v"], found["out"], found["head"]) == (5, 3, 2, 5)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ("schemes=w4a16g16", SpecError, "needs a budget"),
        ("average_bits=4, sensitivity=taste", SpecError, "no sensitivity 'taste'"),
        ("average_bits=4, solver=luck", SpecError, "no solver 'luck'"),
        ("average_bits=much", SpecError, "'much' is not an average bits"),
        ("average_bits=4, candidates=3, solver=greedy", SpecError, "candidates"),
        ("average_bits=9, pin=nothing*=w8a16", SpecError, "matches no node"),
        ("average_bits=9, pin=q=w7a16g16", SpecError, "cannot be pinned to w7a16g16"),
        ("average_bits=9, pin=q", SpecError, "not a list of pattern=word"),
        ("average_bits=9, schemes=float", SpecError, "no scheme is offered"),
        ("latency=2ms", UnsupportedError, "nothing tells how long"),
    ],
)
def test_words_that_make_no_sense(options: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        run_job(job_of(options))


def test_schemes_can_be_numbers() -> None:
    scheme = read_scheme("int3 sym channel scale=f16 / uint8 asym tensor scale=f32")
    assert scheme is not None
    assert (str(scheme.weight), str(scheme.activation)) == ("int3 sym channel scale=f16", "uint8 asym tensor scale=f32")
    numbers = "int3 sym channel scale=f16|int4 sym channel scale=f16"
    assert set(widths(job_of(f"schemes={numbers}, average_bits=4.2")).values()) == {3, 4}


def test_weights_alone_need_no_data() -> None:
    recipe = Recipe.of(
        "test", [f"mixed_precision{{schemes={WEIGHTS}, average_bits=6, sensitivity=weight}}", "apply_plan"]
    )
    job = prepare(traced(Branches), "simulation", recipe=recipe)
    assert set(widths(job).values()) > {4}


def test_a_uniform_plan_that_is_better_is_taken() -> None:
    program, context = canonical(Branches)
    found = offer(program, context.target, [parse_scheme(name) for name in WEIGHTS.split("|")], ())
    costs = AverageBits().measure(program, found.units, context)
    problem = Problem(found.units, [[0.0] * 4] * 5, {"average_bits": costs.table}, {"average_bits": 6.5})
    judge = Judge(found, Trial(program, context.batches), "output")
    choice, note = judge.best(problem, [(3,) * 5])
    assert choice == (1,) * 5
    assert "uniform w4a16g16, which is taken" in note
    kept, note = judge.best(problem, [(0, 0, 0, 0, 1)])
    assert kept == (0, 0, 0, 0, 1)
    assert "best uniform plan, w4a16g16" in note


def test_more_candidates_are_never_worse() -> None:
    program, context = canonical(Branches)
    harms = []
    for candidates in (1, 6):
        pass_ = MixedPrecision(schemes=WEIGHTS, sensitivity="weight", average_bits="5.5", candidates=candidates)
        plan = {
            node.name: node.meta["assignment"]
            for node in pass_.run(program.copy(), context).nodes
            if "assignment" in node.meta
        }
        harms.append(relative_error(Trial(program, context.batches).results(plan)))
    assert harms[1] <= harms[0]


def test_the_same_compilation_gives_the_same_plan() -> None:
    first, second = (build(job_of(f"schemes={WEIGHTS}, average_bits=5")).plan for _ in range(2))
    assert first.to_json() == second.to_json()


def test_a_plan_replays_to_the_same_bytes_without_data(tmp_path: Path) -> None:
    options = f"schemes={WEIGHTS}, average_bits=5.5"
    made = build(job_of(options, target="onnxruntime"), output=tmp_path / "made")
    again = prepare(
        traced(Branches),
        "onnxruntime",
        recipe=job_of(options).recipe,
        plan=tmp_path / "made" / "plan.json",
    )
    replayed = build(again, output=tmp_path / "again")
    assert len(set(layer.bits for layer in made.report.layers)) > 1
    assert replayed.plan.assignments == made.plan.assignments
    assert made.plan.measured
    for name in ("weights.safetensors", "program.qir", "model.onnx", "plan.json"):
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_compile_allocates_under_its_budget() -> None:
    artifact = qcompiler.compile(
        traced(Branches), "onnxruntime", calibration=DATA, budget=Budget(average_bits=6.2), recipe="mixed"
    )
    assert artifact.report.recipe == "mixed"
    assert any("of the best uniform plan" in note for note in artifact.report.notes)
    assert any("average_bits" in note and "gap" in note for note in Report.from_dict(artifact.report.to_dict()).notes)
    assert "of the best uniform plan" in str(artifact.report)
    assert len({layer.bits for layer in artifact.report.layers}) > 1
    automatic = qcompiler.compile(traced(Branches), "onnxruntime", calibration=DATA, budget=Budget(average_bits=6.2))
    assert automatic.plan.assignments == artifact.plan.assignments


def test_a_budget_that_the_recipe_cannot_keep_is_refused() -> None:
    with pytest.raises(InputError, match="cannot keep average_bits"):
        qcompiler.compile(traced(Branches), calibration=DATA, recipe="w8a8", budget=Budget(average_bits=4))
    with pytest.raises(InputError, match=r"an error of 1e-09 of the results"):
        qcompiler.compile(traced(Branches), calibration=DATA, recipe="w8a8", budget=Budget(max_drop=1e-9))


def test_the_solved_loss_is_below_that_of_uniform_plans() -> None:
    program, context = canonical(Branches)
    found = offer(program, context.target, [parse_scheme(name) for name in WEIGHTS.split("|")], ())
    table = measure_table("output", program, found.units, context)
    costs = AverageBits().measure(program, found.units, context)
    problem = Problem(found.units, table, {"average_bits": costs.table}, {"average_bits": 6.25})
    judge = Judge(found, Trial(program, context.batches), "output")
    from qcompiler.passes.allocate.milp import Milp

    solution = Milp().solve(problem)
    assert solution.used[LOSS] < problem.used(found.uniform("w4a16g16"), LOSS)
    assert judge.harm(problem, solution.choice) < judge.harm(problem, found.uniform("w4a16g16"))


def test_the_resolved_recipe_reads_back(tmp_path: Path) -> None:
    recipe = job_of(f"schemes={WEIGHTS}, average_bits=5.5, gap=1e-5, candidates=2, guard=false").recipe
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml").passes == recipe.passes
