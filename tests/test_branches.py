"""Branches and split channels before quantization: the function stays, the error falls, the names stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.errors import SpecError
from qcompiler.ir import ops
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType
from qcompiler.job import prepare, run_job
from qcompiler.low_rank import low_rank
from qcompiler.pass_text import parse_pass, pass_text
from qcompiler.passes.recipes import Recipe, catalogue
from qcompiler.passes.transform.branches import METHODS, SplitChannels, SvdQuant
from qcompiler.passes.transform.branches.driver import BranchLayer, BranchPort, Split, in_half
from qcompiler.passes.transform.branches.port_error import PortError
from qcompiler.passes.transform.branches.split_channels import expanded, read, split
from qcompiler.passes.transform.branches.svdquant import candidate_scales
from qcompiler.pipeline import Context, Options, Pass, difference, run_passes
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec
from tests.solve_tools import noise

W4A4 = "assign{weight=int4 sym channel scale=f32, activation=int4 sym token scale=f32 dynamic}"
GROUPS = QuantSpec.parse("int4 sym block=(1,64) scale=f32")
GROUPS_AT_RUN_TIME = QuantSpec.parse("int4 sym block=(1,64) scale=f32 dynamic")
ROWS = QuantSpec.parse("int4 sym block=(1,-1) scale=f32")
TOKENS = QuantSpec.parse("int4 sym block=(1,-1) scale=f32 dynamic")


class Gated(nn.Module):
    """A gated MLP behind a norm with outlier channels; the function's results are what its last layer yields."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(32)
        self.gate, self.up, self.down = nn.Linear(32, 64), nn.Linear(32, 64), nn.Linear(64, 24)
        with torch.no_grad():
            self.norm.weight[[3, 10]] *= 25
            self.gate.weight[:, [5, 9]] *= 8

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.down(functional.gelu(self.gate(x)) * self.up(x))


class Convolutions(nn.Module):
    """Windows with stride, border and dilation, one without a bias, one in groups, two that read one value."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.Conv2d(6, 8, 1, stride=2, bias=False)
        self.grouped, self.last = nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 4, 2, dilation=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.first(x) + self.second(x))
        return self.last(self.grouped(y)), y.mean((2, 3))


class Tied(nn.Module):
    """A table that is looked up and multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.mix = nn.Embedding(40, 16), nn.Linear(16, 16)

    def forward(self, ids: Tensor) -> Tensor:
        return functional.linear(self.mix(self.table(ids)), self.table.weight)


MODELS: dict[str, tuple[type[nn.Module], Tensor]] = {
    "gated": (Gated, noise(40, 8, 32)),
    "convolutions": (Convolutions, noise(6, 6, 12, 12)),
    "tied": (Tied, torch.arange(40).reshape(5, 8)),
}


@cache
def start(name: str) -> tuple[Program, Context]:
    """A model with formats assigned, and what passes are told."""
    kind, data = MODELS[name]
    job = prepare(kind().eval(), "simulation", calibration=[(data,)], recipe=Recipe.of("test", [W4A4]))
    return run_job(job)[1], Context(job.target)


@cache
def after(name: str, passes: tuple[str, ...]) -> Program:
    """The model after passes; every one that promises to is checked to keep the function."""
    program, ctx = start(name)
    steps = [parse_pass(text, catalogue()) for text in passes]
    return run_passes(program, steps, ctx, [(MODELS[name][1],)], Options(check="each"))[0]


def decibels(found: Tensor, wanted: Tensor) -> float:
    return 10 * math.log10(float(wanted.square().sum() / (found - wanted).square().sum()))


def sqnr(name: str, *passes: str) -> float:
    kind, data = MODELS[name]
    found = evaluate(after(name, (*passes, "apply_plan", "nearest")), [data])[0]
    return decibels(found, kind().eval()(data).detach())


# -- low rank ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 10), st.booleans(), st.integers(0, 99))
def test_low_rank_leaves_the_energy_of_the_small_singular_values(
    rows: int, columns: int, rank: int, weighted: bool, seed: int
) -> None:
    matrix = noise(rows, columns, seed=seed).double()
    inputs = noise(30, columns, seed=seed + 1).double() * torch.exp(noise(columns, seed=seed + 2).double())
    left, right = low_rank(matrix, rank, inputs.T @ inputs if weighted else None)
    assert left.shape[1] == min(rank, rows, columns)
    seen = inputs if weighted else torch.eye(columns, dtype=torch.float64)
    error = float((seen @ (matrix - left @ right).T).square().sum())
    tail = torch.linalg.svdvals(seen @ matrix.T)[rank:].square().sum()
    assert error == pytest.approx(float(tail), rel=1e-8, abs=1e-8)


def test_factors_are_of_one_size() -> None:
    left, right = low_rank(noise(20, 30) * 1e4, 5)
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 1)])
def test_zeros_have_finite_factors(shape: tuple[int, int]) -> None:
    left, right = low_rank(torch.zeros(shape), 2, torch.zeros(shape[1], shape[1]))
    assert not (left @ right).any()


# -- the function stays -----------------------------------------------------------------------------------------------

OPTIONS = [
    "svdquant{rank=4, grid=3}",
    "svdquant{rank=4, grid=2, share=true, half=false}",
    "svdquant{rank=200, smooth=false}",
    "split_channels{share=0.2}",
    "split_channels{share=0.3, of=activation}",
]


@pytest.mark.parametrize("text", OPTIONS)
@pytest.mark.parametrize("name", MODELS)
def test_the_function_stays(name: str, text: str) -> None:
    before, found = start(name)[0], after(name, (text,))
    assert found.edits > before.edits or (name, text) == ("tied", OPTIONS[-1])
    assert difference(before, found, [MODELS[name][1]]) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_without_assigned_formats_and_without_data_the_function_stays(method: type[Pass]) -> None:
    recipe = Recipe.of("test", ["assign{scheme=w4a16}", method.name, "apply_plan"])
    job = prepare(Gated().eval(), "simulation", inputs=(noise(2, 3, 32),), recipe=recipe, options=Options(check="each"))
    run_job(job)


@pytest.mark.parametrize("method", METHODS)
def test_passes_print_and_parse_back(method: type[Pass]) -> None:
    assert parse_pass(pass_text(method()), METHODS) == method()


@pytest.mark.parametrize("text", ["svdquant{rank=0}", "svdquant{grid=0}", "split_channels{share=0}"])
def test_bad_options_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_pass(text, METHODS)


def test_splits_of_an_unknown_side_are_refused() -> None:
    with pytest.raises(SpecError, match="weight or activation"):
        parse_pass("split_channels{of=bias}", METHODS)


# -- svdquant ---------------------------------------------------------------------------------------------------------


def lone(
    weight: Tensor, x: Tensor | None, weight_spec: QuantSpec | None = ROWS, spec: QuantSpec | None = TOKENS
) -> PortError:
    """A port with one linear."""
    node = Program().add_input("x", TensorType(torch.float32, tuple(x.shape) if x is not None else (1,)))
    return PortError(BranchPort(node, (BranchLayer(node, weight.double(), weight_spec),), spec), x)


def outlier_layer(seed: int) -> tuple[Tensor, Tensor]:
    """Inputs with outlier channels and a weight with heavy columns."""
    x, weight = noise(512, 256, seed=seed), noise(256, 256, seed=seed + 100) / 16
    x[:, :4] *= 25
    weight[:, 10:16] *= 12
    return weight, x


def test_the_branch_beats_smoothing_and_what_it_leaves_falls_with_every_round() -> None:
    weight, x = outlier_layer(0)
    measured = lone(weight, x, GROUPS, GROUPS_AT_RUN_TIME)
    wanted = float((x @ weight.T).square().sum())

    def gain(error: float) -> float:
        return 10 * math.log10(wanted / error)

    def smoothed(scale: Tensor) -> float:
        return measured.error([weight * scale], lambda value: value / scale.float())

    scale = SvdQuant(rank=16, grid=5).scale(measured)
    assert scale is not None
    scaled = lone(weight * scale.float(), x / scale.float(), GROUPS, GROUPS_AT_RUN_TIME)
    once = SvdQuant(rank=16, iterations=0).best(scaled)
    often = SvdQuant(rank=16, iterations=10).best(scaled)
    assert once is not None
    assert often is not None
    smooth = max(gain(smoothed(scale)) for scale in candidate_scales(measured, 5))
    assert gain(measured.plain()) + 5 < smooth
    assert smooth + 2.5 < gain(once.error)
    assert once.error > often.error


def test_outliers_cost_three_decibels_less_with_a_branch() -> None:
    assert sqnr("gated", "svdquant{rank=16, grid=5}") > sqnr("gated") + 3


def test_a_branch_of_full_rank_leaves_nothing_to_the_codes() -> None:
    found = after("gated", ("svdquant{rank=64, half=false}",))
    weights = [found.exact(cast(Node, found.bind(found.node(name))["weight"])) for name in ("linear", "linear_2")]
    assert all(float(weight.abs().max()) < 1e-12 for weight in weights)


def test_the_layer_keeps_name_and_numbers_and_the_branch_reads_what_is_not_quantized() -> None:
    last = after("gated", ("svdquant{rank=4, grid=3}", "apply_plan", "nearest"))
    layer, branch = last.node("linear"), last.node("linear_branch")
    assert isinstance(layer.meta["assignment"], Assignment)
    assert "assignment" not in branch.meta
    assert cast(Node, layer.args[0]).target is ops.dequantize
    inner = cast(Node, branch.args[0])
    assert cast(Node, inner.args[0]).target is not ops.dequantize
    codes = cast(Node, cast(Node, layer.args[0]).args[0])
    assert codes.args[0] is inner.args[0]


@pytest.mark.parametrize(("name", "online"), [("gated", 0), ("convolutions", 1)])
def test_scales_are_folded_where_a_writer_takes_them(name: str, online: int) -> None:
    before, found = start(name)[0], after(name, ("svdquant{rank=4, grid=3}",))
    count = [sum(program.op(node) == "aten.mul.Tensor" for node in program.nodes) for program in (before, found)]
    assert count[1] - count[0] == online


def test_layers_that_read_one_value_can_share_a_factor() -> None:
    found = after("gated", ("svdquant{rank=4, grid=2, share=true, half=false}",))
    first, second, last = (found.node(f"{name}_branch").args[0] for name in ("linear", "linear_1", "linear_2"))
    assert first is second
    assert first is not last


def test_weights_on_the_grid_already_get_no_branch() -> None:
    weight = noise(16, 32).mul(2).round().clamp(-7, 7)
    weight[:, 0] = 7
    assert SvdQuant(rank=2).best(lone(weight, noise(64, 32), ROWS, None)) is None


def test_half_precision_is_given_up_where_it_overflows() -> None:
    large = Split(torch.full((2, 1), 1e6, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    small = Split(torch.full((2, 1), 0.1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    assert in_half(large) is large
    assert in_half(small).left[0, 0] == torch.tensor(0.1).half()


BAD = {
    "zero weight": (torch.zeros(8, 16), noise(20, 16)),
    "zero inputs": (noise(8, 16), torch.zeros(20, 16)),
    "dead channels": (noise(8, 16), noise(20, 16) * (torch.arange(16) % 3 > 0)),
    "one channel": (noise(8, 1), noise(20, 1)),
    "one row": (noise(1, 16), noise(1, 16)),
    "constant": (torch.full((8, 16), 0.3), torch.full((20, 16), 2.0)),
    "huge": (noise(8, 16) * 1e6, noise(20, 16) * 1e6),
    "tiny": (noise(8, 16) * 1e-9, noise(20, 16) * 1e-9),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_layers_are_never_worse_than_plain_rounding(kind: str) -> None:
    weight, x = BAD[kind]
    for given_x in (x, None):
        measured = lone(weight, given_x)
        copies = SplitChannels(0.3).best(measured)
        assert copies is None or len(copies.index) > weight.shape[1]
        scale = SvdQuant(rank=2, grid=3).scale(measured)
        assert scale is None or bool(((scale > 0) & scale.isfinite()).all())
        branch = SvdQuant(rank=2).best(measured)
        if branch is not None:
            assert bool(torch.isfinite(branch.splits[0].product).all())
            assert branch.error < measured.plain()


# -- split channels ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.integers(0, 20))
def test_the_largest_part_is_split_next(sizes: list[float], extra: int) -> None:
    copies = split(torch.tensor(sizes), extra, "weight")
    assert len(copies.index) == len(sizes) + extra
    assert copies.index[: len(sizes)].tolist() == list(range(len(sizes)))
    counts = copies.index.bincount(minlength=len(sizes))
    assert torch.equal(copies.parts, counts[copies.index])
    largest = (torch.tensor(sizes) / counts).max()
    before = [size / max(1, count - 1) for size, count in zip(sizes, counts.tolist(), strict=True) if count > 1]
    assert all(float(largest) <= value * (1 + 1e-6) + 1e-6 for value in before)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.integers(0, 999))
def test_rounded_parts_of_a_weight_add_up_to_the_rounded_whole(count: int, seed: int) -> None:
    """On the grid of the divided weights, whatever the number of parts."""
    weight = noise(6, 4, seed=seed).double()
    layer = lone(weight.float(), noise(3, 4)).port.layers[0]
    copies = split(torch.tensor([1e6, 1, 1, 1]), count - 1, "weight")
    wide = expanded(layer, copies)
    steps = wide.new_tensor([[float((row / copies.parts).abs().max()) / 7] for row in weight[:, copies.index]])
    own = copies.index == 0
    parts = (wide[:, own] / steps).round().sum(1)
    torch.testing.assert_close(parts, (weight[:, 0] / steps[:, 0]).round(), atol=1.0, rtol=0)
    agree = (parts == (weight[:, 0] / steps[:, 0]).round()).double().mean()
    assert agree >= 0.8


def test_parts_of_an_activation_are_its_shares() -> None:
    measured = lone(noise(4, 3), noise(5, 3))
    copies = split(torch.tensor([1.0, 9.0, 1.0]), 2, "activation")
    x = noise(5, 3)
    shared = read(x, copies, measured.port)
    torch.testing.assert_close(shared[:, 1] * 3, x[:, 1])
    torch.testing.assert_close(shared @ measured.port.layers[0].weight[:, copies.index].T.float(), x @ noise(4, 3).T)


def test_splitting_outliers_of_a_weight_raises_its_sqnr() -> None:
    weight, x = noise(32, 64), noise(200, 64, seed=1)
    weight[:, 7] *= 8
    measured = lone(weight, x, ROWS, None)
    copies = SplitChannels(0.05).best(measured)
    assert copies is not None
    assert copies.index[64] == 7
    wide = measured.error([expanded(measured.port.layers[0], copies)], lambda value: value[:, copies.index])
    assert wide < 0.4 * measured.plain()


# -- deployment -------------------------------------------------------------------------------------------------------


def deployed(model: nn.Module, data: Tensor, texts: Sequence[str]) -> tuple[Artifact, Tensor]:
    recipe = Recipe.of("test", texts)
    job = prepare(model.eval(), calibration=[(data,)], recipe=recipe)
    return qcompiler.compile(model, calibration=[(data,)], recipe=recipe), evaluate(run_job(job)[1], [data])[0]


def test_a_branch_runs_in_onnx_runtime_beside_an_integer_kernel() -> None:
    data = noise(4, 5, 32)
    artifact, wanted = deployed(
        Gated(), data, ["assign{scheme=w8a8_dynamic}", "svdquant{rank=4, grid=3}", "apply_plan", "nearest"]
    )
    torch.testing.assert_close(cast(Tensor, artifact(data)), wanted, rtol=1e-4, atol=1e-4)
    realised = {layer.name: layer.realised for layer in artifact.report.layers}
    assert realised["linear"] == "MatMulIntegerToFloat"
    assert realised["linear_branch"] == "MatMul"


def test_a_layer_with_quantized_results_keeps_its_kernel_beside_a_branch() -> None:
    model, data = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), noise(16, 3, 8, 8)
    texts = ["assign{scheme=w8a8}", "svdquant{rank=2, smooth=false}", "apply_plan", "calibrate", "nearest"]
    artifact, wanted = deployed(model, data, texts)
    assert decibels(cast(Tensor, artifact(data)), wanted) > 35
    realised = {layer.name: layer.realised for layer in artifact.report.layers}
    assert realised["conv2d"] == "QLinearConv"
