"""Learned rounding: the loop, what it learns, the methods on top, and the repairs after them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qcompiler
from qcompiler.errors import PassError, SpecError
from qcompiler.examples import Batches, Rows, examples, weigh_channels
from qcompiler.formats import parse_format
from qcompiler.formats.search import golden_section
from qcompiler.ir import ops
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Node, Program
from qcompiler.job import Job, prepare, run_job
from qcompiler.passes.recipes import Recipe
from qcompiler.passes.solve.driver import set_ranges
from qcompiler.passes.solve.front_to_back import readers_of
from qcompiler.passes.solve.learned import (
    LEARNED,
    AdaQuant,
    AdaRound,
    BiasTuning,
    Brecq,
    Cbq,
    FpRounding,
    GradientRounding,
    NormReestimation,
    Nupes,
)
from qcompiler.passes.solve.learned.drive import fisher, learn
from qcompiler.passes.solve.learned.norm_reestimation import Moments, spread_ratio
from qcompiler.passes.solve.learned.nupes import PowerCodes, best_exponent
from qcompiler.passes.solve.learned.units import layer_units, learnable, segment_units
from qcompiler.passes.solve.learned.variables import (
    Quantized,
    SoftRounding,
    StepSize,
    Straight,
    grid_neighbours,
    inverse_rectified_sigmoid,
    rectified_sigmoid,
)
from qcompiler.passes.solve.ranges import Search
from qcompiler.pipeline import Context, Pass
from qcompiler.qparams import quantizers
from qcompiler.spec import QuantSpec, choose_qparams, dequantize, quantize
from qcompiler.stats import Request, collect
from qcompiler.training import Loss, Sample, Schedule, Trained, reconstruct, rounding_penalty
from qcompiler.walk import Walk

INT3 = QuantSpec.parse("uint3 asym block=(1,-1) scale=f32")
INT4 = QuantSpec.parse("int4 sym block=(1,-1) scale=f32")
FP4 = QuantSpec.parse("fp4e2m1 sym block=(1,-1) scale=f32")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Rows with a few strong directions, which rounding by itself does not know of."""
    return noise(rows, 4, seed=seed) @ noise(4, columns, seed=99) + 0.3 * noise(rows, columns, seed=seed + 1)


def start(weight: Tensor, spec: QuantSpec = INT3) -> Quantized:
    scale, zero_point = choose_qparams(weight, spec)
    return Quantized(weight, scale, None if spec.symmetric else zero_point, spec)


@cache
def canonical(kind: str) -> Program:
    """A model as a canonical program; a lone linear is written down, which takes no time."""
    if kind.startswith("linear"):
        rows, columns = kind.split()[1:]
        return parse_program(
            f"dim s0 = 4 in 1..\nprogram @p stage=canonical {{\n  input %x : f32[s0,{columns}]\n"
            f"  param %w : f32[{rows},{columns}] = normal(seed=0)\n"
            f"  %y = aten.linear %x, %w, none : f32[s0,{rows}]\n  return %y\n}}\n"
        )
    model, data = {"residual": residual, "convolutions": convolutions}[kind]()
    return run_job(prepare(model.eval(), "simulation", inputs=(data[0],), recipe=Recipe.of("t", [])))[1]


def program_of(model: nn.Module) -> Program:
    if not isinstance(model, nn.Linear):
        return canonical("residual" if isinstance(model, Residual) else "convolutions")
    program = canonical(f"linear {model.out_features} {model.in_features}").copy()
    program.set_param(program.param_nodes[0], model.weight.detach())
    return program


def job_of(model: nn.Module, data: Sequence[Tensor], scheme: str, *passes: str | Pass, edges: str = "") -> Job:
    calibrate = [] if "a16" in scheme else ["calibrate{method=minmax}"]
    recipe = Recipe.of("t", [f"assign{{scheme={scheme}, edges={edges}}}", "apply_plan", *calibrate, *passes])
    job = prepare(program_of(model), "simulation", calibration=list(data), recipe=recipe)
    return replace(job, passes=recipe.passes)


def solved(model: nn.Module, data: Sequence[Tensor], scheme: str, *passes: str | Pass, edges: str = "") -> Program:
    return run_job(job_of(model, data, scheme, *passes, edges=edges))[1]


def prepared(model: nn.Module, data: Sequence[Tensor], scheme: str) -> tuple[Program, Context]:
    job = job_of(model, data, scheme)
    return run_job(job)[1], Context(job.target, batches=job.batches)


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    return layer


def error(program: Program, model: nn.Module, data: Sequence[Tensor]) -> float:
    with torch.no_grad():
        gaps = [(evaluate(program, [x])[0] - model(x)).square().sum() / model(x).square().sum() for x in data]
    return float(torch.stack(gaps).mean())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.second(self.first(x).relu())
        return self.leave(x)


def residual() -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    return Residual(), [correlated(16, 6, seed) for seed in range(4)]


# -- the parts ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_the_rectified_sigmoid_and_its_inverse(fractions: list[float]) -> None:
    fraction = torch.tensor(fractions)
    v = inverse_rectified_sigmoid(fraction)
    torch.testing.assert_close(rectified_sigmoid(v), fraction, atol=1e-5, rtol=1e-4)
    assert torch.equal(v >= 0, rectified_sigmoid(v) >= 0.5)
    assert bool(inverse_rectified_sigmoid(torch.tensor([0.0, 1.0])).isfinite().all())


@given(
    st.sampled_from(["int4", "uint3", "fp4e2m1", "nf4", "ternary"]),
    st.lists(st.floats(-20, 20), min_size=1, max_size=9),
)
@settings(deadline=None, max_examples=50)
def test_neighbours_enclose_a_number_with_nothing_between(name: str, numbers: list[float]) -> None:
    number, x = parse_format(name), torch.tensor(numbers)
    values = number.grid().values.float()
    for ratio, low, high in zip(x, *grid_neighbours(x, number), strict=True):
        assert low in values
        assert high in values
        if values[0] <= ratio < values[-1]:
            assert low <= ratio < high
            assert not bool(((values > low) & (values < high)).any())
        else:
            assert low == high == ratio.clamp(values[0], values[-1])


@pytest.mark.parametrize("spec", [INT4, FP4], ids=str)
@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("rank", [0, 3])
def test_soft_rounding_starts_at_the_float_weight_and_hardens_to_the_nearest_value(
    spec: QuantSpec, aware: bool, rank: int
) -> None:
    begin = start(noise(5, 12), spec)
    variable = SoftRounding(begin, 0.01, aware, rank)
    torch.testing.assert_close(variable.soft().detach(), begin.weight, atol=2e-4, rtol=0)
    nearest = quantize(begin.weight, begin.scale, begin.zero_point, spec)
    assert torch.equal(variable.solved().codes, nearest)
    assert torch.equal(variable.hard(), dequantize(nearest.clone(), begin.scale, begin.zero_point, spec))


def test_scale_aware_gradients_do_not_depend_on_the_binade() -> None:
    begin = start(torch.rand(4, 4000, generator=torch.Generator().manual_seed(0)) * 2 - 1, FP4)
    fraction_of = {}
    for aware in (False, True):
        variable = SoftRounding(begin, 0.01, aware)
        (variable.soft() * noise(4, 4000, seed=1)).sum().backward()
        gradient = cast(Tensor, variable.trained()[0].tensor.grad).abs()
        low, high = begin.neighbours()
        sizes = [gradient[(high - low) == step].mean() for step in (0.5, 1.0, 2.0)]
        fraction_of[aware] = float(max(sizes) / min(sizes))
    assert fraction_of[True] < 1.2
    assert fraction_of[False] > 3


@pytest.mark.parametrize("freedom", ["neighbours", "step"])
def test_freedom_bounds_how_far_a_weight_goes(freedom: str) -> None:
    begin = start(noise(6, 8))
    variable = Straight(begin, 0.1, freedom=freedom)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        variable.trained()[0].tensor.fill_(50.0)
    codes, (low, high) = variable.solved().codes, begin.neighbours()
    nearest = quantize(begin.weight, begin.scale, begin.zero_point, INT3)
    expected = high if freedom == "neighbours" else (nearest + 1).clamp(max=7)
    assert torch.equal(codes, expected)
    assert bool((low <= codes).all())
    variable.soft().sum().backward()
    assert bool((cast(Tensor, variable.trained()[0].tensor.grad) != 0).any())


def test_a_learned_scale_keeps_the_format_it_is_stored_in() -> None:
    spec = QuantSpec.parse("uint4 asym block=(-1,-1) scale=f16")
    size = StepSize(torch.tensor([[0.1]]).half().float(), spec, 0.1)
    with torch.no_grad():
        size.trained()[0].tensor.fill_(0.2345)
    assert torch.equal(size.hard(), size.hard().half().float())
    torch.testing.assert_close(size.hard(), torch.tensor([[0.1 * math.exp(0.2345)]]), rtol=1e-3, atol=0)


def test_the_penalty_anneals_after_the_warm_up() -> None:
    schedule = Schedule(100, warmup=0.2)
    assert schedule.power(19) is None
    assert schedule.power(20) == 20.0
    assert schedule.power(100) == pytest.approx(2.0)
    h = torch.tensor([0.0, 0.5, 1.0, 0.75])
    torch.testing.assert_close(rounding_penalty([h[:2], h[2:]], 2.0), torch.tensor((0 + 1 + 0 + 0.75) / 4))


def test_the_divergence_is_that_of_distributions_over_channels() -> None:
    found, wanted = noise(2, 3, 4, 5), noise(2, 3, 4, 5, seed=1)
    sample = Sample({}, ((wanted,),))
    plain = Loss(1)([found], sample)
    torch.testing.assert_close(plain, (found - wanted).square().mean())
    p, q = wanted.softmax(1), found.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean() / 3
    torch.testing.assert_close(Loss(1, True)([found], sample) - plain, expected)


def test_channel_importance_makes_all_channels_count_alike() -> None:
    target = noise(200, 3) * torch.tensor([1.0, 10.0, 0.1]) + 5
    weighed = weigh_channels([Sample({}, ((target,),))], -1)[0]
    counted = ((target - target.mean(0)).square() * weighed.importance[0]).mean(0)
    torch.testing.assert_close(counted[0], counted[1])
    assert weighed.importance[0].mean() == pytest.approx(1.0)


class Wanderer:
    """A number that training can only make worse on held-out examples."""

    def __init__(self) -> None:
        self.x = torch.ones(()).requires_grad_()

    def trained(self) -> list[Trained]:
        return [Trained(self.x, 0.1)]

    def soft(self) -> Tensor:
        return self.x

    def hard(self) -> Tensor:
        return self.x.detach()

    def softness(self) -> Tensor | None:
        return None


class Contrary:
    """Trains towards 5, measures the distance to 0."""

    def draw(self, generator: torch.Generator) -> Sample:
        return Sample({}, ((torch.full((1,), 5.0),),))

    def held_out(self) -> list[Sample]:
        return [Sample({}, ((torch.zeros(1),),))]


def test_the_best_iterate_on_held_out_examples_is_kept() -> None:
    variable = Wanderer()
    outcome = reconstruct(lambda values, sample: [values[0][None]], [variable], Loss(), Schedule(30), Contrary(), 0)
    assert outcome.before == outcome.after == 1.0
    assert variable.x.item() == 1.0


# -- examples and units ------------------------------------------------------------------------------------------------


def test_rows_are_drawn_once_and_held_out_rows_never() -> None:
    model, data = residual()
    program, _ = prepared(model, data, "w4a16")
    node = program.inputs[0]
    samples = [Sample({node: x}, ((model(x).detach(),),)) for x in data]
    rows = examples(program, samples, program.outputs, 56)
    assert isinstance(rows, Rows)
    drawn = rows.draw(torch.Generator().manual_seed(0))
    kept = torch.cat([cast(Tensor, sample.live[node]) for sample in rows.held_out()])
    assert len(kept) == 8
    assert torch.equal(kept, data[-1][-8:])
    found = cast(Tensor, drawn.live[node])
    assert torch.equal(found[found[:, 0].argsort()], torch.cat(data)[:56][torch.cat(data)[:56, 0].argsort()])
    torch.testing.assert_close(drawn.targets[0][0], model(found))


def test_what_cannot_be_split_by_rows_is_drawn_by_batches() -> None:
    fixed = parse_program("program @p stage=canonical {\n  input %x : f32[4,6]\n  return %x\n}\n")
    samples = [Sample({fixed.inputs[0]: noise(4, 6, seed=seed)}, ((noise(4, 6),),)) for seed in range(4)]
    batches = examples(fixed, samples, fixed.outputs, 4)
    assert isinstance(batches, Batches)
    assert batches.held_out()[0] is samples[-1]
    drawn = [batches.draw(torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert {id(sample) for sample in drawn} == {id(sample) for sample in samples[:-1]}


def test_layer_units_hold_their_activation_and_segments_their_block() -> None:
    model, data = residual()
    program, _ = prepared(model, data, "w4a16")
    readers = learnable(program, readers_of(program))
    layers, blocks = layer_units(program, readers), segment_units(program, readers)
    assert [len(unit.readers) for unit in layers] == [1, 1, 1, 1]
    assert [program.op(unit.results[0]) for unit in layers].count("aten.relu") == 1
    assert [len(unit.readers) for unit in blocks] == [1, 2, 1]
    assert program.op(blocks[1].results[0]) == "aten.add.Tensor"


# -- methods -----------------------------------------------------------------------------------------------------------

DEGENERATE: dict[str, tuple[Tensor, int]] = {
    "zero_row": (noise(4, 10) * torch.tensor([[1.0], [0.0], [1.0], [1.0]]), 24),
    "zero_column": (noise(4, 10) * (torch.arange(10) != 3), 24),
    "constant_row": (torch.cat([noise(3, 10), torch.full((1, 10), 0.7)]), 24),
    "all_zero": (torch.zeros(3, 10), 24),
    "one_row_of_data": (noise(4, 10), 1),
}


@pytest.mark.parametrize("method", LEARNED, ids=lambda method: method.name)
@pytest.mark.parametrize("case", DEGENERATE)
def test_the_law_of_learned_rounding(method: type[AdaRound], case: str) -> None:
    weight, rows = DEGENERATE[case]
    data = [correlated(rows, 10).mul(torch.arange(10) != 3) if case == "zero_column" else correlated(rows, 10)]
    found = []
    for _ in range(2):
        program = solved(linear(weight), data, "w3a16g4", method(iterations=8))
        program.verify()
        reader = next(node for node in program.nodes if node.target is ops.dequantize)
        value = evaluate(program, [torch.eye(10)])[0].T
        codes = program.param(reader.all_input_nodes[0])
        spec = cast(QuantSpec, program.bind(reader)["spec"])
        assert bool(torch.isin(codes.double(), spec.format.grid().values).all())
        assert bool(value.isfinite().all())
        assert bool((value[weight.abs().sum(1) == 0] == 0).all())
        found.append(value)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("passes", "share"),
    [
        (AdaRound(300), 0.75),
        (Brecq(300), 0.75),
        (AdaQuant(iterations=400), 0.75),
        (Cbq(iterations=300, rank=0), 0.8),
        (GradientRounding(400), 0.8),
        (GradientRounding(300, "sigmoid", "neighbours", "adam"), 0.8),
        (GradientRounding(300, optimizer="sign"), 0.9),
    ],
    ids=lambda value: value.name if not isinstance(value, float) else "",
)
def test_learning_beats_the_nearest_value_on_fresh_data(passes: Pass, share: float) -> None:
    model, data = linear(noise(16, 32)), [correlated(64, 32, seed) for seed in range(4)]
    fresh = [correlated(256, 32, 50)]
    plain = error(solved(model, data, "w3a16", "nearest{search=mse}"), model, fresh)
    assert error(solved(model, data, "w3a16", passes), model, fresh) < share * plain


def test_rounding_is_decided_at_the_end() -> None:
    model, data = linear(noise(16, 32)), [correlated(64, 32, seed) for seed in range(4)]
    program, ctx = prepared(model, data, "w3a16")
    outcomes = learn(program, ctx, AdaRound(400).plan(), "t")
    assert [outcome.decided > 0.99 for outcome in outcomes] == [True]
    assert outcomes[0].after < 0.8 * outcomes[0].before


def test_floating_point_grids_are_learned_too() -> None:
    model, data = linear(noise(16, 32)), [correlated(64, 32, seed) for seed in range(4)]
    fresh = [correlated(256, 32, 50)]
    plain = error(solved(model, data, "mxfp4", "nearest{search=mse}"), model, fresh)
    assert error(solved(model, data, "mxfp4", FpRounding(300)), model, fresh) < 0.85 * plain


def test_the_result_in_the_program_is_the_one_that_was_measured() -> None:
    model, data = linear(noise(16, 32)), [correlated(64, 32, seed) for seed in range(4)]
    program, ctx = prepared(model, data, "w3a16")
    outcome = learn(program, ctx, AdaQuant(iterations=50).plan(), "t")[0]
    held = torch.cat(data)[-32:]
    with torch.no_grad():
        found = (evaluate(program, [held])[0] - model(held)).square().mean()
    assert float(found) == pytest.approx(outcome.after, rel=1e-4)


def test_segments_are_learned_whole_and_windows_overlap() -> None:
    model, data = residual()
    for plan, windows in ((Brecq(20).plan(), 3), (Cbq(iterations=20).plan(), 2), (Cbq(4, iterations=20).plan(), 1)):
        program, ctx = prepared(model, data, "w3a8")
        outcomes = learn(program, ctx, plan, "t")
        assert len(outcomes) == windows
        assert not readers_of(program)
        assert all(outcome.after <= outcome.before for outcome in outcomes)


def test_activation_steps_are_learned_where_they_lie_inside_a_unit() -> None:
    model, data = residual()
    before, ctx = prepared(model, data, "w3a4")

    def scales(program: Program) -> dict[str, Tensor]:
        found = [node for node in quantizers(program) if node.all_input_nodes[0].op != "get_attr"]
        return {node.name: program.param(cast(Node, program.bind(node)["scale"])) for node in found}

    kept, learned = before.copy(), before.copy()
    learn(kept, ctx, Brecq(20, step_rate=0.0).plan(), "t")
    learn(learned, ctx, Brecq(20, step_rate=0.01).plan(), "t")
    old, same, new = scales(before), scales(kept), scales(learned)
    assert all(torch.equal(value, old[name]) for name, value in same.items())
    assert any(not torch.equal(value, old[name]) for name, value in new.items())


def test_parallel_layers_do_not_see_each_other() -> None:
    model, data = residual()
    outcomes = {}
    for stream in ("float", "quantized"):
        program, ctx = prepared(model, data, "w2a16")
        outcomes[stream] = learn(program, ctx, AdaQuant(stream, 0).plan(), "t")  # pyright: ignore[reportArgumentType]
    alone, behind = outcomes["float"], outcomes["quantized"]
    assert alone[0].before == pytest.approx(behind[0].before)
    assert all(alone[layer].before < 0.9 * behind[layer].before for layer in (1, 2))


def test_fisher_importance_follows_the_gradient_of_the_final_result() -> None:
    model, data = residual()
    program, ctx = prepared(model, data, "w2a16")
    unit = segment_units(program, learnable(program, readers_of(program)))[1]
    set_ranges(program, Search().range)
    walk = Walk(program, ctx.batches, ("float", "quantized"))
    walk.to(unit.start)
    weighed = fisher(walk, unit, Sample({}, ()), 0).importance[0]
    seen = cast(Tensor, walk.ahead(unit.stop, walk.live(0, "quantized"), "quantized")[unit.results[0]]).detach()
    seen.requires_grad_()
    logs = model.get_submodule("leave")(seen).log_softmax(-1)
    wanted = model(data[0]).log_softmax(-1)
    (wanted.exp() * (wanted - logs)).sum().backward()
    size = cast(Tensor, seen.grad).abs()
    torch.testing.assert_close(weighed, (size / size.square().mean().sqrt() + 1).square(), rtol=1e-3, atol=1e-3)
    assert all(
        outcome.after <= outcome.before for outcome in learn(program, ctx, Brecq(5, importance="fisher").plan(), "t")
    )


def test_options_out_of_range_are_refused() -> None:
    for make, what in (
        (lambda: Schedule(optimizer="luck"), "no optimizer 'luck'"),  # pyright: ignore[reportArgumentType]
        (lambda: Schedule(warmup=1.5), "make no schedule"),
        (lambda: GradientRounding(variable="sigmoid"), "cannot leave its neighbours"),
        (lambda: GradientRounding(freedom="none"), "no freedom 'none'"),  # pyright: ignore[reportArgumentType]
        (lambda: Brecq(importance="luck"), "no importance 'luck'"),  # pyright: ignore[reportArgumentType]
        (lambda: Cbq(window=0), "nothing to learn on"),
    ):
        with pytest.raises(SpecError, match=what):
            make()


# -- power-exponent grids ----------------------------------------------------------------------------------------------


def test_the_exponent_follows_the_distribution() -> None:
    spec = QuantSpec.parse("int4 sym block=(1,-1) scale=f32")
    uniform = torch.rand(8, 4000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert best_exponent(uniform, spec) > 0.95
    assert 0.6 < best_exponent(noise(16, 1000), spec) < 0.85
    assert golden_section(lambda x: (x - 0.3) ** 2, 0.2, 1.2) == pytest.approx(0.3, abs=1e-3)


def test_power_codes_start_at_the_weight_and_have_the_gradients_of_the_formula() -> None:
    begin = start(noise(3, 16), QuantSpec.parse("int4 sym block=(1,-1) scale=f32"))
    variable = PowerCodes(begin, 0.01, 0.01)
    torch.testing.assert_close(variable.soft().detach(), variable.hard(), rtol=1e-3, atol=1e-4)
    codes, exponent, growth = (part.tensor for part in variable.trained())
    variable.soft().sum().backward()
    places, a, value = codes.detach().round(), float(exponent.detach()), variable.soft().detach()
    used = places != 0
    torch.testing.assert_close(cast(Tensor, codes.grad)[used], (value / (a * places))[used])
    expected = -(value * (places.abs() / 7).clamp(min=1e-9).log() / a**2)[used].sum()
    torch.testing.assert_close(cast(Tensor, exponent.grad), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cast(Tensor, growth.grad)[:, 0], value.sum(1))


def test_power_exponent_weights_print_and_parse() -> None:
    model, data = linear(noise(8, 16)), [correlated(32, 16, seed) for seed in range(2)]
    program = solved(model, data, "w4a16", Nupes(10))
    again = parse_program(str(program), program.params)  # pyright: ignore[reportArgumentType]
    assert "pow4c" in str(program)
    assert torch.equal(evaluate(program, [data[0]])[0], evaluate(again, [data[0]])[0])


# -- repairs -----------------------------------------------------------------------------------------------------------


def convolutions() -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3))
    return model, [noise(8, 3, 8, 8, seed=seed) for seed in range(3)]


def test_norm_reestimation_restores_moments_and_keeps_codes() -> None:
    model, data = convolutions()
    plain = solved(model, data, "w3a16_sym", "nearest")
    mended = solved(model, data, "w3a16_sym", "nearest", NormReestimation())
    exact, batches = program_of(model), [[x] for x in data]
    requests = [Request(node.name, Moments(1)) for node in exact.nodes if exact.op(node) == "aten.conv2d"]
    before, wanted, found = (collect(program, requests, batches) for program in (plain, exact, mended))
    for request in requests:
        first, second = wanted.answers[request], found.answers[request]
        torch.testing.assert_close(second, first, rtol=0.02, atol=0.02)
        assert float((before.answers[request] - first).abs().max()) > 0.02
    same = {name for name in plain.params if torch.equal(param(plain, name), param(mended, name))}
    assert {name for name in plain.params if name.endswith("weight")} <= same
    assert not any("bias" in name or "scale" in name for name in same)


def test_a_channel_without_spread_keeps_its_scale() -> None:
    flat = torch.tensor([[2.0, 0.0], [4.0, 0.0]])
    assert spread_ratio(flat, flat * 3).tolist() == [1.0, 1.0]


def test_bias_tuning_brings_the_result_closer_and_touches_biases_alone() -> None:
    model, data = residual()
    plain = solved(model, data, "w3a16", "nearest")
    tuned = solved(model, data, "w3a16", "nearest", BiasTuning(60, 0.02))
    assert error(tuned, model, data) < 0.9 * error(plain, model, data)
    changed = {name for name in plain.params if not torch.equal(param(plain, name), param(tuned, name))}
    assert changed
    assert all("bias" in name for name in changed)


def param(program: Program, name: str) -> Tensor:
    return cast(Tensor, program.params[name])


def test_repairs_need_the_float_program() -> None:
    model, data = convolutions()
    program, ctx = prepared(model, data, "w3a16")
    for repair in (BiasTuning(), NormReestimation()):
        with pytest.raises(PassError, match="the float program is not known"):
            repair.run(program.copy(), ctx)


# -- first and last layers ---------------------------------------------------------------------------------------------


def test_edges_get_a_scheme_of_their_own() -> None:
    model, data = residual()
    program = solved(model, data, "w4a4", "nearest", edges="w8a8")
    bits = []
    for found in program.nodes:
        if program.op(found) == "aten.linear":
            readers = (cast(Node, program.bind(found)[name]) for name in ("weight", "input"))
            bits.append([cast(QuantSpec, program.bind(reader)["spec"]).bits for reader in readers])
    assert bits == [[8, 8], [4, 4], [4, 4], [8, 8]]
    with pytest.raises(SpecError, match="unknown scheme 'luck'"):
        solved(model, data, "w4a4", edges="luck")


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16g32"])
def test_a_weight_in_another_format_never_reaches_a_kernel_that_was_chosen_for_the_assigned_one(scheme: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    data = [torch.randn(8, 32) for _ in range(2)]
    recipe = Recipe.of("t", [f"assign{{scheme={scheme}}}", "apply_plan", "calibrate", "nupes{iterations=0}"])
    for target in ("simulation", "onnxruntime"):
        made = qcompiler.compile(model, target, calibration=data, recipe=recipe)
        assert made.report.sqnr_db is not None
        assert made.report.sqnr_db > 15
    assert not any("Q" in layer.realised or "NBits" in layer.realised for layer in made.report.layers)
