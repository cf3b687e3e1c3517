"""Rotations beyond the plain Hadamard one: what each buys on the kind of data it was made for, and its algebra."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qcompiler.analysis.symmetry import symmetries
from qcompiler.errors import SpecError
from qcompiler.formats import parse_format
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program
from qcompiler.job import backends, prepare, run_job
from qcompiler.pass_text import parse_pass
from qcompiler.passes.recipes import Recipe, catalogue
from qcompiler.passes.transform import surgery
from qcompiler.passes.transform.evaluate import Reader, layer_error
from qcompiler.passes.transform.factors import Chain, Dense, Diagonal, matrix_of
from qcompiler.passes.transform.rotation.adaptive import AdaptiveRotation
from qcompiler.passes.transform.rotation.karhunen_loeve import karhunen_loeve
from qcompiler.passes.transform.rotation.normal_step import normal_error, normal_step
from qcompiler.passes.transform.rotation.outlier_aware import (
    block_rotation,
    divisor_near,
    fluctuation,
    uniform_first_row,
    zigzag,
)
from qcompiler.passes.transform.rotation.quantface import QuantFace
from qcompiler.passes.transform.rotation.quantvggt import QuantVggt
from qcompiler.passes.transform.rotation.robuq import RobuQ
from qcompiler.passes.transform.rotation.site import Candidate, TurnMethod, TurnSite, judged
from qcompiler.passes.transform.rotation.smooth_fused import SmoothFused
from qcompiler.passes.transform.rotation.turn import Turn
from qcompiler.passes.transform.rotation.viditq import ViditQ
from qcompiler.pipeline import Context, difference, run_passes
from qcompiler.spec import QuantSpec
from qcompiler.targets import load_target
from tests.torch_models import noise, seeded, sqnr_db
from tests.transform_models import batches, canonical

PER_TENSOR = QuantSpec.parse("int4 sym block=(-1,-1) scale=f32")
PER_TOKEN = QuantSpec.parse("int4 sym block=(1,-1) scale=f32 dynamic")
PER_ROW = QuantSpec.parse("int4 sym block=(1,-1) scale=f32")


def decibels(error: float) -> float:
    return -10 * math.log10(error)


def hadamard(size: int, seed: int = 0) -> Tensor:
    """Randomised Sylvester matrix, float64."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64), matrix)
    signs = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
    return signs[:, None] * matrix / math.sqrt(size)


def correlated(rows: int, channels: int, rank: int, seed: int) -> Tensor:
    signal = noise(rows, rank, seed=seed) @ noise(rank, channels, seed=seed + 1)
    return signal + 0.3 * noise(rows, channels, seed=seed + 2)


# -- Karhunen-Loeve ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_karhunen_loeve_rotation_makes_all_channels_equally_strong_and_helps(seed: int) -> None:
    x, weight = correlated(512, 128, 8, seed), noise(64, 128, seed=seed + 9)
    mixing = hadamard(128, seed)
    rotation = karhunen_loeve(x.double().T @ x.double() / len(x), Dense(mixing))
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(128, dtype=torch.float64), atol=1e-12, rtol=0)
    strength = (x.double() @ rotation).square().mean(0)
    assert strength.std() / strength.mean() < 1e-6
    raw = (x.double() @ mixing).square().mean(0)
    assert raw.std() / raw.mean() > 0.2
    plain = layer_error(x, weight, PER_TENSOR, None, mixing)
    found = layer_error(x, weight, PER_TENSOR, None, rotation)
    assert decibels(found) > decibels(plain) + 0.5


def test_the_karhunen_loeve_rotation_of_a_rank_deficient_moment_is_orthogonal() -> None:
    row = noise(1, 16).double()
    rotation = karhunen_loeve(row.T @ row, Dense(hadamard(16)))
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(16, dtype=torch.float64), atol=1e-12, rtol=0)


# -- outlier-aware ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([(16, 4), (24, 8), (18, 6), (7, 7), (10, 5)]), st.integers(0, 100))
def test_the_outlier_aware_rotation_is_orthogonal_and_never_raises_the_spread_of_its_blocks(
    sizes: tuple[int, int], seed: int
) -> None:
    channels, size = sizes
    x = noise(40, channels, seed=seed).double()
    x[:, seed % channels] *= 20
    rotation = block_rotation(x, size, 16, seed)
    matrix = matrix_of(rotation, channels)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(channels, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(rotation.times(x), x @ matrix)
    first = rotation.factors[0].times(x)
    assert first.max() - first.min() <= x.max() - x.min()


def test_the_outlier_aware_rotation_spreads_a_strong_channel() -> None:
    x = noise(200, 64)
    x[:, 3] *= 30
    assert block_rotation(x, 16, 64, 0).times(x).abs().max() < x.abs().max() / 2


def test_the_first_row_of_a_turn_is_uniform() -> None:
    turn = uniform_first_row(12, torch.Generator().manual_seed(3))
    torch.testing.assert_close(turn[0], torch.full((12,), 12**-0.5, dtype=torch.float64))


def test_channels_are_dealt_to_and_fro() -> None:
    peaks = torch.tensor([8.0, 7, 6, 5, 4, 3, 2, 1])
    assert zigzag(peaks, 2).tolist() == [0, 3, 4, 7, 1, 2, 5, 6]


def test_block_sizes_divide() -> None:
    assert [divisor_near(channels, 128) for channels in (4096, 300, 131, 90)] == [128, 100, 131, 90]


def test_fluctuation_is_the_largest_magnitude_over_the_median() -> None:
    assert fluctuation(torch.tensor([1.0, 2, 20])) == 10
    assert fluctuation(torch.zeros(4)) == 1
    assert fluctuation(torch.tensor([0.0, 0, 1])) == math.inf


# -- normal numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "step", "error"),
    [
        (2, 1.596, 0.3634),
        (3, 1.224, 0.1902),
        (4, 0.9957, 0.1188),
        (7, 0.6508, 0.0469),
        (8, 0.5860, 0.0374),
        (15, 0.3534, 0.0129),
        (16, 0.3352, 0.0115),
    ],
)
def test_the_best_steps_for_normal_numbers_are_the_published_ones(levels: int, step: float, error: float) -> None:
    values = torch.arange(levels, dtype=torch.float64) - (levels - 1) / 2
    assert normal_step(values) == pytest.approx(step, abs=6e-4)
    assert normal_error(values, step) == pytest.approx(error, abs=6e-5)


@pytest.mark.parametrize("name", ["int2", "int3", "int4", "int8", "fp4e2m1", "fp8e4m3"])
def test_the_closed_form_error_is_what_rounding_does(name: str) -> None:
    number = parse_format(name)
    step = normal_step(number.grid().values)
    z = noise(200_000).double()
    measured = float((number.round(z / step) * step - z).square().mean())
    assert normal_error(number.grid().values, step) == pytest.approx(measured, rel=0.03)
    assert all(
        normal_error(number.grid().values, step) <= normal_error(number.grid().values, step * by) + 1e-9
        for by in (0.8, 0.95, 1.05, 1.25)
    )


# -- scales and rotations, chosen by error ----------------------------------------------------------------------------

METHODS = [AdaptiveRotation(), QuantFace(), QuantVggt(), RobuQ(), SmoothFused(), ViditQ()]


def site(x: Tensor, weight: Tensor, spec: QuantSpec = PER_TOKEN, weight_spec: QuantSpec | None = PER_ROW) -> TurnSite:
    return TurnSite("x", x, (Reader(weight, weight_spec),), spec, seed=5)


def strong_channels(seed: int) -> TurnSite:
    """Independent channels, four of them 30 times as large."""
    x = noise(512, 128, seed=seed)
    x[:, :4] *= 30
    return site(x, noise(64, 128, seed=seed + 1) / 11)


def strange_tokens(seed: int) -> TurnSite:
    """Correlated channels, every 128th token 8 times as large; one range for all."""
    x = noise(1024, 4, seed=seed) @ noise(4, 128, seed=seed + 1) + 0.1 * noise(1024, 128, seed=seed + 2)
    x[::128] *= 8
    return site(x, noise(64, 128, seed=seed + 3) / 11, QuantSpec.parse(f"{PER_TENSOR} dynamic"), None)


def gain(problem: TurnSite, candidates: Sequence[Candidate]) -> float:
    """Decibels over the plain Hadamard rotation."""
    best = min(problem.error(candidate.factor) for candidate in candidates)
    return decibels(best) - decibels(problem.error(problem.turn))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_candidate_keeps_the_products(method: TurnMethod) -> None:
    x, weight = noise(40, 24).double(), noise(7, 24, seed=1).double()
    x[:, 3], weight[:, 5], x[:, 9] = 0, 0, 1e4
    for candidate in method.candidates(site(x.float(), weight.float())):
        factor = candidate.factor
        product = factor.times(x) @ factor.contrary(weight).T
        torch.testing.assert_close(product, x @ weight.T, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_a_rotation_behind_a_scale_is_best_for_strong_channels(seed: int) -> None:
    problem = strong_channels(seed)
    fused = SmoothFused().candidates(problem)[0].factor
    assert isinstance(fused, Chain)
    scaled, turned, both = (decibels(problem.error(f)) for f in (fused.factors[0], problem.turn, fused))
    assert both > max(scaled, turned) + 3
    assert gain(problem, ViditQ().candidates(problem)) >= 3
    assert turned > decibels(problem.error(Chain())) + 3


@pytest.mark.parametrize("seed", range(4))
def test_a_scale_behind_a_rotation_helps_correlated_channels(seed: int) -> None:
    problem = strange_tokens(seed)
    scaled = [candidate for alpha in (0.3, 0.5, 0.7) for candidate in QuantVggt(alpha=alpha).candidates(problem)]
    assert gain(problem, scaled) > 0.5
    assert gain(problem, QuantFace().candidates(problem)) > 0.5


def test_the_adaptive_rotation_is_never_worse_than_either_of_its_rotations() -> None:
    problem = strong_channels(3)
    mild, aware = AdaptiveRotation().candidates(problem)
    chosen = judged(problem, [mild, aware])
    assert chosen.error <= min(problem.error(mild.factor), problem.error(aware.factor))


def test_the_best_of_several_methods_is_as_good_as_each() -> None:
    problem = strange_tokens(1)
    least = judged(problem, Turn("quantface|adaptive_rotation").candidates(problem)).error
    for method in (QuantFace(), AdaptiveRotation()):
        assert least <= judged(problem, method.candidates(problem)).error
    with pytest.raises(SpecError, match="quantfaces"):
        Turn("quantfaces")


def test_without_measuring_the_fluctuation_chooses_the_rotation() -> None:
    strong, mild = strong_channels(3), site(noise(64, 128), noise(8, 128))
    fixed = AdaptiveRotation(measure=False)
    assert [candidate.label for candidate in fixed.candidates(strong)] == ["turned by outliers"]
    assert [candidate.label for candidate in fixed.candidates(mild)] == ["turned by Hadamard"]


def test_the_winner_is_never_worse_than_nothing() -> None:
    problem = site(noise(64, 16), noise(8, 16, seed=1))
    bad = Candidate("bad", Diagonal(torch.logspace(-3, 3, 16, dtype=torch.float64)))
    verdict = judged(problem, [bad])
    assert verdict.best.label == "as it is"
    assert verdict.error == verdict.without
    assert judged(problem, [bad], with_identity=False).best is bad


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rotated_tokens_are_normal_and_the_step_for_normal_numbers_suits_them(bits: int) -> None:
    # Squares of normal numbers, most of them small: a gamma distribution with a heavy tail.
    x = noise(64, 1024).square() * (noise(64, 1024, seed=1) > 0.5)
    x[:, ::97] *= 8
    turned = site(x, noise(4, 1024)).turn.times(x)
    unit = turned / turned.square().mean(1, keepdim=True).sqrt()
    levels = torch.arange(2**bits, dtype=torch.float64) - (2**bits - 1) / 2
    step = normal_step(levels)

    def sqnr(step: float | Tensor) -> float:
        rounded = ((unit / step - 0.5).round() + 0.5).clamp(float(levels[0]), float(levels[-1])) * step
        return 10 * math.log10(float(unit.square().sum() / (rounded - unit).square().sum()))

    place = unit[0].double().sort().values
    expected = (1 + torch.erf(place / math.sqrt(2))) / 2
    assert float((expected - (torch.arange(1024) + 0.5) / 1024).abs().max()) < 0.05
    assert sqnr(step) > {2: 8.5, 3: 13.5, 4: 18.5}[bits]
    if bits == 2:
        assert sqnr(step) > sqnr(unit.abs().amax(1, keepdim=True) / float(levels[-1])) + 5


# -- in graphs --------------------------------------------------------------------------------------------------------

ASSIGN = "assign{weight=int4 sym channel scale=f32, activation=int4 sym token scale=f32 dynamic}"


def rewritten(program: Program, data: Sequence[Sequence[Tensor]], *passes: str) -> tuple[Program, list[str]]:
    """The program after the passes, which keep their promises, and what they said."""
    lines: list[str] = []
    context = Context(load_target("simulation", backends()), log=lines.append)
    steps = [parse_pass(text, catalogue()) for text in passes]
    return run_passes(program, steps, context, data, sample=data[0] if data else None)[0], lines


def counts(program: Program) -> Counter[str]:
    return Counter(program.op(node) for node in program.nodes)


def test_the_symmetries_of_a_state_space_model_are_the_known_ones() -> None:
    found = symmetries(canonical("mamba"))
    stream, rank = found.orthogonal
    assert [(group.size, len(group.writers), len(group.readers)) for group in (stream, rank)] == [(16, 2, 2), (4, 1, 1)]
    # Nothing turns the states or the inner channels, which decay and are gated one by one; scales pass.
    exponents = {tuple(sorted(site.exponent for site in group.sites)) for group in found.scales if group.size == 4}
    assert exponents == {(-1, 1), (1, 1)}


def test_a_scale_of_the_states_of_a_scan_changes_nothing() -> None:
    program = canonical("mamba")
    scaled = program.copy()
    states = next(group for group in symmetries(scaled).scales if {site.exponent for site in group.sites} == {-1, 1})
    surgery.scale(scaled, states, noise(4).abs() + 0.5, "test")
    assert scaled.edits > program.edits
    assert difference(program, scaled, batches("mamba")[0]) < 1e-12


def test_a_data_made_rotation_folds_into_the_stream_of_a_state_space_model() -> None:
    program = canonical("mamba")
    embedding = next(node for node in program.param_nodes if "embedding" in node.name)
    weight = program.param(embedding).clone()
    weight[:, 3] *= 50
    program.set_param(embedding, weight)
    turned, lines = rewritten(program, batches("mamba"), ASSIGN, "klt{values=false}")
    assert any("rotated 16 coordinates of 2 writers and 2 readers" in line for line in lines)
    assert counts(turned) == counts(program)
    spread = turned.param(turned.node(embedding.name)).abs().amax(0)
    assert spread.max() < 3 * spread.min() < weight.abs().amax(0).max()


def test_a_scale_before_a_rotation_goes_into_what_writes_the_value() -> None:
    program, data = canonical("tied llama"), batches("tied llama")
    plain = counts(program)
    turned = counts(rewritten(program, data, ASSIGN, "smooth_fused{guard=false}")[0])
    assert turned["qc.hadamard"] == 5
    # Only the mixed values of grouped heads, which share what writes them, are scaled online.
    assert turned["aten.mul.Tensor"] - plain["aten.mul.Tensor"] == 1


def test_values_read_by_several_layers_are_turned_once() -> None:
    turned = rewritten(canonical("tied llama"), [], ASSIGN, "robuq{guard=false}")[0]
    hadamards = [node for node in turned.nodes if turned.op(node) == "qc.hadamard"]
    assert sorted(len(node.users) for node in hadamards) == [1, 1, 1, 2, 3]


def test_scales_reach_through_opened_gates() -> None:
    program = canonical("mamba")
    opened = rewritten(program, batches("mamba"), ASSIGN, "open_gates")[0]
    reached = [
        {site.node.name for group in symmetries(graph).scales if group.writers for site in group.readers}
        for graph in (program, opened)
    ]
    assert reached[1] - reached[0] >= {"linear_3"}
    smoothed, lines = rewritten(opened, batches("mamba"), "smoothquant{guard=false}")
    assert counts(smoothed) == counts(opened)
    assert difference(program, smoothed, batches("mamba")[0]) < 1e-9, lines


def test_scales_for_normal_numbers_serve_turned_tokens_of_few_bits() -> None:
    model, data = seeded(nn.Linear(256, 32)), noise(64, 256).square()
    data[:, 7] *= 20
    errors = {}
    for steps in (("robuq{guard=false}",), ("robuq{guard=false}", "normal_scales")):
        passes = ["assign{weight=int8 sym channel scale=f32, activation=int2 sym token scale=f32 dynamic}", steps[0]]
        passes += ["apply_plan", *steps[1:], "nearest"]
        job = prepare(model, "simulation", calibration=[(data,)], recipe=Recipe.of("test", passes))
        errors[steps] = sqnr_db(model(data), evaluate(run_job(job)[1], [data])[0])
    assert errors["robuq{guard=false}", "normal_scales"] > errors["robuq{guard=false}",] + 3
