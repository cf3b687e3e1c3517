"""Mixed precision on programs: units, ties, options, costs, trials, the guard, and plans that replay."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qcompiler
from qcompiler import Budget
from qcompiler.compiler import build
from qcompiler.errors import InputError, SpecError, UnsupportedError
from qcompiler.ir.program import Program
from qcompiler.job import Job, backends, prepare, run_job
from qcompiler.passes.allocate.boundaries import boundaries
from qcompiler.passes.allocate.costs import AverageBits, BitOperations, Size
from qcompiler.passes.allocate.decoupled import decoupled, weightings
from qcompiler.passes.allocate.judge import Judge
from qcompiler.passes.allocate.mixed import MixedPrecision, read_scheme
from qcompiler.passes.allocate.peak_memory import peak_memory
from qcompiler.passes.allocate.problem import LOSS, Problem
from qcompiler.passes.allocate.sensitivities import SENSITIVITIES, relative_error
from qcompiler.passes.allocate.trial import Trial, block_sums, through_grid
from qcompiler.passes.allocate.units import Offer, offer
from qcompiler.passes.recipes import Recipe, load_recipe
from qcompiler.pipeline import Context
from qcompiler.plan import Assignment
from qcompiler.report import Report
from qcompiler.spec import QuantSpec, choose_qparams, dequantize, expand_blocks, parse_scheme, quantize
from qcompiler.target import Accept, Kernel, Slot, Target
from qcompiler.targets import load_target

WEIGHTS = "w8a16|w4a16g16|w3a16g16|w2a16g16"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Branches(nn.Module):
    """Three projections of one value, a residual addition, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.sigmoid(self.q(x)) * torch.tanh(self.k(x)) + self.v(x)
        return self.head(torch.relu(x + self.out(mixed)))


class Tied(nn.Module):
    """An embedding whose table is the head's weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.body = nn.Embedding(24, 32), nn.Linear(32, 32)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.linear(torch.relu(self.body(self.table(ids))), self.table.weight)


class Convolutions(nn.Module):
    """A strided stem and a residual block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.left = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.right, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.left(x) + self.right(x))
        return self.head(x).mean((2, 3))


DATA = [noise(16, 32, seed=1), noise(16, 32, seed=2)]
SAMPLES: dict[type[nn.Module], list[Tensor]] = {
    Branches: DATA,
    Tied: [torch.arange(8).reshape(2, 4)],
    Convolutions: [noise(4, 3, 8, 8, seed=3)],
}


@cache
def traced(kind: type[nn.Module]) -> Program:
    """The program of a module, once for all tests."""
    return prepare(kind().eval(), "simulation", calibration=SAMPLES[kind], recipe=Recipe("none", ())).program


@cache
def canonical(kind: type[nn.Module]) -> tuple[Program, Context]:
    """A canonical program and what passes are told."""
    job = prepare(traced(kind), "simulation", calibration=SAMPLES[kind], recipe=Recipe("none", ()))
    return run_job(job)[1], Context(job.target, batches=job.batches)


def job_of(options: str, program: Program | None = None, target: str = "simulation") -> Job:
    """A compilation of the branches by one configured pass."""
    recipe = Recipe.of("test", [f"mixed_precision{{{options}}}", "apply_plan", "nearest{search=mse}"])
    return prepare(program or traced(Branches), target, calibration=DATA, recipe=recipe)


def offered(kind: type[nn.Module], schemes: str, target: Target | None = None) -> Offer:
    program, context = canonical(kind)
    return offer(program, target or context.target, [read_scheme(text) for text in schemes.split("|")], ())


def joining_target() -> Target:
    """The simulation with an addition in any numbers."""
    plain = load_target("simulation", backends())
    anything = Slot((Accept.parse("any"),))
    relu = ("aten.relu",)
    add = Kernel("add", ("aten.add.Tensor",), {"self": anything, "other": anything}, anything, relu, joins=True)
    rows = [replace(row, result=anything, absorbs=relu) if row.name == "conv" else row for row in plain.kernels]
    return replace(plain, kernels=(*rows, add))


def widths(job: Job) -> dict[str, int]:
    """Bits of the weight of every assigned layer, by module."""
    _, program, _ = run_job(job)
    found = {}
    for node in program.nodes:
        assigned = node.meta.get("assignment")
        if isinstance(assigned, Assignment) and "weight" in assigned.inputs:
            found[program.origin(node).module] = assigned.inputs["weight"].bits
    return found


# -- units and options -------------------------------------------------------------------------------------------------


def test_every_layer_is_a_unit_with_the_schemes_that_its_kernels_take() -> None:
    found = offered(Branches, f"{WEIGHTS}|float")
    assert [len(unit.nodes) for unit in found.units] == [1] * 5
    assert all([option.name for option in unit.options] == [*WEIGHTS.split("|"), "float"] for unit in found.units)


def test_options_are_what_the_target_accepts() -> None:
    schemes, target = "w4a16g16|w8a8|w4a4|float", load_target("onnxruntime", backends())
    convolution, linear = (offered(kind, schemes, target).units[0] for kind in (Convolutions, Branches))
    assert [option.name for option in convolution.options] == ["w8a8", "float"]
    assert [option.name for option in linear.options] == ["w4a16g16", "w8a8", "float"]
    nothing = offered(Convolutions, "w4a16g16", target)
    assert not nothing.units
    assert [reason.partition(":")[0] for reason in nothing.refusals.values()] == ["conv"] * 4


def test_schemes_that_make_no_difference_are_one_option() -> None:
    found = offered(Branches, "w4a16g16|w4a16g16_asym|w4a16g16_sym")
    assert [option.name for option in found.units[0].options] == ["w4a16g16", "w4a16g16_sym"]


def test_readers_of_one_weight_are_one_unit() -> None:
    found = offered(Tied, WEIGHTS)
    assert sorted(len(unit.nodes) for unit in found.units) == [1, 2]


@pytest.mark.parametrize(
    ("schemes", "sizes"), [(WEIGHTS, [1] * 5), ("w8a8|w4a16g16", [1] * 5), ("w8a8|w4a4", [3, 1, 1])]
)
def test_readers_of_one_activation_are_tied_only_when_its_grids_differ(schemes: str, sizes: list[int]) -> None:
    found = offered(Branches, schemes)
    assert sorted(len(unit.nodes) for unit in found.units) == sorted(sizes)


def test_results_that_meet_at_a_joining_kernel_are_tied() -> None:
    found = offered(Convolutions, "w8a8|w4a4", joining_target())
    groups = [
        sorted(found.program.origin(node).module for node in found.program.nodes if node.name in unit.nodes)
        for unit in found.units
    ]
    assert groups == [["head", "left", "right", "stem"]]
    alike = offered(Convolutions, "w8a8|w4a8", joining_target())
    assert [len(unit.nodes) for unit in alike.units] == [1] * 4


def test_joining_operators_follow_the_units_around_them() -> None:
    found = offered(Convolutions, "w8a8|float", joining_target())
    kernels = [item.kernel for item in found.plan([0] * len(found.units)).values()]
    assert kernels.count("add") == 1
    assert "add" not in {item.kernel for item in found.plan([1] * len(found.units)).values()}


# -- costs -------------------------------------------------------------------------------------------------------------


def test_size_counts_codes_scales_and_every_parameter_once() -> None:
    program, context = canonical(Tied)
    found = offer(program, context.target, [parse_scheme("w4a16g16"), None], ())
    sizes = Size().measure(program, found.units, context)
    whole = sum(parameter.numel() * 4 for parameter in Tied().parameters())
    assert sizes.reference == whole
    assert sizes.fixed == 32 * 4
    per_weight = (4 + (32 + 4) / 16) / 8
    assert sorted(row[0] for row in sizes.table) == pytest.approx([24 * 32 * per_weight, 32 * 32 * per_weight])
    assert sorted(row[1] for row in sizes.table) == [24 * 32 * 4, 32 * 32 * 4]


def test_average_bits_of_a_uniform_plan_are_its_bits() -> None:
    program, context = canonical(Branches)
    found = offer(program, context.target, [parse_scheme("w4a16g16_sym"), None], ())
    costs = AverageBits().measure(program, found.units, context)
    assert sum(row[0] for row in costs.table) == pytest.approx(4 + 32 / 16)
    assert sum(row[1] for row in costs.table) == pytest.approx(32)


def test_bit_operations_are_products_times_bits() -> None:
    program, context = canonical(Convolutions)
    found = offer(program, context.target, [parse_scheme("w4a8"), None], ())
    costs = BitOperations().measure(program, found.units, context)
    rows = 4 * 4 * 4  # samples and places
    macs = [rows * 8 * 27, rows * 8 * 72, rows * 8 * 8, rows * 5 * 8]
    assert [row[0] for row in costs.table] == [product * 32 for product in macs]
    assert costs.reference == sum(macs) * 1024
    assert costs.fixed == 0


LIVENESS = """program @chain stage=canonical {
  input %x : f32[1,4,8,8]
  param %w : f32[4,4,1,1] = normal(seed=1)
  %a = aten.conv2d %x, %w, none, [1, 1], [0, 0], [1, 1], 1 : f32[1,4,8,8]
  %b = aten.sigmoid %a : f32[1,4,8,8]
  %c = aten.add.Tensor %b, %a : f32[1,4,8,8]
  %d = aten.amax %c, [2, 3] : f32[1,4]
  return %d
}
"""


def test_peak_memory_is_that_of_the_fullest_step() -> None:
    program = qcompiler.parse(LIVENESS)
    found = offer(program, joining_target(), [parse_scheme("w8a8"), None], ())
    rows = peak_memory(program, found.units)
    value = 4 * 8 * 8 * 4
    # at the addition a, b and c are alive, two of which stay in float
    assert {cost.reference for cost in rows.values()} == {3 * value}
    peaks = [max(cost.fixed + cost.table[0][option] for cost in rows.values()) for option in (0, 1)]
    assert peaks == [2.25 * value, 3 * value]


def test_peak_memory_can_be_limited() -> None:
    program = qcompiler.parse(LIVENESS)
    context = Context(joining_target(), batches=[[noise(1, 4, 8, 8)]])
    for limit, name in (("3100", "float"), ("2305", "w8a8"), ("2200", "w4a4")):
        done = MixedPrecision(schemes="w8a8|w4a4|float", peak_memory=limit).run(program.copy(), context)
        assert next(node for node in done.nodes if node.name == "a").meta["asked"] == name
    with pytest.raises(InputError, match=r"peak_memory at %c can be 2176 at least, and 2000 is allowed"):
        MixedPrecision(schemes="w8a8|w4a4|float", peak_memory="2000").run(program.copy(), context)


def test_the_counted_size_is_the_reported_one() -> None:
    job = job_of(f"schemes={WEIGHTS}, average_bits=5.5")
    program, context = canonical(Branches)
    artifact = build(job)
    bits = {layer.name: layer.bits for layer in artifact.report.layers}
    found = offer(program, context.target, [parse_scheme(name) for name in WEIGHTS.split("|")], ())
    costs = AverageBits().measure(program, found.units, context)
    count = sum(module.weight.numel() for module in Branches().children() if isinstance(module, nn.Linear))
    options = [[option.assignments[unit.name] for option in unit.options] for unit in found.units]
    chosen = [row.index(artifact.plan.assignments[unit.name]) for unit, row in zip(found.units, options, strict=True)]
    total = sum(row[option] for row, option in zip(costs.table, chosen, strict=True))
    weights = {unit.name: program.shape(program.node(unit.name).all_input_nodes[1]) for unit in found.units}
    reported = sum(bits[name] * int(shape[0]) * int(shape[1]) for name, shape in weights.items()) / count
    assert total == pytest.approx(reported)
    assert total <= 5.5


# -- trials and sensitivities ------------------------------------------------------------------------------------------


def test_a_trial_of_nothing_is_the_float_program() -> None:
    program, context = canonical(Branches)
    results = Trial(program, context.batches).results({})
    assert relative_error(results) == 0
    assert sum(len(batch.wanted[0]) for batch in results) == 32


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [("w3a16g16", Branches), ("w4a8", Branches), ("w4a8_dynamic", Branches), ("w4a4", Convolutions)],
)
def test_a_trial_is_close_to_the_quantized_program(scheme: str, kind: type[nn.Module]) -> None:
    program, context = canonical(kind)
    found = offer(program, context.target, [parse_scheme(scheme)], ())
    plan = found.plan([0] * len(found.units))
    passes = [f"assign{{scheme={scheme}}}", "apply_plan", "calibrate{method=mse}", "nearest{search=mse}"]
    job = prepare(traced(kind), calibration=SAMPLES[kind], target="simulation", recipe=Recipe.of("test", passes))
    quantized, module = run_job(job)[1], kind().eval()
    with torch.no_grad():
        wanted = torch.cat([module(x) for x in SAMPLES[kind]])
        got = torch.cat([torch.as_tensor(quantized.run(x)) for x in SAMPLES[kind]])
    tried = relative_error(Trial(program, context.batches).results(plan))
    assert tried == pytest.approx(float((wanted - got).square().sum() / wanted.square().sum()), rel=0.4)


def test_a_trial_of_one_layer_equals_doing_it_by_hand() -> None:
    program, context = canonical(Branches)
    found = offer(program, context.target, [parse_scheme("w2a16g16")], ())
    module = Branches()
    (name,) = found.units[0].nodes
    assert program.origin(program.node(name)).module == "q"
    plan = found.units[0].options[0].assignments
    with torch.no_grad():
        wanted = torch.cat([module(x) for x in DATA])
        module.q.weight.copy_(through_grid(module.q.weight, plan[name].inputs["weight"]))
        got = torch.cat([module(x) for x in DATA])
    tried = relative_error(Trial(program, context.batches).results(plan))
    assert tried == pytest.approx(float((wanted - got).square().sum() / wanted.square().sum()), rel=1e-4)


def test_the_best_grid_is_no_worse_than_the_whole_range() -> None:
    weight, spec = noise(8, 64) ** 3, QuantSpec.parse("int3 sym block=(1,-1) scale=f32")
    whole = choose_qparams(weight, spec)
    plain = dequantize(quantize(weight, *whole, spec), *whole, spec)
    rows = [(value - weight).square().sum(1) for value in (through_grid(weight, spec), plain)]
    assert bool((rows[0] <= rows[1]).all())
    assert float(rows[0].sum()) < 0.98 * float(rows[1].sum())


def test_one_block_is_searched_like_many() -> None:
    value = noise(1, 64) ** 3
    one = through_grid(value, QuantSpec.parse("int3 sym block=(-1,-1) scale=f32"))
    many = through_grid(value.expand(2, 64), QuantSpec.parse("int3 sym block=(1,-1) scale=f32"))
    assert torch.equal(many, one.expand(2, 64))


@pytest.mark.parametrize("block", [(-1, -1), (1, -1), (1, 5), (2, 3), (-1, 4)])
def test_sums_by_block_are_those_of_the_elements(block: tuple[int, ...]) -> None:
    x = noise(6, 11)
    sums = block_sums(x, block)
    index = expand_blocks(torch.arange(sums.numel()).reshape(sums.shape), block, x.shape)
    assert torch.allclose(torch.bincount(index.flatten(), x.flatten()).reshape(sums.shape), sums, atol=1e-5)


@pytest.mark.parametrize("kind", SENSITIVITIES)
def test_sensitivities_are_zero_for_float_and_fall_with_bits(kind: type) -> None:
    program, context = canonical(Branches)
    found = offer(program, context.target, [*map(parse_scheme, WEIGHTS.split("|")), None], ())
    for row in kind().measure(program, found.units, context):
        assert row[4] == 0
        assert 0 < row[0] < row[1] < row[2] < row[3]


@pytest.mark.parametrize("kind", [kind for kind in SENSITIVITIES if kind.needs_data])
def test_sensitivities_that_need_data_ask_for_it(kind: type) -> None:
    program, context = canonical(Branches)
    found = offer(program, context.target, [parse_scheme("w4a16g16")], ())
    with pytest.raises(InputError, match="sensitivity=weight"):
        kind().measure(program, found.units, replace(context, batches=()))


# -- the pass ----------------------------------------------------------------------------------------------------------


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
        ("latency=2ms", UnsupportedError, "nothing tells what latency"),
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
    for name in ("model.onnx", "weights.safetensors", "program.qir"):
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
    kind = {kind.name: kind for kind in SENSITIVITIES}["output"]
    table = kind().measure(program, found.units, context)
    costs = AverageBits().measure(program, found.units, context)
    problem = Problem(found.units, table, {"average_bits": costs.table}, {"average_bits": 6.25})
    judge = Judge(found, Trial(program, context.batches), "output")
    from qcompiler.passes.allocate.milp import Milp

    solution = Milp().solve(problem)
    assert solution.used[LOSS] < problem.used(found.uniform("w4a16g16"), LOSS)
    assert judge.harm(problem, solution.choice) < judge.harm(problem, found.uniform("w4a16g16"))


# -- groups and boundaries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-4, 1e3])
def test_the_scale_of_a_group_does_not_matter(factor: float) -> None:
    one, other = [[4.0, 1.0], [2.0, 0.5], [9.0, 9.0]], [[7.0, 7.0], [7.0, 7.0], [3.0, 1.0]]
    scaled = [[value * factor for value in row] for row in other]
    first, second = decoupled([one, other], [0, 0, 1]), decoupled([one, scaled], [0, 0, 1])
    assert torch.allclose(torch.tensor(first), torch.tensor(second))
    assert torch.allclose(torch.tensor(first), torch.tensor([[4 / 6, 1 / 6], [2 / 6, 0.5 / 6], [1.0, 1 / 3]]))
    assert decoupled([one, other], [0, 0, 1], {1: 4.0})[2] == pytest.approx([4.0, 4 / 3])
    assert len(weightings(2)) == 5


def test_groups_with_their_own_sensitivity() -> None:
    found = widths(job_of(f"schemes={WEIGHTS}, average_bits=5.5, groups=q=kl|head=local"))
    assert len(found) == 5
    with pytest.raises(SpecError, match="no sensitivity 'taste'"):
        run_job(job_of(f"schemes={WEIGHTS}, average_bits=5.5, groups=q=taste"))


def test_boundaries_are_where_numbers_change() -> None:
    found = offered(Convolutions, "w8a8|w4a8|float", joining_target())
    names = {node.name: found.program.origin(node).module for node in found.program.nodes}
    hand_overs = boundaries(found)
    places = [(names[found.units[b.left].name], names[found.units[b.right].name]) for b in hand_overs]
    assert places == [("stem", "left"), ("stem", "right")]
    # both schemes have the same activations, float has others
    assert all(boundary.mismatch == [[0, 0, 1], [0, 0, 1], [1, 1, 0]] for boundary in hand_overs)


def test_the_resolved_recipe_reads_back(tmp_path: Path) -> None:
    recipe = job_of(f"schemes={WEIGHTS}, average_bits=5.5, gap=1e-5, candidates=2, guard=false").recipe
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml").passes == recipe.passes
