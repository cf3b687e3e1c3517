"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qcompiler
from qcompiler.cli.app import app, run
from qcompiler.cli.sources import call_factory, open_model
from qcompiler.compiler import parse
from qcompiler.errors import AuditError, InputError, ParseError
from qcompiler.passes.recipes import load_recipe
from qcompiler.report import Report
from tests.cli_tools import TEXT, compile_line, make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module, its data, an ONNX file and a program."""
    return make_folder(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def artefact(folder: Path) -> Path:
    """The compiled module."""
    output = folder / "compiled"
    assert run([*compile_line(folder), "-o", str(output), "--progress", "none"]) == 0
    return output


# -- help and exit codes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", sorted(app.commands))
def test_every_command_has_help_with_examples_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"  qcompiler {command}" in text.partition("Examples:")[2]
    assert "--json" in text
    assert "--traceback" in text


def test_help_states_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "Exit codes:" in capsys.readouterr().out


def test_the_commands_are_these() -> None:
    looking = {"dump", "diff", "why", "bisect", "replay"}
    assert set(app.commands) >= {"compile", *looking, "passes", "targets", "recipes", "formats"}


@pytest.mark.parametrize(
    "line",
    [
        ["nothing"],
        ["compile"],
        ["compile", "net.onnx"],
        ["compile", "net.onnx", "-o", "x", "--progress", "loud"],
        ["dump", "net.onnx", "--recipe", "w8a8", "--passes", "assign"],
        ["diff", "net.onnx"],
        ["diff", "a.qir", "b.qir", "--pass", "assign"],
        ["diff", "a.qir", "--pass", "assign", "--steps", "1..2"],
        ["bisect", "a.qir"],
        ["dump", "a.qir", "--format", "pdf"],
    ],
)
def test_a_wrong_command_line_exits_with_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line) == 2
    assert "Usage: qcompiler" in capsys.readouterr().err


def test_an_error_is_its_message_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", "nowhere.onnx"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "nowhere.onnx" in text
    assert "Traceback" not in text


def test_traceback_on_wish(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", "nowhere.onnx", "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_audit_shows_the_module_of_each_layer(artefact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", str(artefact)]) == 0
    table = capsys.readouterr().out
    assert table.split("\n")[0].split()[:2] == ["layer", "module"]
    for layer in Report.load(artefact / "report.json").layers:
        assert f"{layer.name} {layer.module} {layer.op}" in " ".join(table.split())


def test_a_failed_strict_audit_exits_with_3(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, strict: bool, **__: object) -> None:
        raise AuditError("1 of 2 layers does not run as asked" if strict else "strict was not handed on")

    monkeypatch.setattr("qcompiler.compiler.build", refuse)
    line = ["compile", f"{folder}/net.onnx", "--recipe", "w8a8_dynamic", "--strict", "-o", str(tmp_path / "a")]
    assert run(line) == 3
    assert "1 of 2 layers" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qcompiler.cli.dump.history", interrupt)
    assert run(["dump", "net.onnx"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m qcompiler formats | head -1"
    answer = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert answer.stderr == ""
    assert answer.returncode == 0


# -- compile --------------------------------------------------------------------------------------------------------


def test_compile_writes_an_artefact_that_runs(artefact: Path) -> None:
    loaded = qcompiler.load(artefact)
    result = loaded(torch.zeros(3, 1, 4, 4))
    assert isinstance(result, torch.Tensor)
    assert result.shape == (3, 4)
    assert json.loads((artefact / "report.json").read_text())["output"]["sqnr_db"] > 20


def test_compile_refuses_to_overwrite_unless_forced(
    folder: Path, artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["compile", f"{folder}/net.onnx", "--recipe", "w8a16", "--progress", "none"]
    before = (artefact / "manifest.json").read_bytes()
    assert run([*line, "-o", str(artefact)]) == 1
    assert "--force" in capsys.readouterr().err
    assert (artefact / "manifest.json").read_bytes() == before
    for _ in range(2):
        assert run([*line, "-o", str(tmp_path / "new"), "--force"]) == 0
    assert qcompiler.load(tmp_path / "new").manifest.face.name == "net"


def test_compile_json_is_the_report_and_the_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["compile", f"{folder}/net.onnx", "--recipe", "w8a16", "-o", str(tmp_path / "a"), "--json"]
    assert run([*line, "--progress", "json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["folder"] == str(tmp_path / "a")
    assert {"sqnr_db", "requested", "realised"} <= set(report["layers"][0])
    events = [json.loads(line) for line in captured.err.splitlines()]
    stages = [event["stage"] for event in events if "stage" in event]
    assert stages[0] == "read"
    assert any(stage.endswith(" apply_plan") for stage in stages)


def test_compile_takes_example_inputs_when_there_are_no_samples(folder: Path, tmp_path: Path) -> None:
    line = ["compile", f"{folder}/net.py:build", "--recipe", "w8a16", "--progress", "none", "-o", str(tmp_path / "a")]
    assert run(line) == 1
    assert not (tmp_path / "a").exists()
    assert run([*line, "--inputs", f"{folder}/one.npz"]) == 0


PAST = """
program @past stage=traced {
  input %past : f32[2]
  input %x : f32[2]
  %total = aten.add.Tensor %past, %x : f32[2]
  %y = aten.neg %total : f32[2]
  return %y, %total
}
"""


def test_compile_makes_inputs_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "past.qir").write_text(PAST)
    line = ["compile", f"{tmp_path}/past.qir", "--recipe", f"{tmp_path}/plain.yaml", "--progress", "none"]
    (tmp_path / "plain.yaml").write_text("name: plain\npasses: [apply_plan]\n")
    assert run([*line, "-o", str(tmp_path / "a"), "--states", "past=1"]) == 0
    made = qcompiler.load(tmp_path / "a")
    assert [made(torch.ones(2))[0].tolist() for _ in range(2)] == [[-1, -1], [-2, -2]]  # pyright: ignore[reportIndexIssue]
    for pairs in (["--states", "past"], ["--states", "past=1", "--states", "past=0"]):
        assert run([*line, "-o", str(tmp_path / "b"), *pairs]) == 1
        assert "--states past.0.key=present.0.key" in capsys.readouterr().err


def test_compile_over_budget_leaves_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["compile", f"{folder}/net.onnx", "--recipe", "w8a16", "--budget", "size=100x", "-o", str(tmp_path / "a")]
    assert run(line) == 1
    assert "budget allows" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_compile_replays_a_plan(folder: Path, artefact: Path, tmp_path: Path) -> None:
    output = tmp_path / "again"
    line = [*compile_line(folder), "--recipe", "w8a8", "--plan", f"{artefact}/plan.json", "-o", str(output)]
    assert run([*line, "--progress", "none"]) == 0
    assert (output / "plan.json").read_text() == (artefact / "plan.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "w9000"], "no recipe 'w9000'"),
        (["--target", "toaster"], "toaster"),
        (["--budget", "weight=3"], "not a budget"),
        (["--budget", "size=-4x"], "'-4x' is not a size"),
        (["--calibration", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_compile_names_the_option_that_makes_no_sense(
    options: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compile", f"{folder}/net.onnx", "--recipe", "w8a16", "-o", str(tmp_path / "a"), *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_stop_after_prints_the_program_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["compile", f"{folder}/net.onnx", "--recipe", "w8a16", "--stop-after", "2", "--progress", "none"]
    assert run([*line, "--dump-dir", str(tmp_path / "dump")]) == 0
    assert parse(capsys.readouterr().out).stage == "traced"
    assert [path.name[:3] for path in sorted((tmp_path / "dump").glob("*.qir"))] == ["00-", "01-", "02-"]


def test_stop_after_a_step_that_is_not_there_lists_the_steps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compile", f"{folder}/net.onnx", "--recipe", "w8a16", "--stop-after", "999"]) == 2
    assert "no step is called '999'" in capsys.readouterr().err


def test_print_after_prints_the_chosen_program_and_compiles_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["compile", f"{folder}/net.onnx", "--recipe", "w8a16", "-o", str(tmp_path / "a"), "--progress", "none"]
    assert run([*line, "--print-after", "apply_plan"]) == 0
    text = capsys.readouterr().out
    assert text.count("program @") == 1
    assert "qc.dequantize" in text
    assert (tmp_path / "a" / "model.onnx").is_file()


# -- models ---------------------------------------------------------------------------------------------------------


def test_a_factory_builds_a_new_model_each_time(folder: Path) -> None:
    first, second = (call_factory(folder / "net.py", "build") for _ in range(2))
    assert isinstance(first, torch.nn.Module)
    assert first is not second


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("net.py:nothing", "defines Size, build, wants"),
        ("net.py:wants", "needs arguments"),
        ("net.py", "name of the function"),
        ("gone.py:build", "no such Python file"),
        ("broken.py:build", "cannot be imported"),
    ],
)
def test_a_source_that_gives_no_model_says_why(source: str, message: str, folder: Path) -> None:
    (folder / "broken.py").write_text("import a_module_that_nobody_has\n")
    with pytest.raises(InputError, match=message):
        open_model(f"{folder}/{source}")


def test_a_broken_program_names_file_and_line(folder: Path) -> None:
    (folder / "broken.qir").write_text(TEXT.replace("aten.relu", "aten.nonsense"))
    with pytest.raises(ParseError, match=r"broken\.qir, line 5"):
        open_model(f"{folder}/broken.qir")


# -- catalogues -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name"),
    [("passes", "fold_batch_norm"), ("targets", "onnxruntime"), ("recipes", "w4a16g32"), ("formats", "uint4")],
)
def test_catalogues_print_as_table_and_as_json(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command]) == 0
    assert name in capsys.readouterr().out
    assert run([command, "--json"]) == 0
    assert name in [item["name"] for item in json.loads(capsys.readouterr().out)]


def test_a_printed_recipe_is_a_recipe_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "w4a16g64"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_recipe(path).passes == load_recipe("w4a16g64").passes


def test_a_target_shows_its_kernel_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets", "onnxruntime", "--json"]) == 0
    target = json.loads(capsys.readouterr().out)
    assert any("int8 sym channel" in slot["accepts"] for row in target["kernels"] for slot in row["slots"].values())
    assert run(["targets", "onnxruntime"]) == 0
    assert "aten.conv2d" in capsys.readouterr().out
