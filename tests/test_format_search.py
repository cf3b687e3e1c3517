"""The search of a format for each weight, and numbers asked for by their own text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qcompiler
from qcompiler.errors import SpecError
from qcompiler.passes.recipes import Recipe
from qcompiler.passes.solve.format_search import FormatSearch
from qcompiler.spec import QuantSpec
from tests.solve_tools import error, layer, noise, odd_layers, plain_layer

SPEC = QuantSpec.parse("int4 sym block=(1,-1) scale=f32")


def heavy(*shape: int) -> Tensor:
    """Student's t of two degrees of freedom."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(*shape, generator=generator) for _ in range(3)]
    return parts[0] / (parts[1].square() + parts[2].square()).div(2).sqrt()


@pytest.mark.parametrize(
    ("weight", "name"),
    [
        (noise(8, 1024), "fp4e2m1"),
        (torch.rand(8, 1024, generator=torch.Generator().manual_seed(0)) * 2 - 1, "fp4e1m2"),
        (heavy(8, 1024), "fp4e3m0"),
    ],
)
def test_the_split_of_bits_follows_the_distribution(weight: Tensor, name: str) -> None:
    found = FormatSearch(weighted=False, compensate=False).solve(layer(weight, noise(4, 1024), SPEC))
    assert found.spec.format.name.startswith(name)


@pytest.mark.parametrize("family", ["float", "log", "power", "table", "float+table"])
def test_no_format_of_the_family_loses_less(family: str) -> None:
    problem = plain_layer(spec=SPEC)
    method = FormatSearch(family, compensate=False)
    importance = method.importance(problem)

    def loss(value: Tensor) -> float:
        return float(((value - problem.weight).square() * importance).sum())

    tried = [loss(found.value()) for found in method.tries(problem, importance)]
    assert len(tried) == len(method.candidates(4))
    assert loss(method.solve(problem).value()) == min(tried)


def test_compensation_lowers_the_output_error_on_the_found_grid() -> None:
    problem = plain_layer(24, 64, 256, SPEC)
    plain, moved = (FormatSearch(compensate=on).solve(problem) for on in (False, True))
    assert moved.spec == plain.spec
    assert error(moved, problem) < 0.7 * error(plain, problem)


@pytest.mark.parametrize("kind", odd_layers(SPEC))
def test_degenerate_layers(kind: str) -> None:
    found = FormatSearch().solve(odd_layers(SPEC)[kind])
    assert torch.isfinite(found.value()).all()


def test_a_family_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SpecError, match="float"):
        FormatSearch("decimal")


def test_numbers_are_asked_for_by_their_text() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    assign = "assign{weight=fp6e2m3 sym channel scale=f32, activation=fp8e4m3 sym token scale=f32 dynamic}"
    recipe = Recipe.of("t", [assign, "apply_plan", "nearest"])
    artifact = qcompiler.compile(model, "simulation", inputs=(torch.randn(4, 32),), recipe=recipe)
    specs = artifact.plan.assignments["linear"].inputs
    assert (specs["weight"].format.name, specs["input"].format.name) == ("fp6e2m3", "fp8e4m3")
    assert specs["input"].dynamic
    assert artifact.report.sqnr_db is not None
    assert artifact.report.sqnr_db > 20


def test_a_float_number_leaves_activations_alone() -> None:
    model = nn.Sequential(nn.Linear(32, 8)).eval()
    assign = "assign{weight=nf4 sym group=32 scale=f16, activation=float}"
    recipe = Recipe.of("t", [assign, "apply_plan", "nearest"])
    artifact = qcompiler.compile(model, "simulation", inputs=(torch.randn(4, 32),), recipe=recipe)
    assert set(artifact.plan.assignments["linear"].inputs) == {"weight"}
