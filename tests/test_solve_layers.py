"""Weights as matrices, what they become, and the driver that solves them from front to back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qcompiler
from qcompiler.formats import Integer
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job
from qcompiler.passes.recipes import Recipe
from qcompiler.passes.solve import Nearest
from qcompiler.passes.solve.expression import (
    Codes,
    Columns,
    Dense,
    Expression,
    Lookup,
    LowRank,
    Scaled,
    Select,
    Sparse,
    Sum,
    bits_per_weight,
)
from qcompiler.passes.solve.front_to_back import readers_of, solve_layers
from qcompiler.passes.solve.layers import Layer
from qcompiler.pipeline import Context
from qcompiler.spec import Level, QuantSpec, parse_scheme, qparams_from_range, quantize
from qcompiler.spec.arithmetic import choose_qparams

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 5), (3, 4, 12)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2), (2, 4, 9, 8)),
    "grouped": (lambda: nn.Conv2d(4, 6, (3, 2), padding=(1, 0), groups=2), (2, 4, 6, 5)),
    "depthwise": (lambda: nn.Conv1d(4, 4, 3, groups=4), (2, 4, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 5, 6)),
    "transposed_dilated": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=3, dilation=2), (2, 4, 5)),
    "transposed_cut": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, padding=2), (2, 4, 5, 6)),
}


def prepared(model: nn.Module, data: list[Tensor], scheme: str = "w8a16") -> tuple[Program, Context]:
    recipe = Recipe.of("t", [f"assign{{scheme={scheme}}}", "apply_plan", "calibrate{method=minmax}"])
    job = prepare(model.eval(), "simulation", calibration=data, recipe=recipe)
    program = run_job(job)[1]
    return program, Context(job.target, batches=job.batches)


def nearest(layer: Layer) -> Codes:
    scale, zero_point = choose_qparams(layer.weight, layer.spec)
    codes = quantize(layer.weight, scale, zero_point, layer.spec)
    return Codes(layer.spec, codes, scale, None if layer.spec.symmetric else zero_point)


@pytest.mark.parametrize("kind", MODELS)
def test_the_matrix_times_its_rows_is_the_operator(kind: str) -> None:
    make, shape = MODELS[kind]
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    nn.init.zeros_(model.get_parameter("bias"))
    program, ctx = prepared(model, [x])
    seen: list[Tensor] = []

    def solver(layer: Layer) -> Codes:
        weight = layer.weight.unflatten(0, (layer.groups, -1))
        seen.extend(rows @ weight.transpose(1, 2) for rows in layer.inputs.rows("float"))
        return nearest(layer)

    assert solve_layers(program, ctx, solver, ("float", "quantized"), "t") == 1
    result = model(x) if kind == "linear" else model(x).movedim(1, -1)
    found = seen[0].permute(1, 0, 2).reshape(result.shape)
    torch.testing.assert_close(found, result, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("scheme", ["w4a16", "w4a16g4"])
def test_matrices_go_back_to_where_they_came_from(kind: str, scheme: str) -> None:
    make, shape = MODELS[kind]
    torch.manual_seed(0)
    x = torch.randn(shape)
    program, ctx = prepared(make(), [x], scheme)
    plain = Nearest().run(program.copy(), ctx)
    solve_layers(program, ctx, nearest, ("quantized",), "t")
    program.erase_dead()
    program.verify()
    torch.testing.assert_close(evaluate(program, [x])[0], evaluate(plain, [x])[0], rtol=0, atol=0)


def test_each_layer_sees_the_solved_ones_before_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(5, 6)
    program, ctx = prepared(model, [x], "w2a16")
    seen: list[Tensor] = []

    def solver(layer: Layer) -> Codes:
        seen.extend(rows[0] for rows in layer.inputs.rows())
        return nearest(layer)

    solve_layers(program, ctx, solver, ("quantized",), "t")
    program.erase_dead()
    values: dict[str, Tensor] = {}
    evaluate(program, [x], observe=lambda node, value: values.__setitem__(node.name, value))
    last = [node for node in program.nodes if program.op(node) == "aten.linear"][-1]
    assert torch.equal(seen[1], values[last.all_input_nodes[0].name])
    assert not torch.allclose(seen[1], model[1](model[0](x)))


def test_layers_that_read_the_same_value_share_its_moments() -> None:
    class Fan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.o = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.q(x) * self.k(x))

    torch.manual_seed(0)
    program, ctx = prepared(Fan(), [torch.randn(5, 6), torch.randn(3, 6)])
    seen: list[Layer] = []

    def solver(layer: Layer) -> Codes:
        seen.append(layer)
        rows = torch.cat([rows[0] for rows in layer.inputs.rows()])
        torch.testing.assert_close(layer.inputs.second_moment[0], 2 / 8 * rows.T @ rows)
        assert layer.inputs.count == 8
        return nearest(layer)

    solve_layers(program, ctx, solver, ("quantized",), "t")
    assert seen[0].inputs is seen[1].inputs
    assert seen[2].inputs is not seen[0].inputs


def test_a_weight_that_no_product_reads_goes_to_the_nearest_value() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4))
    program, ctx = prepared(model, [torch.randint(0, 9, (2, 5))], "w4a16g4")
    assert [reader.solvable for reader in readers_of(program)] == [False, True]
    plain = Nearest().run(program.copy(), ctx)
    assert solve_layers(program, ctx, nearest, ("quantized",), "t") == 1
    x = [torch.randint(0, 9, (2, 5))]
    assert torch.equal(evaluate(program, x)[0], evaluate(plain, x)[0])


def _codes(rows: int, columns: int, scheme: str = "w4a16g4") -> Codes:
    number = parse_scheme(scheme).weight
    assert number is not None
    spec = number.spec(2, 0, 1)
    weight = torch.randn(rows, columns)
    scale, zero_point = choose_qparams(weight, spec)
    return Codes(spec, quantize(weight, scale, zero_point, spec), scale, None if spec.symmetric else zero_point)


EXPRESSIONS: dict[str, Callable[[], Expression]] = {
    "codes": lambda: _codes(6, 8),
    "two_levels": lambda: _two_levels(),
    "dense": lambda: Dense(torch.randn(6, 8).half()),
    "sum": lambda: Sum((_codes(6, 8), _codes(6, 8), Dense(torch.randn(6, 8)))),
    "scaled": lambda: Scaled(_codes(6, 8), Dense(torch.randn(6, 1).half())),
    "select": lambda: Select(torch.rand(6, 8) > 0.5, _codes(6, 8), _codes(6, 8, "w2a16")),
    "columns": lambda: Columns((_codes(6, 4), _codes(6, 3, "w3a16")), torch.tensor([6, 0, 3, 2, 5, 1, 4])),
    "lookup": lambda: Lookup(torch.randint(0, 5, (12,)), Dense(torch.randn(5, 4).half()), (6, 8)),
    "low_rank": lambda: LowRank(Dense(torch.randn(6, 2)), Dense(torch.randn(2, 8))),
    "sparse": lambda: Sparse(_codes(6, 8), torch.tensor([0, 9, 47]), torch.randn(3).half()),
}


def _two_levels() -> Codes:
    number = parse_scheme("nvfp4").weight
    assert number is not None
    spec = number.spec(2, 0, 1)
    weight = torch.randn(4, 32)
    low, high = weight.unflatten(1, (2, 16)).amin(2), weight.unflatten(1, (2, 16)).amax(2)
    scale, zero_point = qparams_from_range(low, high, spec)
    return Codes(spec, quantize(weight, scale, zero_point, spec), scale)


@pytest.mark.parametrize("kind", EXPRESSIONS)
def test_the_nodes_of_an_expression_compute_its_value(kind: str) -> None:
    torch.manual_seed(0)
    expression = EXPRESSIONS[kind]()
    value = expression.value()
    model = nn.Linear(value.shape[1], value.shape[0], bias=False)
    program, ctx = prepared(model, [torch.randn(3, value.shape[1])])
    solve_layers(program, ctx, lambda layer: expression, ("quantized",), "t")
    program.erase_dead()
    program.verify()
    found = evaluate(program, [torch.eye(value.shape[1])])[0].T
    torch.testing.assert_close(found, value, rtol=0, atol=0)


def test_bits_count_everything() -> None:
    spec = QuantSpec(Integer(4, signed=False), (Level((1, 4), "f16", "int"),))
    codes = Codes(spec, torch.zeros(6, 8), torch.ones(6, 2), torch.zeros(6, 2))
    assert bits_per_weight(codes) == 4 + (16 + 4) / 4
    assert Select(torch.ones(6, 8) > 0, codes, codes).bits() == 48 + 2 * codes.bits()
    assert Lookup(torch.zeros(12).long(), Dense(torch.zeros(5, 4).half()), (6, 8)).bits() == 12 * 3 + 20 * 16
    assert Sparse(codes, torch.tensor([1]), torch.zeros(1).half()).bits() == codes.bits() + 32 + 32 * 7


@pytest.mark.parametrize("scheme", ["nvfp4", "mxfp4", "w3a4_token", "nf4", "w2a16g4", "fp8"])
def test_the_simulation_target_runs_numbers_that_nothing_here_has_kernels_for(scheme: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8)).eval()
    data = [torch.randn(4, 32) for _ in range(2)]
    recipe = Recipe.of("t", [f"assign{{scheme={scheme}}}", "apply_plan", "calibrate", "nearest"])
    artifact = qcompiler.compile(model, "simulation", calibration=data, recipe=recipe)
    assert artifact.report.sqnr_db is not None
    assert artifact.report.sqnr_db > 3
    assert not artifact.report.fallbacks
    assert artifact(data[0]).shape == (4, 8)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("target", ["simulation", "onnxruntime"])
def test_the_report_counts_the_bits_of_parts_and_says_that_no_kernel_reads_them(target: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    data = [torch.randn(8, 64) for _ in range(2)]
    recipe = Recipe.of("t", ["assign{scheme=w3a16g64}", "apply_plan", "kmeans_vq{entries=16}"])
    artifact = qcompiler.compile(model, target, calibration=data, recipe=recipe)
    layers = artifact.report.layers
    assert [layer.op for layer in layers] == ["aten.linear", "aten.linear"]
    assert all(1 < layer.bits < 4 for layer in layers)
    assert len(artifact.plan.assignments) == 2
    fallbacks = [layer.reason for layer in artifact.report.fallbacks]
    assert len(fallbacks) == (2 if target == "onnxruntime" else 0)
    assert all("unpacked when it runs" in reason for reason in fallbacks)
