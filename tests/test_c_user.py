"""What a user of generated C meets: settings that do not exist, machines without compilers, the size that counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qcompiler
from qcompiler.backends.c import backend as c_backend
from qcompiler.backends.c import building
from qcompiler.errors import SpecError, UnsupportedError
from qcompiler.job import backends
from qcompiler.targets import load_target


def compiled(target: str) -> qcompiler.Artifact:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    return qcompiler.compile(model, target, calibration=[torch.randn(8, 32)])


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("host{isa=avx1024}", "there is no instruction set avx1024"),
        ("host{speed=1}", "there is no setting speed"),
        ("host{weight_only=int4}", "setting weight_only"),
        ("host{run_threads=0}", "setting run_threads"),
    ],
)
def test_a_setting_that_cannot_be_is_named(target: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        compiled(target)


def test_a_value_that_cannot_be_read_is_named() -> None:
    with pytest.raises(SpecError, match="the value of setting dispatched"):
        load_target("x86-64-v3{dispatched=[amx}", backends())


def test_a_list_in_braces_is_read() -> None:
    target = load_target("x86-64-v3{dispatched=[amx, avx512], run_threads=2}", backends())
    assert target.settings["dispatched"] == ["amx", "avx512"]
    assert target.settings["run_threads"] == 2


def _missing(*_: object) -> None:
    raise UnsupportedError("no C compiler is found", mend="install one")


def test_without_a_compiler_the_files_are_written_and_the_simulation_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for place in (c_backend, building):
        monkeypatch.setattr(place, "find_compiler", _missing)
    artifact = compiled("host")
    assert (artifact.folder / "c/model.c").is_file()
    assert artifact.report.sqnr_db is not None
    assert artifact.report.sqnr_db > 25
    assert any("no C compiler is found; install one" in line for line in artifact.report.warnings)


def test_the_size_is_that_of_the_weights() -> None:
    artifact = compiled("cortex-m")
    assert artifact.report.quantized_bytes == (artifact.folder / "c/weights.bin").stat().st_size


def test_a_saved_model_is_audited_like_a_fresh_one(tmp_path: Path) -> None:
    artifact = compiled("cortex-m").save(tmp_path / "saved")
    target = load_target("cortex-m", backends())
    found = target.backend.audit(qcompiler.load(artifact.folder).program, target, artifact.folder)
    assert [(layer.realised, layer.ok) for layer in found] == [("linear", True), ("linear", True)]
