"""Branches that need codes: answers to what rounding leaves, residual channels, binary planes beside a narrow base."""

from __future__ import annotations

import math
from functools import cache
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qcompiler
from qcompiler.errors import InputError, PassError, SpecError
from qcompiler.ir import ops
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.job import prepare, run_job
from qcompiler.pass_text import parse_pass, pass_text
from qcompiler.passes.recipes import Recipe, catalogue
from qcompiler.passes.solve.branches import BRANCHES, MpqDmV2
from qcompiler.passes.solve.branches.arcquant import nearest, residual_count, two_stages
from qcompiler.passes.solve.branches.lorc import BranchSite, Lorc, Moments
from qcompiler.passes.solve.branches.mpq_dmv2 import Rows, planes_by_kurtosis, refit, residual_planes
from qcompiler.passes.solve.decompose import nearest_codes
from qcompiler.passes.solve.expression import Codes, Dense, bits_per_weight
from qcompiler.passes.solve.layers import Geometry, Layer
from qcompiler.passes.solve.lowbit.blocks import output_error
from qcompiler.passes.solve.lowbit.fits import sign
from qcompiler.pipeline import Context, Options, Pass, run_passes
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec
from tests.solve_tools import layer, noise, odd_layers, plain_layer, through_nodes

W3 = "assign{scheme=w3a16g32}"
W4A4 = "assign{weight=int4 sym channel scale=f32, activation=int4 sym token scale=f32 dynamic}"
NVFP4 = QuantSpec.parse("fp4e2m1 sym block=(1,16) scale=e4m3 block=(-1,-1) scale=f32 dynamic")
MXFP8 = QuantSpec.parse("fp8e4m3 sym block=(1,32) scale=e8m0 dynamic")


class Mixed(nn.Module):
    """A convolution with stride and border, then linears on inputs with outlier channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.first, self.last = nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.Linear(32, 48), nn.Linear(48, 8)
        with torch.no_grad():
            self.conv.weight[[2, 9]] *= 20

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x)).flatten(2).transpose(1, 2)
        return self.last(torch.relu(self.first(y)))


DATA = noise(24, 3, 8, 8)


@cache
def start(assign: str, target: str) -> tuple[Program, Context]:
    """The model with formats assigned, and what passes are told."""
    recipe = Recipe.of("test", [assign])
    job = prepare(Mixed().eval(), target, calibration=[(DATA,)], recipe=recipe)
    return run_job(job)[1], Context(job.target)


@cache
def solved(passes: tuple[str, ...], assign: str = W3, target: str = "simulation") -> Program:
    program, ctx = start(assign, target)
    steps = [parse_pass(text, catalogue()) for text in ("apply_plan", *passes)]
    return run_passes(program, steps, ctx, [(DATA,)], Options(check="off"))[0]


def share(program: Program) -> float:
    """Squared error of the results over the squared results."""
    found, wanted = evaluate(program, [DATA])[0], Mixed().eval()(DATA).detach()
    return float((found - wanted).square().sum() / wanted.square().sum())


def decibels(found: Tensor, wanted: Tensor) -> float:
    return 10 * math.log10(float(wanted.square().sum() / (found - wanted).square().sum()))


@pytest.mark.parametrize("method", BRANCHES)
def test_passes_print_and_parse_back(method: type[Pass]) -> None:
    assert parse_pass(pass_text(method()), BRANCHES) == method()


@pytest.mark.parametrize(
    "text", ["lorc{rank=0}", "lorc{bits=4}", "mpq_dmv2{share=0.6}", "mpq_dmv2{sweeps=-1}", "arcquant{align=0}"]
)
def test_bad_options_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_pass(text, BRANCHES)


# -- lorc -------------------------------------------------------------------------------------------------------------


def test_a_branch_answers_the_error_of_the_codes() -> None:
    plain = share(solved(("nearest",)))
    alone, weighted = (share(solved(("nearest", f"lorc{{rank=6, weighted={word}}}"))) for word in ("false", "true"))
    assert weighted < 0.7 * plain
    assert weighted < alone < plain


def test_a_branch_of_full_rank_answers_the_whole_error_of_the_weights() -> None:
    assert share(solved(("nearest", "lorc{rank=64}"))) < 1e-6


def test_factors_in_bytes_answer_nearly_as_much() -> None:
    halves, byte = (share(solved(("nearest", f"lorc{{rank=6, bits={bits}}}"))) for bits in (16, 8))
    assert byte == pytest.approx(halves, rel=0.05)


def test_a_branch_reads_what_is_not_quantized_and_the_layer_keeps_its_numbers() -> None:
    program = solved(("nearest", "lorc{rank=2}"), W4A4)
    node = next(node for node in program.nodes if program.op(node) == "aten.linear" and "assignment" in node.meta)
    branch = program.node(f"{node.name}_branch")
    assert isinstance(node.meta["assignment"], Assignment)
    assert cast(Node, node.args[0]).target is ops.dequantize
    assert cast(Node, branch.args[0]).target is not ops.dequantize


def test_answering_the_inputs_too_lowers_the_error_that_they_make() -> None:
    weights, both = (share(solved(("nearest", text), W4A4)) for text in ("lorc{rank=6}", "lorc{rank=6, inputs=true}"))
    assert both < weights < share(solved(("nearest",), W4A4))


def site(weight: Tensor, rounded: Tensor) -> BranchSite:
    node = Program().add_input("x", TensorType(torch.float32, (1,)))
    return BranchSite(node, Geometry(), weight.double(), rounded.double())


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_the_foreseen_change_of_the_error_is_the_real_one(rank: int, inputs: bool, seed: int) -> None:
    weight, x = noise(6, 9, seed=seed), noise(40, 9, seed=seed + 1)
    rounded, read = weight.mul(2).round() / 2, x.mul(2).round() / 2
    seen = Moments((x.T @ x).double() * 2 / 40, (read.T @ x).double() * 2 / 40, 40)
    chosen = site(weight, rounded)
    factors = Lorc(rank=rank, inputs=inputs).solve(chosen, seen)
    before = x @ weight.T - read @ rounded.T
    if factors is not None:
        product = factors[0].value() @ factors[1].value()
        after = before - x @ product.T
        real = float(after.square().sum() - before.square().sum()) * 2 / 40
        assert seen.change(chosen, product) == pytest.approx(real, rel=1e-3, abs=1e-4)
        assert real < 0


def test_weights_that_are_not_solved_are_an_error() -> None:
    with pytest.raises((InputError, PassError), match="not solved"):
        solved(("lorc",))


def test_without_the_float_program_there_is_nothing_to_answer() -> None:
    program = solved(("nearest",))
    with pytest.raises(InputError, match="not known"):
        Lorc().run(program, Context(prepare(Mixed().eval(), "simulation", inputs=(DATA,)).target))


@pytest.mark.parametrize("bits", [16, 8])
def test_branches_run_in_onnx_runtime(bits: int) -> None:
    recipe = Recipe.of("test", ["assign{scheme=w4a16g32}", "apply_plan", "nearest", f"lorc{{rank=4, bits={bits}}}"])
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8)).eval()
    data = noise(40, 64)
    wanted = evaluate(run_job(prepare(model, calibration=[(data,)], recipe=recipe))[1], [data])[0]
    artifact = qcompiler.compile(model, calibration=[(data,)], recipe=recipe)
    torch.testing.assert_close(cast(Tensor, artifact(data)), wanted, rtol=1e-4, atol=1e-4)
    assert artifact.report.layers[0].realised.startswith("MatMulNBits")


def test_convolutions_with_quantized_results_keep_their_kernel() -> None:
    program = solved(("calibrate", "nearest", "lorc{rank=2}"), "assign{scheme=w8a8}", target="onnxruntime")
    names = {node.name for node in program.nodes}
    assert "linear_branch" in names
    assert "conv2d_branch" not in names


def test_a_branch_behind_a_kernel_that_gives_codes_reads_them_and_runs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 8))
    recipe = Recipe.of("test", ["assign{scheme=w8a8}", "apply_plan", "calibrate", "nearest", "lorc{rank=4}"])
    artifact = qcompiler.compile(model.eval(), calibration=[(DATA,)], recipe=recipe)
    assert [node.name for node in artifact.program.nodes if node.name.endswith("_branch")] == ["linear_branch"]
    assert decibels(cast(Tensor, artifact(DATA)), model(DATA).detach()) > 40


# -- arcquant ---------------------------------------------------------------------------------------------------------


def outliers(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs with two kinds of outlier channels, sorted, and a weight."""
    x = noise(256, 512, seed=seed)
    x[:, :24] *= 20
    x[:, 24:64] *= 5
    return x[:, x.abs().amax(0).argsort()], noise(128, 512, seed=seed + 1) / 22


def test_two_stages_of_four_bits_are_finer_than_eight_bits() -> None:
    x, weight = outliers()
    block = x[:, -64:]
    assert decibels(two_stages(x, NVFP4, 64)[:, -64:], block) > decibels(nearest(block, MXFP8), block) + 5
    assert decibels(nearest(x, NVFP4)[:, -64:], block) < decibels(nearest(block, MXFP8), block) - 5
    del weight


def test_residual_channels_raise_the_output_towards_eight_bits() -> None:
    x, weight = outliers()
    wanted, rounded = x @ weight.T, nearest(weight, NVFP4)
    plain, arc = (decibels(read @ rounded.T, wanted) for read in (nearest(x, NVFP4), two_stages(x, NVFP4, 64)))
    full = decibels(nearest(x, MXFP8) @ rounded.T, wanted)
    assert plain + 1.5 < arc <= full + 0.5


def test_the_number_of_channels_follows_the_share_of_large_numbers() -> None:
    x = torch.full((4, 100), 0.01)
    x[:, :7] = 1
    assert residual_count(x, 1) == 7
    assert residual_count(x, 16) == 16
    assert residual_count(torch.zeros(4, 100), 16) == 0


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(0, 99))
def test_a_second_stage_never_hurts_a_value(extra: int, seed: int) -> None:
    x = noise(8, 40, seed=seed) * torch.exp(noise(40, seed=seed + 1))
    tail = slice(40 - extra, None)
    one, two = nearest(x, NVFP4), two_stages(x, NVFP4, extra)
    assert torch.equal(one[:, : 40 - extra], two[:, : 40 - extra])
    assert float((two - x)[:, tail].square().sum()) <= float((one - x)[:, tail].square().sum())


def test_equal_columns_get_equal_codes_and_the_float_function_stays() -> None:
    program = solved(("arcquant{align=16}",), "assign{scheme=nvfp4}")
    found = evaluate(program, [DATA], bypass_quantization=True)[0]
    torch.testing.assert_close(found, Mixed().eval()(DATA).detach(), rtol=1e-4, atol=1e-4)
    rounded = solved(("arcquant{align=16}", "nearest"), "assign{scheme=nvfp4}")
    name = next(name for name in rounded.params if name.endswith("first.weight.augmented"))
    codes = rounded.params[name]
    assert isinstance(codes, Tensor)
    assert codes.shape == (48, 48)
    assert torch.equal(codes[:, 16:32], codes[:, 32:])


def test_residual_channels_lower_the_error_of_a_model() -> None:
    assert share(solved(("arcquant{align=16}", "nearest"), "assign{scheme=nvfp4}")) < share(
        solved(("nearest",), "assign{scheme=nvfp4}")
    )


def test_static_values_stay() -> None:
    before, after = (solved(passes, "assign{scheme=w8a8}") for passes in ((), ("arcquant",)))
    assert after.edits == before.edits


def test_onnx_runtime_says_that_no_kernel_takes_residual_channels() -> None:
    model, data = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), noise(64, 32)
    data[:, 3] *= 30
    recipe = Recipe.of("test", ["assign{scheme=w8a8_dynamic}", "apply_plan", "arcquant{align=8}", "nearest"])
    wanted = evaluate(run_job(prepare(model, calibration=[(data,)], recipe=recipe))[1], [data])[0]
    artifact = qcompiler.compile(model, calibration=[(data,)], recipe=recipe)
    torch.testing.assert_close(cast(Tensor, artifact(data)), wanted, rtol=0, atol=0.05)
    assert any("residual channels" in one.reason for one in artifact.report.layers)


# -- mpq-dmv2 ---------------------------------------------------------------------------------------------------------


def heavy(bits: int, rows: int = 48, columns: int = 96, seed: int = 0) -> Layer:
    """Rows of Student's t with 3 degrees of freedom."""
    weight = noise(rows, columns, seed=seed) / noise(3, rows, columns, seed=seed + 2).square().mean(0).sqrt()
    return layer(weight, noise(400, columns, seed=seed + 1), QuantSpec.parse(f"int{bits} sym block=(1,-1) scale=f32"))


def error(found: Tensor, problem: Layer) -> float:
    return output_error(found - problem.weight, problem.inputs.second_moment[0])


@pytest.mark.parametrize("kind", odd_layers())
def test_bad_layers_are_never_worse_than_nearest_values(kind: str) -> None:
    problem = odd_layers()[kind]
    found = MpqDmV2().solve(problem)
    assert bool(found.value().isfinite().all())
    assert error(found.value(), problem) <= error(nearest_codes(problem).value(), problem)
    torch.testing.assert_close(through_nodes(found), found.value(), rtol=0, atol=0)


def test_solving_twice_gives_the_same() -> None:
    first, second = (MpqDmV2().solve(plain_layer()) for _ in range(2))
    assert torch.equal(first.value(), second.value())


def test_rows_with_heavy_tails_get_more_planes() -> None:
    weight = noise(20, 200)
    weight[3, 7], weight[11] = 30, weight[11].sign()
    count = planes_by_kurtosis(weight, 0.05)
    assert count[3] == 2
    assert count[11] == 0
    assert count.double().mean() == 1


def test_one_plane_takes_its_share_of_the_energy() -> None:
    left = noise(5, 40)
    plane, size = residual_planes(left, 1)
    assert torch.equal(plane[0], sign(left))
    rest = (left - size[0][:, None] * plane[0]).square().sum(1)
    expected = left.square().sum(1) - 40 * left.abs().mean(1).square()
    torch.testing.assert_close(rest, expected, rtol=1e-3, atol=1e-3)


def test_refitted_sizes_have_the_least_output_error() -> None:
    problem = heavy(3)
    moment = problem.inputs.second_moment[0]
    base = nearest_codes(layer(problem.weight, noise(4, 96), QuantSpec.parse("int2 sym block=(1,-1) scale=f32")))
    plane, size = residual_planes(problem.weight - base.value(), 1)

    def loss(codes: Codes, a: Tensor) -> float:
        return output_error(codes.value() + a[:, None] * plane[0] - problem.weight, moment)

    found, sizes = refit(problem.weight, base, plane, moment)
    least = loss(found, sizes[0])
    assert least < loss(base, size[0])
    assert all(least <= loss(found, sizes[0] * factor) for factor in (0.97, 1.03))


def test_planes_for_heavy_rows_beat_as_many_bits_in_the_grid() -> None:
    problems = [heavy(4, seed=seed) for seed in range(3)]
    gains = [error(nearest_codes(each).value(), each) / error(MpqDmV2().solve(each).value(), each) for each in problems]
    assert min(gains) >= 1
    assert sum(gains) / 3 > 1.05


def test_storage_counts_every_plane() -> None:
    problem = heavy(4, rows=40, columns=256)
    moment = problem.inputs.second_moment[0]
    count = planes_by_kurtosis(problem.weight, 0.1)
    found = MpqDmV2().fit(problem, moment, count)
    scales = 32 * 40 + 16 * int(count.sum()) + 2 * 40
    assert 256 * 40 * 4 + scales <= found.bits() <= 256 * 40 * 4 + scales + 200
    assert isinstance(found, Rows)
    assert bits_per_weight(found) < 4.3


def test_rows_return_to_their_places() -> None:
    parts = Rows((Dense(torch.zeros(2, 3)), Dense(torch.ones(1, 3))), torch.tensor([0, 2, 1]))
    assert parts.value()[:, 0].tolist() == [0, 1, 0]
    torch.testing.assert_close(through_nodes(parts), parts.value(), rtol=0, atol=0)


def test_a_model_of_planes_runs_and_branches_can_answer_it() -> None:
    planes = solved(("mpq_dmv2",), "assign{scheme=w4a16g32_sym}")
    assert planes.stage is Stage.QUANTIZED
    assert share(solved(("mpq_dmv2", "lorc{rank=4}"), "assign{scheme=w4a16g32_sym}")) < share(planes) < 0.2


# -- all together -----------------------------------------------------------------------------------------------------


def test_branches_work_in_half_precision() -> None:
    model, data = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 4)).half().eval(), noise(64, 32).half()
    texts = [W4A4, "svdquant{rank=2, grid=2}", "apply_plan", "arcquant{align=4}", "nearest", "lorc{rank=2}"]
    job = prepare(model, "simulation", calibration=[(data,)], recipe=Recipe.of("test", texts))
    found = evaluate(run_job(job)[1], [data])[0]
    assert found.dtype is torch.float16
    assert decibels(found.float(), model(data).detach().float()) > 15
