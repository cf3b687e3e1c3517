"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import qcompiler
from qcompiler.cli.app import app, run
from qcompiler.cli.diffing import difference, structural
from qcompiler.cli.progress import BarProgress, NoProgress, PlainProgress, make_progress
from qcompiler.cli.sources import call_factory, open_model
from qcompiler.cli.steps import select_steps
from qcompiler.compiler import parse
from qcompiler.errors import AuditError, InputError, ParseError
from qcompiler.job import prepare
from qcompiler.passes.recipes import Recipe, load_recipe

MODULE = """
import dataclasses
import torch


@dataclasses.dataclass
class Size:
    width: int = 8


def build():
    torch.manual_seed(0)
    width = Size().width
    layers = [torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.BatchNorm2d(width), torch.nn.ReLU(), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(width * 16, 4))


def wants(width):
    return torch.nn.Linear(width, width)
"""
TEXT = """program @tiny stage=canonical {
  input %x : f32[2,4]
  param %w : f32[3,4] = normal(seed=1)
  %linear = aten.linear %x, %w, none : f32[2,3]
  %relu = aten.relu %linear : f32[2,3]
  return %relu
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module, its data, an ONNX file and a program."""
    home = tmp_path_factory.mktemp("cli")
    (home / "net.py").write_text(MODULE)
    (home / "tiny.qir").write_text(TEXT)
    samples = np.random.default_rng(0).normal(size=(16, 1, 4, 4)).astype(np.float32)
    np.savez(home / "samples.npz", input=samples)
    np.savez(home / "one.npz", input=samples[:1])
    write_onnx(home / "net.onnx")
    return home


@pytest.fixture(scope="module")
def artefact(folder: Path) -> Path:
    """The compiled module."""
    output = folder / "compiled"
    assert run([*compile_line(folder), "-o", str(output), "--progress", "none"]) == 0
    return output


def compile_line(folder: Path) -> list[str]:
    return ["compile", f"{folder}/net.py:build", "--calibration", f"{folder}/samples.npz"]


def write_onnx(path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(16, 8)).astype(np.float32), "w")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 16), ("y", 8))
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


# -- help and exit codes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["compile", "dump", "diff", "passes", "targets", "recipes", "formats"])
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
    assert sorted(app.commands) == ["compile", "diff", "dump", "formats", "passes", "recipes", "targets"]


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

    monkeypatch.setattr("qcompiler.cli.dump.dump_job", interrupt)
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
    assert [path.name[:3] for path in sorted((tmp_path / "dump").iterdir())] == ["00-", "01-", "02-"]


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


# -- dump -----------------------------------------------------------------------------------------------------------


def test_dump_all_prints_every_step_and_each_parses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", f"{folder}/net.onnx", "--recipe", "w8a16", "--after", "all"]) == 0
    texts = [part for part in capsys.readouterr().out.split("\n\n") if part.strip()]
    assert len(texts) == len(prepare(folder / "net.onnx", recipe="w8a16").passes) + 1
    assert parse(texts[0]).stage == "traced"
    assert parse(texts[-1]).stage == "quantized"


def test_dump_is_canonical_by_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", f"{folder}/net.py:build", "--inputs", f"{folder}/one.npz"]) == 0
    text = capsys.readouterr().out
    assert parse(text).stage == "canonical"
    assert "batch_norm" not in text


def test_dump_runs_passes_on_a_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passes = "assign{scheme=w8a16, keep=nothing_there*|linear},apply_plan"
    assert run(["dump", f"{folder}/tiny.qir", "--passes", passes]) == 1
    assert run(["dump", f"{folder}/tiny.qir", "--passes", "assign{scheme=w8a16},apply_plan"]) == 0
    assert "qc.quantize %w" in capsys.readouterr().out


def test_dump_prints_a_program_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", f"{folder}/tiny.qir"]) == 0
    assert capsys.readouterr().out.strip().endswith(TEXT.strip())


def test_dump_prints_the_program_of_an_artefact(artefact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", str(artefact)]) == 0
    assert "stage=lowered" in capsys.readouterr().out


def test_dump_json_holds_the_texts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dump", f"{folder}/net.onnx", "--after", "1", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)
    assert step["number"] == 1
    assert parse(step["program"]).stage == "traced"


def test_steps_are_chosen_by_name_number_or_all() -> None:
    passes = Recipe.of("some", ["assign", "apply_plan", "nearest", "nearest{search=mse}"]).passes
    assert select_steps("nearest", passes) == {3, 4}
    assert select_steps("0", passes) == {0}
    assert select_steps("all", passes) == {0, 1, 2, 3, 4}
    for wrong in ("5", "-1", "nearly"):
        with pytest.raises(Exception, match="the steps are 0"):
            select_steps(wrong, passes)


# -- diff -----------------------------------------------------------------------------------------------------------


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


# -- progress -------------------------------------------------------------------------------------------------------


def ticking(*times: float) -> Iterator[float]:
    yield from times


def test_plain_progress_has_one_line_per_stage() -> None:
    stream = io.StringIO()
    times = ticking(0, 1, 2, 2, 3)
    with PlainProgress(stream, lambda: 5_000_000, clock=lambda: next(times)) as progress:
        progress.update("1/2 calibrate", 0, 0)
        progress.update("1/2 calibrate", 3, 8)
        progress.update("2/2 nearest", 0, 0)
        progress.log("hello")
    assert stream.getvalue() == "1/2 calibrate 3/8: 2.0 s, peak 5 MB\nhello\n2/2 nearest: 1.0 s, peak 5 MB\n"


def test_plain_progress_tells_the_time_left_of_a_long_stage() -> None:
    stream = io.StringIO()
    times = ticking(0, 12, 12)
    progress = PlainProgress(stream, lambda: 0, clock=lambda: next(times))
    progress.update("calibrate", 0, 8)
    progress.update("calibrate", 2, 8)
    assert "calibrate 2/8: 12.0 s, 36 s left" in stream.getvalue()


def test_a_failed_stage_is_not_reported_as_done() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, lambda: 0)
    progress.update("read", 0, 0)
    progress.__exit__(InputError, InputError("no"), None)
    assert stream.getvalue() == ""


def test_progress_follows_the_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(make_progress("auto", io.StringIO()), PlainProgress)
    assert isinstance(make_progress("none", Terminal()), NoProgress)
    bar = make_progress("auto", Terminal(), lambda: 123_000_000)
    assert isinstance(bar, BarProgress)
    with bar:
        bar.update("3/9 calibrate", 0, 0)
        bar.update("3/9 calibrate", 2, 8)
        task = bar.bars.tasks[0]
        assert (task.completed, task.total, task.fields["peak"]) == (2, 8, "123 MB")
        bar.update("4/9 nearest", 0, 0)
        assert [task.description for task in bar.bars.tasks] == ["4/9 nearest"]


def test_the_runner_reports_samples_of_each_step(folder: Path) -> None:
    from qcompiler.job import run_job
    from qcompiler.pipeline import Options

    seen: list[tuple[str, int, int]] = []
    options = Options(check="off", progress=lambda stage, done, total: seen.append((stage, done, total)))
    model = call_factory(folder / "net.py", "build")
    samples = [torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))] * 3
    run_job(prepare(model, calibration=samples, recipe="w8a8", options=options))
    calibrating = [event for event in seen if event[0].endswith(" calibrate")]
    assert [done for _, done, _ in calibrating][:4] == [0, 1, 2, 3]
    assert {total for _, done, total in calibrating if done} == {3}
