"""Libraries of kernels: what is written, and the generated C, run against a driver whose device is this processor."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from qcompiler.backends.cuda import library as libraries
from qcompiler.backends.cuda.arguments import Value
from qcompiler.backends.cuda.driver import Emulated, Loaded, load_by
from qcompiler.backends.cuda.execution import run_layer
from qcompiler.backends.cuda.interface import plain
from qcompiler.backends.cuda.kernels.row import RUNTIME, CudaKernel, Instance
from qcompiler.backends.cuda.layer import compatible
from qcompiler.backends.cuda.library import WEIGHTS_FILE, Library, read_library
from qcompiler.backends.cuda.settings import Settings
from qcompiler.errors import InputError, UnsupportedError, VerifyError
from tests.cuda_harness import aligned
from tests.cuda_interface import Interface, built_interface, drawn, equals_the_runner, weights_of, with_code
from tests.cuda_models import compiled

ROWS = 5
RECIPE = "w8a8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with something in the place of its code."""
    return with_code(compiled(RECIPE).folder / "cuda", tmp_path_factory.mktemp("library") / "cuda")


@pytest.fixture(scope="module")
def interface(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interface]:
    made = built_interface(folder, tmp_path_factory.mktemp("built"), ROWS)
    yield made
    made.call("close", made.state)


def test_every_layer_of_the_c_interface_equals_the_runner(interface: Interface) -> None:
    equals_the_runner(interface, ROWS)


def test_driver_in_python_starts_the_same_kernels(interface: Interface) -> None:
    layer = next(one for one in interface.library.layers if one.weights and one.inputs[0].element == "float32")
    used = [launch.rows() for launch in layer.variant(87, ROWS).launches]
    loaded = load_by(interface.fake, b"cubin", [instance for _, instance in used], 0)
    tensors = weights_of(interface.folder)
    weights = [*(tensors[f"{layer.name}.{name}"] for name in layer.weights), torch.zeros(1, dtype=torch.int32)]
    inputs = [drawn(np.random.default_rng(1), port, ROWS) for port in layer.inputs]
    expected = run_layer(layer, Emulated(), 87, inputs, weights)
    found = run_layer(layer, _Streamless(loaded), 87, inputs, weights)
    assert torch.equal(found[0], expected[0])
    with pytest.raises(VerifyError, match="cannot be loaded"):
        load_by(interface.fake, b"other", [], 0)


def test_takes_the_newest_code_that_the_device_runs(interface: Interface) -> None:
    assert ctypes.c_int.from_buffer(interface.state).value == 87
    second = ctypes.create_string_buffer(4096)
    try:
        interface.number("fake_minor").value = 6
        assert interface.call("open", second, str(interface.folder).encode()) == 0
        assert ctypes.c_int.from_buffer(second).value == 80
        interface.call("close", second)
    finally:
        interface.number("fake_minor").value = 7


def test_refuses_what_it_cannot_run(interface: Interface, tmp_path: Path) -> None:
    state = ctypes.create_string_buffer(4096)
    no_device, no_file, other_weights = 3, 4, 5
    interface.number("fake_major").value = 7
    assert interface.call("open", state, str(interface.folder).encode()) == no_device
    interface.number("fake_major").value = 8
    assert interface.call("open", state, str(tmp_path).encode()) == no_file
    shutil.copytree(interface.folder, tmp_path / "copy")
    weights = bytearray((tmp_path / "copy" / WEIGHTS_FILE).read_bytes())
    weights[20] ^= 1
    (tmp_path / "copy" / WEIGHTS_FILE).write_bytes(weights)
    assert interface.call("open", state, str(tmp_path / "copy").encode()) == other_weights


def test_checks_its_arguments(interface: Interface) -> None:
    layer = next(one for one in interface.library.layers if one.variant(87, ROWS).workspace and len(one.inputs) == 1)
    port = layer.inputs[0]
    source = aligned(np.zeros((ROWS + 1, port.width), np.float32))
    result = aligned(np.zeros((ROWS + 1, layer.outputs[0].width), np.float32))
    room = aligned(np.zeros(1 << 16, np.uint8), 256)
    bad_argument = 1

    def status(given: int, rows: int, workspace: int | None) -> int:
        pointers = (ctypes.c_void_p(given), ctypes.c_void_p(result.ctypes.data))
        return interface.call(layer.name, interface.state, *pointers, rows, ctypes.c_void_p(workspace), None)

    assert status(source.ctypes.data, ROWS, room.ctypes.data) == 0
    assert status(0, ROWS, room.ctypes.data) == bad_argument
    assert status(source.ctypes.data + 4, ROWS, room.ctypes.data) == bad_argument
    assert status(source.ctypes.data, -1, room.ctypes.data) == bad_argument
    assert status(source.ctypes.data, ROWS, None) == bad_argument
    assert status(source.ctypes.data, 0, None) == 0


def test_library_is_the_same_every_time() -> None:
    again = compiled.__wrapped__(RECIPE)
    first, second = compiled(RECIPE).folder / "cuda", again.folder / "cuda"
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert [name for name in files if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_sources_are_complete(folder: Path) -> None:
    names = {path.name for path in (folder / "kernels").iterdir()}
    included = {
        line.split('"')[1]
        for name in names
        for line in (folder / "kernels" / name).read_text().splitlines()
        if line.startswith('#include "')
    }
    assert included - names == {"qc_emulation.h"}
    assert all((folder / "kernels" / name).read_text() == (RUNTIME / name).read_text() for name in names & included)


def test_plan_is_read_back(folder: Path, tmp_path: Path) -> None:
    library = read_library(folder)
    assert Library.model_validate_json(library.model_dump_json()) == library
    with pytest.raises(InputError, match="no folder of generated CUDA"):
        read_library(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(InputError, match=r"plan\.json does not say"):
        read_library(tmp_path)


def test_without_a_compiler_sources_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = read_library(compiled(RECIPE).folder / "cuda").layers
    tensors = {name: value.clone() for name, value in weights_of(compiled(RECIPE).folder / "cuda").items()}

    def missing(*arguments: object) -> None:
        raise UnsupportedError("nvcc is not found")

    monkeypatch.setattr(libraries, "_cubin", missing)
    settings = Settings(architectures=(80, 87, 90))
    for name in ("auto", "ahead"):
        (tmp_path / name).mkdir()
    written = libraries.write_library("block", layers, tensors, settings, tmp_path / "auto")
    assert written.code[87].left == "to be compiled where it runs: nvcc is not found"
    ahead = settings.model_copy(update={"build": "ahead"})
    with pytest.raises(UnsupportedError, match="nvcc is not found"):
        libraries.write_library("block", layers, tensors, ahead, tmp_path / "ahead")


def test_code_runs_on_its_generation_from_its_version_on() -> None:
    assert compatible((80, 86, 90), 87) == 86
    assert compatible((80, 86, 90), 80) == 80
    assert compatible((86, 90), 80) is None
    assert compatible((80, 86), 90) is None


def test_text_of_a_model_cannot_end_a_comment() -> None:
    assert plain('a*/ "b"\n/*') == "a__ _b____"


@dataclass(frozen=True)
class _Streamless:
    """A driver in the default stream, which needs no torch that knows CUDA."""

    loaded: Loaded

    def launch(self, kernel: CudaKernel, instance: Instance, values: Mapping[str, Value]) -> None:
        self.loaded.launch_into(0, kernel, instance, values)
