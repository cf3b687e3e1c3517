"""Budgets in the user's words."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import qcompiler
from qcompiler import Budget
from qcompiler.cli.app import run
from qcompiler.cost import Device, LatencyTable
from qcompiler.errors import InputError, SpecError
from qcompiler.job import recipe_for
from qcompiler.passes.recipes import Recipe
from qcompiler.report import Report


@pytest.mark.parametrize(
    ("name", "word", "expected"),
    [
        ("size", "4x", 250.0),
        ("size", "500kB", 500e3),
        ("size", "2MiB", 2.0 * 2**20),
        ("size", 123, 123.0),
        ("peak_memory", "2x", 500.0),
        ("peak_memory", "256kB", 256e3),
        ("latency", "0.5x", 500.0),
        ("latency", "2ms", 2e-3),
        ("latency", 1.5, 1.5),
        ("latency", "40us", 40e-6),
        ("bops", "0.1x", 100.0),
        ("bops", "2.5G", 2.5e9),
        ("average_bits", 4.2, 4.2),
        ("max_drop", "1e-3", 1e-3),
    ],
)
def test_words_become_numbers(name: str, word: str | float, expected: float) -> None:
    assert Budget(**{name: word}).resolve(name, 1000.0) == pytest.approx(expected)  # pyright: ignore[reportArgumentType]


def test_text_goes_there_and_back() -> None:
    text = "size=4x,latency=0.5x,average_bits=4.2,max_drop=0.01"
    budget = Budget.parse(text)
    assert str(budget) == text
    assert Budget.parse(str(budget)) == budget
    assert budget.resolve("bops", 1.0) is None
    assert list(budget.words) == ["size", "latency", "average_bits", "max_drop"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weight=3", "not a budget"),
        ("size", "not a budget"),
        ("size=1x,size=2x", "not a budget"),
        ("size=-4x", "'-4x' is not a size"),
        ("size=0x", "'0x' is not a size"),
        ("latency=fast", "'fast' is not a latency"),
        ("latency=4kB", "'4kB' is not a latency"),
        ("average_bits=4x", "'4x' is not an average bits"),
        ("max_drop=none", "'none' is not a max drop"),
        ("average_bits=0", "'0' is not an average bits"),
        ("peak_memory=2ms", "'2ms' is not a peak memory"),
        ("bops=4kB", "'4kB' is not a bops"),
    ],
)
def test_words_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Budget.parse(text)


@pytest.mark.parametrize("name", ["size", "latency", "average_bits", "peak_memory", "bops", "max_drop"])
@pytest.mark.parametrize("word", [-1.0, math.nan, math.inf, True, "3 parrots"])
def test_numbers_that_make_no_sense_are_refused(name: str, word: str | float) -> None:
    with pytest.raises(SpecError, match=f"is not an? {name.replace('_', ' ')}"):
        Budget(**{name: word}).check_words()  # pyright: ignore[reportArgumentType]


def test_what_comes_out_is_checked() -> None:
    budget = Budget(size="4x", max_drop=0.01)
    budget.check(1000, 250)
    budget.check_drop(20.0)
    budget.check_drop(None)
    with pytest.raises(InputError, match=r"allows 250 bytes and the artefact takes 251"):
        budget.check(1000, 251)
    Budget(average_bits=4).check_bits(4.0)
    with pytest.raises(InputError, match=r"allows 4 bits per weight and the artefact takes 4.5"):
        Budget(average_bits=4).check_bits(4.5)
    with pytest.raises(InputError, match=r"allows an error of 0.01 of the results and the artefact has 0.0126"):
        budget.check_drop(19.0)


def test_auto_allocates_when_more_than_a_size_is_limited() -> None:
    assert recipe_for("auto", Budget(size="4x")) == "auto"
    assert recipe_for("auto", Budget(size="4x", average_bits=4)) == "mixed"
    assert recipe_for("w8a8", Budget(average_bits=4)) == "w8a8"
    assert recipe_for("auto", None) == "auto"


MODULE = """
import torch

import qcompiler

def build():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(32, 4))
"""


def test_the_command_line_allocates_under_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(MODULE)
    samples = torch.randn(16, 32, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(tmp_path / "data.npz", input=samples)
    line = ["compile", f"{tmp_path}/net.py:build", "--calibration", f"{tmp_path}/data.npz", "--progress", "none"]
    assert run([*line, "--budget", "average_bits=5.5", "-o", str(tmp_path / "made")]) == 0
    assert "average_bits: '5.5'" in (tmp_path / "made" / "recipe.yaml").read_text()
    capsys.readouterr()
    assert run([*line, "--budget", "average_bits=2", "-o", str(tmp_path / "other")]) == 1
    assert "average_bits can be" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_branch_is_not_part_of_the_float_model() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 64, bias=False).eval()
    with torch.no_grad():
        model.weight[0] *= 30
    recipe = Recipe.of("test", ["assign{scheme=w4a16g32}", "svdquant{rank=8}", "apply_plan", "nearest"])
    artifact = qcompiler.compile(model, calibration=[(torch.randn(32, 64),)], recipe=recipe)
    assert len([layer for layer in artifact.report.layers if "branch" in layer.name]) == 1
    assert artifact.report.float_bytes == 64 * 64 * 4


@pytest.mark.parametrize(
    ("words", "taken"), [("average_bits=3", "average_bits 3 and the plan takes 5.125"), ("bops=0.1x", "bops")]
)
def test_a_plan_that_exceeds_the_budget_is_not_replayed(words: str, taken: str) -> None:
    model, data = torch.nn.Linear(64, 64).eval(), [(torch.randn(4, 64),)]
    plan = qcompiler.compile(model, calibration=data, recipe="w4a16g32").plan
    qcompiler.compile(model, calibration=data, recipe="mixed", plan=plan, budget=Budget.parse("average_bits=5.125"))
    with pytest.raises(InputError, match=taken):
        qcompiler.compile(model, calibration=data, recipe="mixed", plan=plan, budget=Budget.parse(words))


def layers(count: int, width: int = 128) -> torch.nn.Module:
    torch.manual_seed(0)
    made = [torch.nn.Linear(width, width) for _ in range(count)]
    return torch.nn.Sequential(*(part for layer in made for part in (layer, torch.nn.ReLU()))).eval()


@pytest.mark.parametrize("scheme", ["w8a16", "w4a16g32", "w3a16g32", "w2a16g32", "w8a8", "w4a8"])
def test_bytes_that_are_told_are_bytes_that_are_stored(scheme: str) -> None:
    recipe = Recipe.of("test", [f"assign{{scheme={scheme}}}", "apply_plan", "calibrate", "nearest"])
    data = [(torch.randn(8, 128),)]
    report = qcompiler.compile(layers(3), calibration=data, recipe=recipe).report
    told = sum(layer.bytes for layer in report.layers if layer.op == "aten.linear")
    # The graph, scales of biases and vectors of zero points are besides the weights.
    assert 0 <= report.quantized_bytes - told < 3 * 2500


@pytest.mark.parametrize("share", [0.95, 0.8])
def test_files_take_what_the_budget_allows(share: float) -> None:
    model, data = layers(4), [(torch.randn(8, 128),)]
    recipe = Recipe.of("test", ["mixed_precision{schemes=w8a16|w4a16g32, samples=8}", "apply_plan", "nearest"])
    limit = round(share * qcompiler.compile(model, calibration=data, recipe="w8a16").report.quantized_bytes)
    report = qcompiler.compile(model, calibration=data, recipe=recipe, budget=Budget(size=limit)).report
    assert 0.8 * limit < report.quantized_bytes <= limit


def test_a_size_below_the_files_says_the_least() -> None:
    recipe = Recipe.of("test", ["mixed_precision{schemes=w8a16|w4a16g32, samples=8}", "apply_plan", "nearest"])
    with pytest.raises(InputError, match="size can be"):
        qcompiler.compile(layers(2), calibration=[(torch.randn(8, 128),)], recipe=recipe, budget=Budget(size=21000))


def test_parts_that_come_later_count_as_bits() -> None:
    passes = ["mixed_precision{schemes=w4a16g32|w8a16, samples=8}", "svdquant{rank=8}", "apply_plan", "nearest"]
    data = [(torch.randn(8, 128),)]
    with pytest.raises(InputError, match="added parts to weights"):
        qcompiler.compile(
            layers(2), calibration=data, recipe=Recipe.of("t", passes), budget=Budget.parse("average_bits=5.2")
        )


CONVOLUTIONS = ["mixed_precision{schemes=w8a8|float, samples=4}", "apply_plan", "calibrate", "nearest"]


def convolutions(width: int = 16) -> torch.nn.Module:
    torch.manual_seed(0)
    made = [torch.nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
    return torch.nn.Sequential(*(part for layer in made for part in (layer, torch.nn.ReLU()))).eval()


def test_latency_is_measured_limited_and_told() -> None:
    data = [(torch.randn(1, 16, 16, 16),) for _ in range(2)]
    report = qcompiler.compile(
        convolutions(), calibration=data, recipe=Recipe.of("t", CONVOLUTIONS), budget=Budget(latency="3x")
    ).report
    latency = report.latency
    assert latency is not None
    assert latency.kind == "measured"
    assert latency.measured is not None
    assert latency.float_measured is not None
    assert latency.limit is not None
    assert latency.predicted <= latency.limit == pytest.approx(3 * latency.float_predicted)
    assert any("latency of one call" in note for note in report.notes)
    assert Report.from_dict(report.to_dict()).latency == latency
    older = report.to_dict()
    del older["latency"]
    assert Report.from_dict(older).latency is None


def test_a_plan_is_replayed_under_a_limit_of_latency(tmp_path: Path) -> None:
    data = [(torch.randn(1, 16, 16, 16),)]
    LatencyTable(Device(target="onnxruntime", processor="any")).save(tmp_path / "table.json")
    passes = [CONVOLUTIONS[0].replace("}", f", latencies={tmp_path}/table.json}}"), *CONVOLUTIONS[1:]]
    first = qcompiler.compile(convolutions(), calibration=data, recipe=Recipe.of("t", passes), budget=Budget(latency=1))
    for recipe in (Recipe.of("t", passes), Recipe.of("t", CONVOLUTIONS)):
        again = qcompiler.compile(
            convolutions(), calibration=data, recipe=recipe, budget=Budget(latency="9x"), plan=first.plan
        )
        latency = again.report.latency
        assert latency is not None
        assert latency.measured is not None
        assert latency.limit is not None
    with pytest.raises(InputError, match="the budget allows latency 1e-09"):
        qcompiler.compile(
            convolutions(),
            calibration=data,
            recipe=Recipe.of("t", passes),
            budget=Budget(latency=1e-9),
            plan=first.plan,
        )


def test_a_table_of_another_machine_is_told(tmp_path: Path) -> None:
    table = LatencyTable(Device(target="onnxruntime", processor="a machine far away"))
    table.save(tmp_path / "table.json")
    passes = [CONVOLUTIONS[0].replace("}", f", latencies={tmp_path}/table.json}}"), *CONVOLUTIONS[1:]]
    data = [(torch.randn(1, 16, 16, 16),)]
    report = qcompiler.compile(
        convolutions(), calibration=data, recipe=Recipe.of("t", passes), budget=Budget(latency=1.0)
    ).report
    assert report.latency is not None
    assert "a machine far away" in report.latency.source
    assert "which is not where this ran" in report.latency.source
    assert report.latency.kind == "modelled"


def test_latency_of_what_runs_elsewhere_is_modelled() -> None:
    data = [(torch.randn(1, 64, 32, 32),) for _ in range(2)]
    budget = Budget(latency="0.8x")
    recipe = Recipe.of("t", CONVOLUTIONS)
    report = qcompiler.compile(convolutions(64), "jetson", calibration=data, recipe=recipe, budget=budget).report
    assert report.latency is not None
    assert report.latency.kind == "modelled"
    assert report.latency.measured is None
    assert report.latency.predicted <= 0.8 * report.latency.float_predicted * (1 + 1e-9)
    assert any("modelled by the target's peaks" in note for note in report.notes)
    with pytest.raises(InputError, match="latency can be"):
        qcompiler.compile(convolutions(64), "jetson", calibration=data, recipe=recipe, budget=Budget(latency="0.001x"))
