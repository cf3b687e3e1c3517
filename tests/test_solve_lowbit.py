"""Weights of one to two bits: fits, blocks that make up for each other, storage, and every method on bad layers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qcompiler
from qcompiler.errors import SpecError
from qcompiler.formats import NF4
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.pass_text import parse_pass, pass_text
from qcompiler.passes.recipes import Recipe
from qcompiler.passes.solve.decompose import nearest_codes
from qcompiler.passes.solve.expression import Codes, Dense, Expression, bits_per_weight
from qcompiler.passes.solve.layers import Layer, LayerSolver
from qcompiler.passes.solve.lowbit import LOWBIT, BiLlm, DbLlm, IrQlora, Pt2Llm, Ptq161, QuantDllm
from qcompiler.passes.solve.lowbit.billm import best_split, residual_fit, salient_columns
from qcompiler.passes.solve.lowbit.blocks import Block, CompensationName, column_by_column, output_error, solve_blocks
from qcompiler.passes.solve.lowbit.dbllm import dual_fit, initial_fit
from qcompiler.passes.solve.lowbit.fits import binary_fit, binary_value, pair_refit, sign
from qcompiler.passes.solve.lowbit.ir_qlora import best_shift, entropies
from qcompiler.passes.solve.lowbit.planes import Partition, Spread, halves, rounded, signs
from qcompiler.passes.solve.lowbit.pt2llm import align, alike, iterative_fit, refits, threshold_fit
from qcompiler.passes.solve.lowbit.ptq161 import initial_scales, refine
from qcompiler.passes.solve.lowbit.ptq161 import salient_columns as loud_columns
from qcompiler.passes.solve.lowbit.quant_dllm import ImportanceName, Plane, fit_planes, planes_per_block, rescale
from qcompiler.pipeline import Context, Pass
from qcompiler.spec import QuantSpec
from tests.solve_tools import error, layer, model_error, noise, odd_layers, plain_layer, prepared, through_nodes

SOLVERS = {method.name: cast(LayerSolver, method().solve) for method in LOWBIT}


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("kind", odd_layers())
def test_bad_layers_give_finite_weights_that_are_no_worse_than_nothing(name: str, kind: str) -> None:
    problem = odd_layers()[kind]
    found = SOLVERS[name](problem)
    value = found.value()
    assert value.shape == problem.weight.shape
    assert bool(value.isfinite().all())
    assert 0 < found.bits() < float("inf")
    if kind not in ("no inputs at all", "dead inputs", "one sample", "zero rows and columns"):
        assert float((value - problem.weight).square().sum()) <= float(problem.weight.square().sum()) * 1.01
    torch.testing.assert_close(through_nodes(found), value, rtol=0, atol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_solving_twice_gives_the_same(name: str) -> None:
    first, second = (SOLVERS[name](plain_layer()) for _ in range(2))
    assert torch.equal(first.value(), second.value())
    assert first.bits() == second.bits()


@pytest.mark.parametrize("name", SOLVERS)
def test_the_nodes_of_a_solution_compute_its_value(name: str) -> None:
    found = SOLVERS[name](plain_layer(columns=50))
    torch.testing.assert_close(through_nodes(found), found.value(), rtol=0, atol=0)


@pytest.mark.parametrize("method", LOWBIT)
def test_passes_print_and_parse_back(method: type[Pass]) -> None:
    assert parse_pass(pass_text(method()), LOWBIT) == method()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.grouped = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, groups=4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.grouped(torch.relu(self.conv(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def start() -> tuple[Program, Context]:
    return prepared(Model(), noise(8, 2, 6, 6), "w2a16")


@pytest.mark.parametrize("method", LOWBIT)
def test_every_method_solves_a_model(method: type[Pass], start: tuple[Program, Context]) -> None:
    assert model_error(Model().eval(), noise(8, 2, 6, 6), start, method()) < 0.6


@pytest.mark.parametrize("text", ["billm", "kmeans_vq{entries=300}"])
def test_weights_in_parts_run_in_onnx_runtime(text: str) -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 8)).eval(), noise(16, 40)
    recipe = Recipe.of("test", ["assign{scheme=w4a16g32}", "apply_plan", text])
    wanted = evaluate(run_job(prepare(model, calibration=[(data,)], recipe=recipe))[1], [data])[0]
    found = qcompiler.compile(model, calibration=[(data,)], recipe=recipe)(data)
    torch.testing.assert_close(cast(Tensor, found), wanted, rtol=1e-4, atol=1e-5)


def test_a_method_without_data_needs_none() -> None:
    recipe = Recipe.of("test", ["assign{scheme=nf4}", "apply_plan", "ir_qlora{count=3}"])
    model = nn.Linear(64, 5).eval()
    data = noise(50, 64)
    program = run_job(prepare(model, "simulation", inputs=(data,), recipe=recipe))[1]
    assert relative(evaluate(program, [data])[0], model(data).detach()) < 0.03


# -- storage ----------------------------------------------------------------------------------------------------------


def wide(spec: str, rows: int = 256, columns: int = 512) -> Layer:
    return layer(noise(rows, columns), noise(600, columns, seed=1), QuantSpec.parse(spec))


GROUPS = "uint2 asym block=(1,128) scale=f32"


@pytest.mark.parametrize(
    ("solver", "problem", "low", "high"),
    [
        (BiLlm(), wide(GROUPS), 2.5, 3.0),
        (Pt2Llm(reorder=False), wide(GROUPS), 2.25, 2.252),
        (DbLlm(), wide("uint2 asym block=(1,64) scale=f32"), 2.5, 2.51),
        (QuantDllm(share=0.0), wide(GROUPS), 2.25 + 32 / 256, 2.25 + 32 / 256 + 0.002),
        (IrQlora(1), wide("nf4 sym block=(1,64) scale=f32"), 4.25, 4.27),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_bits_per_weight_are_those_of_the_layout(solver: object, problem: Layer, low: float, high: float) -> None:
    assert low <= bits_per_weight(cast(BiLlm, solver).solve(problem)) <= high


def ptq161_bits(rows: int, columns: int) -> float:
    """Two slabs, a scale and a zero point per row, two numbers per row, one per column, the order of columns."""
    salient = columns // 5
    codes = rows * (4 * salient + columns - salient)
    return codes + rows * (16 + 4) + 2 * 16 * rows + 16 * (columns - salient) + 16 * columns + 32


def test_ptq161_stores_what_its_layout_says() -> None:
    found = Ptq161(sweeps=0).solve(plain_layer(rows=40, columns=100))
    assert found.bits() == ptq161_bits(40, 100)
    assert 1.61 <= ptq161_bits(4096, 4096) / 4096**2 <= 1.62


def test_spread_numbers_and_partitions_count_what_they_store() -> None:
    part = Spread(Dense(torch.ones(4, 2).half()), torch.tensor([0, 0, 0, 1]))
    assert part.bits() == 4 * 2 * 16 + 2 * 16
    plane = signs(noise(4, 4))
    kinds = (part, part)
    assert Partition(plane, noise(4, 4) > 0, kinds, kinds).bits() == 16 + 32 + 16 + 4 * part.bits()


@given(st.integers(0, 999), st.sampled_from([1e-20, 1e-6, 1.0, 1e6, 1e30]))
@settings(deadline=None, max_examples=20)
def test_halves_keep_eleven_bits_at_any_magnitude(seed: int, magnitude: float) -> None:
    numbers = (noise(30, seed=seed).clamp(0.1, 3)) * magnitude
    torch.testing.assert_close(rounded(numbers), numbers, rtol=2**-10, atol=0)
    torch.testing.assert_close(through_nodes(halves(numbers[None])), rounded(numbers[None]), rtol=0, atol=0)


# -- fits -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_no_other_scale_fits_signs_better(seed: int) -> None:
    weight = noise(5, 20, seed=seed)
    mask = noise(5, 20, seed=seed + 1) > 0
    scale, shift = binary_fit(weight, mask)
    plane = sign(weight - shift[:, None])
    slope = ((weight - shift[:, None] - scale[:, None] * plane) * plane * mask).sum(1)
    torch.testing.assert_close(slope, torch.zeros(5), rtol=0, atol=1e-4)


def test_an_empty_kind_is_zero() -> None:
    scale, shift = binary_fit(noise(3, 8), torch.zeros(3, 8, dtype=torch.bool))
    assert scale.tolist() == shift.tolist() == [0.0] * 3


@given(st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_pair_refits_are_least_squares(seed: int) -> None:
    weight, first, second, inputs = (noise(4, 12, seed=seed + part) for part in range(4))
    moment = inputs.T @ inputs + torch.eye(12)
    a, b = pair_refit(weight, first, second, moment)
    for row in range(4):
        basis = torch.stack([first[row], second[row]])
        exact = torch.linalg.solve(basis @ moment @ basis.T, basis @ moment @ weight[row])
        torch.testing.assert_close(torch.stack([a[row], b[row]]), exact, rtol=1e-3, atol=1e-4)


def test_two_planes_beat_one() -> None:
    weight = noise(16, 64)
    everywhere = torch.ones_like(weight, dtype=torch.bool)
    one = binary_value(weight, *binary_fit(weight, everywhere))
    assert relative(residual_fit(weight).value(), weight) < 0.4 * relative(one, weight)


def test_splitting_large_from_small_is_better_than_one_scale() -> None:
    weight = noise(16, 128) ** 3
    everywhere = torch.ones_like(weight, dtype=torch.bool)
    one = binary_value(weight, *binary_fit(weight, everywhere))
    assert relative(best_split(weight).value(), weight) < 0.7 * relative(one, weight)


def test_salience_ranks_by_weight_and_pivot() -> None:
    weight, pivots = torch.ones(4, 12), torch.ones(12)
    weight[:, 3] = torch.tensor([10.0, -10, 5, -5])
    assert bool(salient_columns(weight + 0.01 * noise(4, 12), pivots)[3])
    pivots[8] = 1e6
    assert bool(salient_columns(weight + 0.01 * noise(4, 12), pivots)[8])


@given(st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_every_ternary_refit_lowers_the_error(seed: int) -> None:
    weight = noise(6, 40, seed=seed) + 0.3 * noise(6, 1, seed=seed + 1)
    start = threshold_fit(weight)
    errors = [relative(fit.value(), weight) for fit in (start, *refits(start, weight))]
    assert all(after <= before + 1e-6 for before, after in pairwise(errors))
    assert errors[-1] < errors[0]


def test_alignment_lowers_the_output_error_and_keeps_the_codes() -> None:
    problem = plain_layer()
    moment = problem.inputs.second_moment[0]
    before = iterative_fit(problem.weight)
    after = align(before, problem.weight, moment)
    assert torch.equal(after.codes, before.codes)
    errors = [output_error(fit.value() - problem.weight, moment) for fit in (before, after)]
    assert errors[1] < 0.98 * errors[0]


def test_alike_columns_stand_together() -> None:
    patterns = noise(16, 2)
    columns = torch.tensor([0, 1] * 8)
    order = alike(patterns[:, columns] + 0.01 * noise(16, 16, seed=1), 8)
    assert sorted(order.tolist()) == list(range(16))
    assert len(set(columns[order[:8]].tolist())) == len(set(columns[order[8:]].tolist())) == 1


def test_dual_planes_beat_the_plain_grid_and_are_mostly_empty() -> None:
    weight = noise(64, 64)
    fit = dual_fit(weight)
    assert relative(fit.value(), weight) < 0.7 * relative(initial_fit(weight).value(), weight)
    assert float(torch.stack(fit.planes).mean()) < 0.46


def test_a_mirrored_group_is_the_mirrored_fit() -> None:
    weight = noise(8, 32)
    torch.testing.assert_close(dual_fit(-weight).value(), -dual_fit(weight).value())


@given(st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_rescaling_never_raises_the_weighted_error(seed: int) -> None:
    weight, weights = noise(7, 9, seed=seed), noise(7, 9, seed=seed + 1).square() + 0.1
    plane = Plane(sign(weight), torch.ones(7), torch.ones(9))
    errors = [
        float((weights * (fit.value() - weight).square()).sum()) for fit in (plane, rescale(weight, plane, weights))
    ]
    assert errors[1] <= errors[0] * (1 + 1e-6)


def test_more_planes_come_closer() -> None:
    weight, ones = noise(32, 32), torch.ones(32, 32)
    errors = [relative(fit_planes(weight, count, ones).value(), weight) for count in (1, 2, 3)]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.5 * errors[1]


def test_planes_move_from_the_least_to_the_most_important_blocks() -> None:
    weight = torch.ones(2, 20) * torch.arange(10).repeat_interleave(2)
    assert planes_per_block(weight, torch.eye(20), 2, 2, 0.2) == [1, 1, 2, 2, 2, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("importance", ["inputs", "salient", "none"])
def test_blocks_of_different_planes_lie_in_their_places(importance: str) -> None:
    problem = plain_layer(columns=90)
    found = QuantDllm(3, importance, 0.4, "none").solve(problem)  # pyright: ignore[reportArgumentType]
    assert relative(found.value(), problem.weight) < 0.2


def test_scales_refined_on_inputs_lower_the_error_of_the_output() -> None:
    problem = plain_layer(rows=24)
    assert error(Ptq161().solve(problem), problem) < 0.9 * error(Ptq161(sweeps=0).solve(problem), problem)


def test_refined_scales_of_a_scaled_plane_are_exact() -> None:
    plane, column = sign(noise(10, 16)), noise(16, seed=2).abs() + 0.5
    weight = (plane * torch.arange(1, 11)[:, None] + 0.5) * column
    inputs = noise(200, 16, seed=3)
    moment = inputs.T @ inputs
    scales = refine(plane, replace(initial_scales(weight)[1], column=torch.ones(16)), moment, weight @ moment, 200)
    assert relative(scales.value(plane), weight) < 1e-3


def test_loud_inputs_get_four_bits() -> None:
    inputs = noise(50, 20)
    inputs[7, [3, 11]] = 100.0
    assert loud_columns(layer(noise(4, 20), inputs), 0.1).nonzero().flatten().tolist() == [3, 11]


def test_entropy_counts_codes() -> None:
    codes = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1], [5, 5, 5, 5]])
    assert entropies(codes, 8).tolist() == [2.0, 1.0, 0.0]


def test_the_calibrated_shift_carries_more_information() -> None:
    groups = noise(300, 64) + 0.15 * noise(300, 1, seed=1)
    grid = NF4.grid().values.float()

    def mean_entropy(shift: Tensor) -> float:
        moved = groups - shift[:, None]
        codes = torch.bucketize(moved / moved.abs().amax(1, keepdim=True), (grid[1:] + grid[:-1]) / 2)
        return float(entropies(codes, 16).mean())

    plain = mean_entropy(groups.median(1).values)
    assert mean_entropy(best_shift(groups, NF4, 25)) > plain + 0.04
    assert mean_entropy(best_shift(groups, NF4, 0)) == pytest.approx(plain, abs=1e-3)


def test_integer_ranges_are_stretched_within_their_spec() -> None:
    spec = QuantSpec.parse("uint4 asym block=(1,64) scale=f16")
    problem = layer(noise(40, 128), noise(4, 128, seed=1), spec)
    plain, found = (cast(Codes, IrQlora(count).solve(problem)) for count in (0, 20))
    assert found.spec == spec
    assert (
        entropies(found.codes.reshape(-1, 64).long(), 16).mean()
        > entropies(plain.codes.reshape(-1, 64).long(), 16).mean()
    )


def test_groups_over_rows_are_refused() -> None:
    with pytest.raises(SpecError, match="groups of one row"):
        IrQlora().solve(layer(noise(4, 8), noise(4, 8), QuantSpec.parse("nf4 sym block=(-1,-1) scale=f32")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BiLlm(cast(CompensationName, "luck")), "no compensation 'luck'"),
        (lambda: QuantDllm(importance=cast(ImportanceName, "luck")), "no importance 'luck'"),
        (lambda: QuantDllm(planes=0), "0 planes"),
        (lambda: Ptq161(share=1.0), r"a share of 1\.0"),
        (lambda: IrQlora(-1), "-1 candidates"),
    ],
)
def test_options_are_checked(make: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        cast("type[BiLlm]", make)()


# -- blocks -----------------------------------------------------------------------------------------------------------


class Nearest:
    """Half-integers."""

    def __init__(self, weight: Tensor) -> None:
        self.latent = weight

    def value(self) -> Tensor:
        return (self.latent * 2).round() / 2


def test_a_block_is_fitted_at_the_best_value_given_those_before() -> None:
    problem = plain_layer(columns=12, tokens=200)
    moment = problem.inputs.second_moment[0]
    solution = solve_blocks(problem.weight, moment, 4, lambda block: Nearest(block.weight))
    value = torch.cat([part.value() for part in solution.parts], 1).double()
    damped = moment.double() + 0.01 * moment.diagonal().mean() * torch.eye(12)
    done, free = slice(0, 8), slice(8, 12)
    wrong = problem.weight[:, done].double() - value[:, done]
    best = problem.weight[:, free] + wrong @ damped[done, free] @ torch.linalg.inv(damped[free, free])
    torch.testing.assert_close(solution.parts[2].latent.double(), best, rtol=1e-3, atol=1e-4)


def test_diagonal_compensation_is_that_of_the_cholesky_factor() -> None:
    problem = plain_layer(columns=12, tokens=200)
    moment = problem.inputs.second_moment[0]
    solution = solve_blocks(problem.weight, moment, 4, lambda block: Nearest(block.weight), "diag")
    damped = moment.double() + 0.01 * moment.diagonal().mean() * torch.eye(12)
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    latent = problem.weight.double().clone()
    for number, start in enumerate(range(0, 12, 4)):
        here = slice(start, start + 4)
        torch.testing.assert_close(solution.parts[number].latent.double(), latent[:, here], rtol=1e-3, atol=1e-4)
        wrong = latent[:, here] - solution.parts[number].value()
        latent[:, start + 4 :] -= wrong / factor.diagonal()[here] @ factor[here, start + 4 :]


def test_without_compensation_blocks_stand_alone() -> None:
    problem = plain_layer()
    solution = solve_blocks(problem.weight, problem.inputs.second_moment[0], 16, lambda b: Nearest(b.weight), "none")
    assert torch.equal(torch.cat([part.latent for part in solution.parts], 1), problem.weight)


def test_an_order_of_columns_only_moves_them() -> None:
    problem = plain_layer(columns=24)
    moment, order = problem.inputs.second_moment[0], torch.randperm(24, generator=torch.Generator().manual_seed(1))
    moved = layer(problem.weight[:, order], next(iter(problem.inputs.rows()))[0][:, order])
    solve = lambda block: Nearest(block.weight)  # noqa: E731
    first = solve_blocks(problem.weight, moment, 8, solve, order=order)
    second = solve_blocks(moved.weight, moved.inputs.second_moment[0], 8, solve)
    for one, other in zip(first.parts, second.parts, strict=True):
        torch.testing.assert_close(one.latent, other.latent, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [Pt2Llm, DbLlm])
def test_codes_with_feedback_inside_a_block_lower_the_error_of_the_output(method: type[Pt2Llm]) -> None:
    problem = plain_layer(rows=32, columns=64, tokens=400)
    assert error(method(feedback=True).solve(problem), problem) < 0.95 * error(
        method(feedback=False).solve(problem), problem
    )


def test_columns_of_a_block_make_up_for_each_other() -> None:
    problem = plain_layer(columns=12, tokens=200)
    moment = problem.inputs.second_moment[0]
    value = column_by_column(Block(problem.weight, moment, torch.ones(12)), lambda column: column.round())
    last = problem.weight[:, 11:] + (problem.weight - value)[:, :11] @ moment[:11, 11:] / moment[11, 11]
    assert torch.equal(value[:, 11:], last.round())


@pytest.mark.parametrize("method", [BiLlm, Pt2Llm, DbLlm, QuantDllm])
def test_compensation_lowers_the_error_of_the_output(method: type[BiLlm]) -> None:
    problem = plain_layer(rows=32, columns=64, tokens=400)
    assert error(method(compensation="exact").solve(problem), problem) < 0.9 * error(
        method(compensation="none").solve(problem), problem
    )


def test_two_bits_of_planes_beat_two_bit_integers() -> None:
    problem = plain_layer(rows=32, columns=64, tokens=400)
    plain = error(nearest_codes(problem), problem)
    solvers: list[Expression] = [BiLlm().solve(problem), Pt2Llm().solve(problem), DbLlm().solve(problem)]
    assert all(error(found, problem) < 0.8 * plain for found in solvers)


def test_blocks_know_what_an_error_costs() -> None:
    seen: list[Block] = []

    def fit(block: Block) -> Nearest:
        seen.append(block)
        return Nearest(block.weight)

    problem = plain_layer(columns=12, tokens=200)
    moment = problem.inputs.second_moment[0]
    solve_blocks(problem.weight, moment, 6, fit)
    damped = moment.double() + 0.01 * moment.diagonal().mean() * torch.eye(12)
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True).diagonal()
    torch.testing.assert_close(torch.cat([b.pivots for b in seen]).double(), 1 / factor**2, rtol=1e-3, atol=1e-5)
    assert [block.number for block in seen] == [0, 1]
