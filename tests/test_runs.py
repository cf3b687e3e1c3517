"""Run folders and `replay`: the same bytes again from any step, without the model; what is kept, what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from qcompiler.cli.app import run
from qcompiler.cli.sources import open_model
from qcompiler.compiler import parse
from qcompiler.errors import InputError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.pattern import Refusal
from qcompiler.ir.program import Program, Stage
from qcompiler.job import Job, backends, run_job
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Context, Exact, Options, Promise, Step, run_passes
from qcompiler.runs import Recorder, RunHead, open_run
from qcompiler.spec import QuantSpec
from qcompiler.targets import load_target
from qcompiler.unsaid import restore, unsaid
from tests.cli_tools import make_folder, make_run

TEXT = """dim s0 = 2 in 1..
program @p stage=canonical {
  input %x : f32[s0,4]
  param %w : f32[16,4] = normal(seed=1)
  %a, %b = aten.split_with_sizes %x, [2, 2], -1 : (f32[s0,2], f32[s0,2])
  %linear = aten.linear %x, %w, none : f32[s0,16]
  %cat = aten.cat [%b, %a, %linear], -1 : f32[s0,20]
  return %cat
}
"""


@dataclass(frozen=True)
class Touch:
    """Keeps a weight more exactly than its type, and refuses a node."""

    name: ClassVar[str] = "touch"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-3)

    def run(self, program: Program, ctx: Context) -> Program:
        program.set_exact(program.node("w"), program.param(program.node("w")).double() * (1 + 1e-9))
        ctx.refuse(program.node("cat"), "too early", "wait", depth=2)
        return program


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An artefact and its run."""
    return make_run(make_folder(tmp_path_factory.mktemp("runs")))


def job(program: Program, folder: Path, weights: str = "all") -> Job:
    options = Options(dump_dir=folder, dump_weights=weights)  # pyright: ignore[reportArgumentType]
    return Job(program, load_target("simulation", backends()), (Touch(),), Recipe("none", ()), options=options)


def weighted() -> Program:
    program = parse(TEXT)
    program.set_param(program.node("w"), program.param(program.node("w")))
    return program


def test_a_run_gives_back_every_program_with_its_exact_weights(tmp_path: Path) -> None:
    _, final, _ = run_job(job(weighted(), tmp_path))
    opened = open_run(tmp_path)
    assert [step.step.text for step in opened.steps] == ["start", "touch"]
    again = opened.program(1)
    assert str(again) == str(final)
    kept = again.params["w"]
    assert isinstance(kept, torch.Tensor)
    assert kept.dtype == torch.float64
    assert torch.equal(kept, torch.as_tensor(final.params["w"]))
    assert [node.name for node in again.graph.nodes] == [node.name for node in final.graph.nodes]


def test_weights_inside_regions_are_kept_too(tmp_path: Path) -> None:
    text = """dim n = 2 in 1..
dim m = 3 in 1..
program @repeat stage=canonical {
  input %x : f32[n,4]
  input %count : i64[]
  region @step {
    input %number : i64[]
    input %going : bool[]
    input %state : f32[n,4]
    param %w : f32[4,4] = normal(seed=1)
    %linear = aten.linear %state, %w, none : f32[n,4]
    %seen = aten.amax %linear, [1] : f32[n]
    return %going, %linear, %seen
  }
  %last, %peaks = qc.loop %count, none, [%x], [] {body=@step} : (f32[n,4], f32[m,n])
  return %last, %peaks
}
"""
    program = parse(text)
    inner = program.regions["step"]
    inner.params["w"] = inner.param(inner.node("w"))
    run_job(replace(job(program, tmp_path), passes=()))
    again = open_run(tmp_path).program(0)
    assert str(again) == str(program)
    assert list(again.dimensions.symbols) == ["n", "m"]
    inputs = [torch.ones(2, 4), torch.tensor(2)]
    for value, wanted in zip(evaluate(again, inputs), evaluate(program, inputs), strict=True):
        assert torch.equal(value, wanted)


def test_each_weight_is_stored_once(made: tuple[Path, Path]) -> None:
    opened = open_run(made[1])
    keys = [key for step in opened.steps for key in step.tensors]
    assert len(keys) == len(set(keys))
    assert 0 < len([step for step in opened.steps if step.tensors]) < len(opened.steps) / 2


def test_refusals_and_statistics_are_kept(made: tuple[Path, Path], tmp_path: Path) -> None:
    run_job(job(weighted(), tmp_path))
    assert open_run(tmp_path).steps[1].step.refusals == (Refusal("too early", "cat", 2, "wait"),)
    digests = {step.name: step.step.statistics for step in open_run(made[1]).steps}
    assert len(digests["calibrate"]) == 16
    assert digests["apply_plan"] == ""


def test_a_failed_run_keeps_what_it_did(tmp_path: Path) -> None:
    failing = job(weighted(), tmp_path)
    with pytest.raises(InputError, match="one"):
        run_job(replace(failing, passes=(Touch(), Fail())))
    assert [step.name for step in open_run(tmp_path).steps] == ["start", "touch"]


@dataclass(frozen=True)
class Fail:
    """Raises."""

    name: ClassVar[str] = "fail"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        raise InputError("one")


def test_digests_alone_can_be_read_but_not_computed(tmp_path: Path) -> None:
    run_job(job(weighted(), tmp_path, "digests"))
    opened = open_run(tmp_path)
    assert opened.weights == "digests"
    assert not list(tmp_path.glob("0*.safetensors"))
    assert opened.text(1).startswith("dim s0")
    with pytest.raises(InputError, match="not at hand"):
        evaluate(opened.program(1), [torch.ones(2, 4)])


def test_large_weights_are_only_kept_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.runs.MOST_BYTES", 100)
    lines: list[str] = []
    run_job(replace(job(weighted(), tmp_path, "auto"), log=lines.append))
    assert open_run(tmp_path).weights == "digests"
    assert "--dump-weights all" in lines[0]


def test_codes_come_back_with_their_negative_zeros(tmp_path: Path) -> None:
    spec = QuantSpec.parse("int4 sym block=(1,-1) scale=f32")
    program = weighted()
    codes = torch.tensor([[-0.0, 1.0, -8.0, 0.0]]).repeat(16, 1)
    program.set_param(program.node("w"), codes, spec)
    recorder = Recorder(tmp_path, RunHead("p", "simulation", "", ()), "all", [torch.ones(2, 4)])
    recorder.start(program, (), lambda line: None)
    (tmp_path / "00-canonical.qir").write_text(str(program))
    back = open_run(tmp_path).program(0).param(program.node("w"))
    assert torch.equal(back, codes)
    assert torch.equal(back.signbit(), codes.signbit())


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run folder"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        open_run(tmp_path)


def test_a_step_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    run_job(job(weighted(), tmp_path))
    (tmp_path / "01-touch.json").write_text("{}")
    with pytest.raises(InputError, match="step 1 of the run cannot be read"):
        open_run(tmp_path).program(1)
    with pytest.raises(InputError, match="no step 2"):
        open_run(tmp_path).program(2)


def test_a_new_run_takes_the_place_of_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "99-mine.json").write_text("{}")
    run_job(job(weighted(), tmp_path))
    assert (tmp_path / "99-mine.json").is_file()
    (tmp_path / "99-mine.json").unlink()
    run_job(replace(job(weighted(), tmp_path), passes=()))
    assert sorted(path.name for path in tmp_path.glob("*.qir")) == ["00-canonical.qir"]


def test_symbols_and_names_that_no_text_says_come_back() -> None:
    program = parse(TEXT.replace("s0", "batch"))
    whole = next(node for node in program.nodes if program.op(node) == "aten.split_with_sizes")
    program.rename(whole, "parts")
    back = parse(str(program))
    restore(back, unsaid(program))
    assert [node.name for node in back.graph.nodes] == [node.name for node in program.graph.nodes]
    assert list(back.dimensions.symbols) == ["batch"]
    assert {str(program.type(node)) for node in program.nodes} == {str(back.type(node)) for node in back.nodes}


def test_the_model_of_a_run_is_its_last_program(made: tuple[Path, Path]) -> None:
    program = open_model(str(made[1]))
    assert isinstance(program, Program)
    assert program.stage == Stage.QUANTIZED


def test_the_passes_alone_can_be_run_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path)
    line = ["compile", f"{folder}/net.onnx", "--recipe", "w8a16", "--progress", "none"]
    assert run([*line, "--dump-dir", str(tmp_path / "run")]) == 0
    steps = open_run(tmp_path / "run").steps
    assert f"run: {tmp_path / 'run'}, {len(steps) - 1} steps" in capsys.readouterr().out
    assert [step.step.number for step in steps] == list(range(len(steps)))
    assert steps[-1].stage == "quantized"


# -- replay ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["0", "assign", "calibrate"])
def test_a_replay_makes_the_same_artefact_bytes(
    made: tuple[Path, Path], start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artefact, kept = made
    assert run(["replay", str(kept), "--from", start, "-o", str(tmp_path / "again"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(step["same"] for step in found["steps"])
    assert found["from"] + len(found["steps"]) == len(open_run(kept).steps) - 1
    for path in artefact.iterdir():
        if path.name not in ("report.json", "report.html"):
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_replay_with_other_passes_says_what_differs(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["replay", str(made[1]), "--from", "apply_plan", "--passes", "calibrate{method=minmax},nearest"]
    assert run([*line, "--dump-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "another program: after" in text
    assert [step.name for step in open_run(tmp_path).steps] == ["start", "calibrate", "nearest"]
    names = [step.name for step in open_run(made[1]).steps]
    again = open_run(tmp_path).program(0)
    assert str(again) == open_run(made[1]).text(names.index("apply_plan"))


def test_a_replay_never_overwrites_its_own_run(made: tuple[Path, Path]) -> None:
    assert run(["replay", str(made[1]), "--dump-dir", str(made[1])]) == 2


def test_a_replay_needs_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(job(weighted(), tmp_path, "digests"))
    assert run(["replay", str(tmp_path)]) == 1
    assert "--dump-weights all" in capsys.readouterr().err


def test_a_later_run_sees_the_float_program_as_reference(tmp_path: Path) -> None:
    seen: list[Program | None] = []
    program = weighted()

    @dataclass(frozen=True)
    class Look:
        name: ClassVar[str] = "look"
        needs: ClassVar[Stage] = Stage.QUANTIZED
        gives: ClassVar[Stage] = Stage.QUANTIZED
        promise: ClassVar[Promise] = Exact()

        def run(self, program: Program, ctx: Context) -> Program:
            seen.append(ctx.reference)
            return program

    quantized = program.copy()
    quantized.stage = Stage.QUANTIZED
    context = Context(load_target("simulation", backends()), reference=program)
    _, steps = run_passes(quantized, [Look()], context)
    assert seen == [program]
    assert isinstance(steps[0], Step)
