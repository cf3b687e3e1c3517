from __future__ import annotations

import errno
import gc
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qcompiler.artifact import Artifact, building, open_artifact, write_files
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program, Signature
from qcompiler.ir.structure import describe
from qcompiler.manifest import Manifest
from qcompiler.plan import Assignment, Plan
from qcompiler.report import LayerReport, Report
from qcompiler.target import Guard, LayerAudit, Runner, Target
from qcompiler.weights import read_program

TEXT = """
spec @w = int4 sym block=(1,-1) scale=f32
dim s0 = 4 in 1..64
program @net stage=quantized {
  input %x : f32[s0,16]
  input %shift : f32[s0,5]
  param %w : @w[5,16] = zeros()
  param %ws : f32[5,1] = uniform(seed=3)
  param %bias : f32[5] = values(1.5, -2, 0.1, 0, 7)
  param %big : f32[3,5] = zeros()
  %wd = qc.dequantize %w, %ws, none : f32[5,16]
  %y = aten.linear %x, %wd, %bias : f32[s0,5]
  %z = aten.add.Tensor %y, %shift : f32[s0,5]
  %v = aten.linear %z, %big, none : f32[s0,3]
  return %z, %v
}
"""
RECIPE = "name: test\n"


@dataclass
class FakeBackend:
    """Runs the program itself: what a backend is to an artefact."""

    name: str = "fake"
    guards: Mapping[str, Guard] = field(default_factory=dict)

    def lower(self, program: Program, target: Target) -> Program:
        return program

    def emit(self, program: Program, target: Target, folder: Path) -> Sequence[str]:
        (folder / "model.onnx").write_bytes(b"onnx")
        return ("model.onnx",)

    def audit(self, program: Program, target: Target, folder: Path) -> Sequence[LayerAudit]:
        return ()

    def meanings(self) -> Mapping[str, Callable[..., object]]:
        return {}

    def runner(self, folder: Path) -> Runner:
        program = read_program(folder)
        return lambda inputs: evaluate(program, inputs)


TARGET = Target("somewhere", FakeBackend(), ())
REPORT = Report("net", "somewhere", "test", (LayerReport("y"),), sqnr_db=30.0, seconds=1.25, peak_bytes=7)


def make_program() -> Program:
    program = parse_program(TEXT)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-8, 8, (5, 16), generator=generator).float()
    program.set_param(program.node("w"), codes, program.tensor_type(program.node("w")).spec)
    program.set_param(program.node("big"), torch.randn(3, 5, generator=generator))
    structure, _, _ = describe({"x": torch.zeros(1), "shift": torch.zeros(1)})
    result, _, _ = describe({"z": torch.zeros(1), "more": [torch.zeros(1)]})
    program.signature = Signature(describe(())[0], structure, result)
    return program


def write(folder: Path, program: Program | None = None, report: Report = REPORT) -> None:
    program = program or make_program()
    plan = Plan("somewhere", "w4", {"y": Assignment("linear")})
    files = TARGET.backend.emit(program, TARGET, folder)
    write_files(folder, program, plan, RECIPE, report, TARGET, 3, files)


def run_here(folder: Path, manifest: Mapping[str, object]) -> Runner:
    assert manifest["backend"] == "fake"
    return FakeBackend().runner(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "made"
    with building(path) as work:
        write(work)
    return path


@pytest.fixture
def artifact(folder: Path) -> Artifact:
    return open_artifact(folder, run_here)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {"x": torch.randn(2, 16, generator=generator), "shift": torch.randn(2, 5, generator=generator)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- writing and opening -----------------------------------------------------------------------------------------


def test_opened_artifact_is_what_was_written(artifact: Artifact, folder: Path) -> None:
    assert artifact.report == REPORT
    assert artifact.plan.assignments["y"].kernel == "linear"
    assert artifact.onnx == folder / "model.onnx"
    assert artifact.recipe == RECIPE
    assert artifact.manifest.seed == 3
    assert str(artifact.program) == str(make_program())


def test_same_compilation_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    with building(again) as work:
        write(work, report=replace(REPORT, seconds=99.0))
    first, second = files_of(folder), files_of(again)
    differing = {name for name in first if first[name] != second[name]}
    assert first.keys() == second.keys()
    assert differing == {"report.json", "report.html"}


def test_manifest_comes_back(artifact: Artifact) -> None:
    data = json.loads(json.dumps(artifact.manifest.to_json()))
    assert Manifest.from_json(data) == artifact.manifest


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "program.qir", "plan.json", "recipe.yaml"])
def test_a_changed_file_is_named(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(InputError, match=f"'{name}' is not the file"):
        open_artifact(folder, run_here)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "plan.json").unlink()
    with pytest.raises(InputError, match=r"lacks 'plan\.json'"):
        open_artifact(folder, run_here)


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no artefact"):
        open_artifact(tmp_path, run_here)
    with pytest.raises(InputError, match="no such folder"):
        open_artifact(tmp_path / "absent", run_here)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format=99), "format 99"),
        (lambda data: data.pop("face"), "cannot be read"),
        (lambda data: data["face"]["inputs"][0].update(dtype="f31"), "cannot be read"),
        (lambda data: data["face"]["inputs"][0].update(shape=["__import__('os')"]), "cannot be read"),
        (lambda data: data["files"].update({"../x": {"sha256": "", "size": 0}}), "outside"),
    ],
)
def test_a_broken_manifest_is_refused(folder: Path, change: Callable[[dict], object], message: str) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        open_artifact(folder, run_here)


def test_truncated_manifest_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match="cannot be read"):
        open_artifact(folder, run_here)


# -- calling -----------------------------------------------------------------------------------------------------


def test_call_takes_and_gives_the_structure_of_the_model(artifact: Artifact, inputs: dict[str, torch.Tensor]) -> None:
    expected = evaluate(make_program(), list(inputs.values()))
    for result in (
        artifact(**inputs),
        artifact(inputs["x"], shift=inputs["shift"].numpy()),
        artifact(inputs["x"].numpy(), inputs["shift"]),
    ):
        assert isinstance(result, dict)
        assert torch.equal(result["z"], expected[0])
        assert torch.equal(result["more"][0], expected[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 15)}, r"input 'x' must be f32\[s0,16\]"),
        ({"x": torch.zeros(2, 16, dtype=torch.float64)}, "input 'x' must be f32"),
        ({"x": np.zeros((2, 16))}, "input 'x' must be f32"),
        ({"shift": torch.zeros(3, 5)}, "input 'shift' must be"),
        ({"x": torch.zeros(65, 16), "shift": torch.zeros(65, 5)}, "input 'x' must be"),
        ({"x": "text"}, "input 'x' is a str"),
        ({"unknown": torch.zeros(1)}, "unknown"),
    ],
)
def test_a_call_that_does_not_fit_is_explained(
    artifact: Artifact, inputs: dict[str, torch.Tensor], change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        artifact(**{**inputs, **change})


def test_a_missing_input_is_named(artifact: Artifact, inputs: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InputError, match="missing shift"):
        artifact(x=inputs["x"])


def test_a_target_without_onnx_says_so(folder: Path) -> None:
    manifest = Manifest.load(folder)
    files = {name: record for name, record in manifest.files.items() if name != "model.onnx"}
    replace(manifest, files=files).save(folder)
    with pytest.raises(UnsupportedError, match="writes no ONNX"):
        _ = open_artifact(folder, run_here).onnx


# -- saving ------------------------------------------------------------------------------------------------------


def test_save_copies_every_file(artifact: Artifact, folder: Path, tmp_path: Path) -> None:
    saved = artifact.save(tmp_path / "deep" / "out")
    assert files_of(saved.folder) == files_of(folder)
    assert open_artifact(tmp_path / "deep" / "out", run_here).report == REPORT


def test_save_refuses_an_existing_folder(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists"):
        artifact.save(tmp_path / "out")


def test_force_replaces_an_artifact(artifact: Artifact, tmp_path: Path) -> None:
    saved = artifact.save(tmp_path / "out")
    (saved.folder / "stale").write_text("old")
    again = artifact.save(tmp_path / "out", force=True)
    assert not (again.folder / "stale").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "out"]


def test_force_replaces_the_folder_an_artifact_lies_in(artifact: Artifact, folder: Path) -> None:
    before = files_of(folder)
    artifact.save(folder, force=True)
    assert files_of(folder) == before


def test_force_never_replaces_what_is_no_artifact(artifact: Artifact, tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1").write_text("words")
    with pytest.raises(InputError, match="not an artefact"):
        artifact.save(precious, force=True)
    assert (precious / "chapter1").read_text() == "words"


def test_a_place_that_cannot_be_written_is_explained(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        artifact.save(tmp_path / "file" / "out")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="the system has no /dev/full")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    def build() -> None:
        with building(tmp_path / "new" / "out") as work:
            (work / "part").write_text("half")
            Path("/dev/full").write_bytes(b"x")

    with pytest.raises(InputError, match="disk is full") as caught:
        build()
    assert str(tmp_path / "new" / "out") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_keeps_the_old_artifact(folder: Path) -> None:
    def build() -> None:
        with building(folder, force=True) as work:
            (work / "part").write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = files_of(folder)
    with pytest.raises(InputError, match="disk is full"):
        build()
    assert files_of(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_other_errors_pass_through_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="labels"), building(tmp_path / "out"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "labels.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_lives_as_long_as_its_last_artifact(tmp_path: Path) -> None:
    holder = tempfile.TemporaryDirectory()
    place = Path(holder.name) / "artifact"
    with building(place) as work:
        write(work)
    artifact = open_artifact(place, run_here, holder)
    del holder
    saved = artifact.save(tmp_path / "out")
    del artifact
    gc.collect()
    assert place.exists()
    del saved
    gc.collect()
    assert not place.exists()
