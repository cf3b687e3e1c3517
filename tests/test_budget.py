"""Budgets in the user's words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import qcompiler
from qcompiler import Budget
from qcompiler.cli.app import run
from qcompiler.errors import InputError, SpecError
from qcompiler.job import recipe_for
from qcompiler.passes.recipes import Recipe


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
    ],
)
def test_words_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Budget.parse(text)


def test_what_comes_out_is_checked() -> None:
    budget = Budget(size="4x", max_drop=0.01)
    budget.check(1000, 250)
    budget.check_drop(20.0)
    budget.check_drop(None)
    with pytest.raises(InputError, match=r"allows 250 bytes and the artefact takes 251"):
        budget.check(1000, 251)
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
