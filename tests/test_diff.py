"""The diff command: nodes paired by provenance, numbers and times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from qcompiler.cli.app import run
from qcompiler.cli.diff import change_text
from qcompiler.cli.diffing import difference, structural
from qcompiler.compiler import parse
from qcompiler.view.align import align
from tests.cli_tools import TEXT, make_folder, make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module, its data, an ONNX file and a program."""
    return make_folder(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Path, Path]:
    """The compiled module and the folder of its run."""
    return make_run(folder)


@pytest.fixture(scope="module")
def artefact(made: tuple[Path, Path]) -> Path:
    return made[0]


def test_diff_shows_what_a_pass_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["diff", f"{folder}/net.py:build", "--calibration", f"{folder}/samples.npz", "--pass", "fold_batch_norm"]
    assert run([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sample"] == "real"
    assert any(change["kind"] == "removed" and "batch_norm" in change["before"] for change in found["changes"])
    assert found["output_sqnr_db"] > 100


def test_diff_of_a_program_with_itself_is_empty(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", f"{folder}/tiny.qir", f"{folder}/tiny.qir"]) == 0
    text = capsys.readouterr().out
    assert "0 added, 0 removed, 0 changed, 4 unchanged" in text
    assert "results on a made-up sample: exact" in text


def test_diff_compares_artefacts_with_each_other_and_with_the_model(
    folder: Path, artefact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = ["--calibration", f"{folder}/samples.npz"]
    assert run(["diff", str(artefact), str(artefact), *samples]) == 0
    assert "results on a real sample: exact" in capsys.readouterr().out
    assert run(["diff", f"{folder}/net.py:build", str(artefact), *samples, "--json"]) == 0
    assert 20 < json.loads(capsys.readouterr().out)["output_sqnr_db"] < 100


def test_a_changed_node_shows_both_sides() -> None:
    before, after = parse(TEXT), parse(TEXT.replace("aten.relu", "aten.neg"))
    changes, unchanged = structural(before, after)
    assert [(change.kind, change.name) for change in changes] == [("changed", "relu")]
    assert changes[0].before == "aten.relu %linear : f32[2,3]"
    assert changes[0].after == "aten.neg %linear : f32[2,3]"
    assert unchanged == 3


def test_added_and_removed_nodes_and_other_weights_are_found() -> None:
    after = TEXT.replace("seed=1", "seed=2").replace("%relu", "%silu").replace("aten.relu", "aten.silu")
    changes, _ = structural(parse(TEXT), parse(after))
    assert [(change.kind, change.name) for change in changes] == [
        ("removed", "relu"),
        ("changed", "w"),
        ("added", "silu"),
    ]


def test_specs_that_differ_make_a_difference() -> None:
    text = """spec @q = int8 sym block=(-1,-1) scale=f32
program @p stage=quantized {
  input %x : f32[2,4]
  param %s : f32[1,1] = values(0.5)
  %q = qc.quantize %x, %s, none : @q[2,4]
  %d = qc.dequantize %q, %s, none : f32[2,4]
  return %d
}
"""
    found = difference(parse(text), parse(text.replace("int8", "int4")), [torch.ones(2, 4) * 20])
    assert {change.name for change in found.changes} == {"q", "d"}
    assert "int4 sym" in found.changes[0].after
    assert found.numbers is not None
    assert found.numbers.output_sqnr_db == pytest.approx(-20 * np.log10((20 - 3.5) / 20), abs=1e-4)


def test_numbers_that_cannot_be_had_have_a_reason() -> None:
    text = TEXT.replace("normal(seed=1)", "digest(0123456789abcdef)")
    found = difference(parse(TEXT), parse(text), [torch.ones(2, 4)])
    assert found.numbers is None
    assert "not at hand" in found.no_numbers


# -- pairs, runs and times ------------------------------------------------------------------------------------------

LAYERS = """program @p stage=canonical {
  input %x : f32[2,4]
  param %w "fc.weight" : f32[4,4] = normal(seed=1)
  %first = aten.linear %x, %w, none : f32[2,4]  ; from block.0
  %act = aten.relu %first : f32[2,4]  ; from block.0
  %second = aten.linear %act, %w, none : f32[2,4]  ; from block.1
  %again = aten.linear %second, %w, none : f32[2,4]  ; from block.1
  return %again
}
"""


def renamed(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(f"%{old} ", f"%{new} ").replace(f"%{old},", f"%{new},").replace(f"%{old}\n", f"%{new}\n")
    return text


def test_renamed_nodes_are_the_same_nodes() -> None:
    names = {"x": "input_0", "w": "weight", "first": "n1", "act": "n2", "second": "n3", "again": "n4"}
    after = renamed(LAYERS, names)
    changes, unchanged = structural(parse(LAYERS), parse(after))
    assert [(change.kind, change.old_name, change.name) for change in changes] == [
        ("renamed", old, new) for old, new in names.items()
    ]
    assert unchanged == 0
    numbers = difference(parse(LAYERS), parse(after), [torch.ones(2, 4)]).numbers
    assert numbers is not None
    assert numbers.values == {"n1": 300.0, "n2": 300.0, "n3": 300.0, "n4": 300.0}


def test_swapped_names_are_told_apart_by_their_module() -> None:
    """A name that moved to an operator of another kind says nothing."""
    after = renamed(LAYERS, {"first": "t", "act": "first"}).replace("%t ", "%act ").replace("%t:", "%act:")
    changes, _ = structural(parse(LAYERS), parse(after))
    assert {(change.kind, change.old_name, change.name) for change in changes} == {
        ("renamed", "first", "act"),
        ("renamed", "act", "first"),
    }


def test_operators_of_one_module_are_paired_by_their_operands_first() -> None:
    lines = LAYERS.splitlines()
    del lines[5]
    after = "\n".join(lines).replace("%second, %w", "%act, %w").replace("%again", "%kept") + "\n"
    pairs = align(parse(LAYERS), parse(after)).pairs
    assert pairs["kept"] == "second"


def test_a_weight_change_has_a_size() -> None:
    before = LAYERS.replace("normal(seed=1)", "ones()").replace("f32[4,4]", "f32[4,4]")
    program = parse(before)
    program.set_param(program.node("w"), torch.full((4, 4), 1.5))
    (change,) = structural(parse(before), program)[0]
    assert (change.kind, change.name) == ("changed", "w")
    assert change.weight_change == pytest.approx(0.5)
    assert "by 0.5 of its norm" in change_text(change)


def test_two_steps_of_a_run_are_compared(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", str(made[1]), "--steps", "start..nearest", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sample"] == "real"
    assert 20 < found["output_sqnr_db"] < 100
    assert any(change["kind"] == "removed" and "batch_norm" in change["before"] for change in found["changes"])
    assert run(["diff", str(made[1]), "--steps", "start"]) == 2


def test_two_runs_are_compared_where_they_ended(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["replay", str(made[1]), "--from", "apply_plan", "--passes", "calibrate{method=minmax},nearest"]
    assert run([*line, "--dump-dir", str(tmp_path)]) == 0
    capsys.readouterr()
    assert run(["diff", str(made[1]), str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {change["kind"] for change in found["changes"]} == {"changed"}
    assert any((change["weight_change"] or 0) > 0 for change in found["changes"])


def test_two_artefacts_are_timed(made: tuple[Path, Path], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", str(made[0]), str(made[0]), "--calibration", f"{folder}/samples.npz", "--json"]) == 0
    times = json.loads(capsys.readouterr().out)["latency_seconds"]
    assert 0 < times["before"] < 1
    assert 0 < times["after"] < 1
    assert run(["diff", str(made[1]), str(made[1]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["latency_seconds"] is None
