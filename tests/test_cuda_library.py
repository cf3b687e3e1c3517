"""Libraries of kernels: what is written, and the generated C, run against a driver whose device is this processor."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from qcompiler.backends.cuda import library as libraries
from qcompiler.backends.cuda.arguments import Value
from qcompiler.backends.cuda.driver import Emulated, Loaded, load_by
from qcompiler.backends.cuda.execution import digest_of, opened, run_layer
from qcompiler.backends.cuda.interface import plain
from qcompiler.backends.cuda.kernels.row import RUNTIME, CudaKernel, Instance
from qcompiler.backends.cuda.layer import Layer, compatible
from qcompiler.backends.cuda.library import WEIGHTS_FILE, Library, read_library
from qcompiler.backends.cuda.settings import Settings
from qcompiler.backends.cuda.toolchain import compile_emulation
from qcompiler.errors import InputError, UnsupportedError, VerifyError
from tests.cuda_harness import aligned
from tests.cuda_models import compiled

HERE = Path(__file__).parent
FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-fPIC", "-shared")
ROWS = 5
RECIPE = "w8a8"


class Interface:
    """The generated C of a library, with the processor as its device."""

    def __init__(self, folder: Path, library: Library, fake: ctypes.CDLL, code: ctypes.CDLL) -> None:
        self.folder, self.library, self.fake, self.code = folder, library, fake, code
        self.state = ctypes.create_string_buffer(4096)

    def open(self) -> int:
        return self.call("open", self.state, str(self.folder).encode())

    def call(self, name: str, *arguments: object) -> int:
        return getattr(self.code, f"{self.library.name}_{name}")(*arguments)

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.library.layers if layer.name == name)

    def number(self, name: str) -> ctypes.c_int:
        return ctypes.c_int.in_dll(self.fake, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with something in the place of its code."""
    place = tmp_path_factory.mktemp("library") / "cuda"
    shutil.copytree(compiled(RECIPE).folder / "cuda", place)
    name = read_library(place).name
    for capability in (80, 87, 90):
        (place / f"{name}_sm_{capability}.cubin").write_bytes(b"cubin")
    return place


@pytest.fixture(scope="module")
def interface(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interface]:
    built = tmp_path_factory.mktemp("built")
    library = read_library(folder)
    emulation, driver, code = built / "emulation.so", built / "driver.so", built / "code.so"
    used = {
        (kernel.name, instance.name): (kernel, instance)
        for layer in library.layers
        for launch in layer.variant(87, ROWS).launches
        for kernel, instance in [launch.rows()]
    }
    compile_emulation(list(used.values()), emulation)
    _build([*FLAGS, f'-DEMULATION="{emulation}"', str(HERE / "cuda_fake_driver.c"), "-o", str(driver), "-ldl"])
    source = str(folder / f"{library.name}.c")
    _build([*FLAGS, f'-DQC_CUDA_DRIVER="{driver}"', source, "-o", str(code), "-ldl"])
    loaded = ctypes.CDLL(str(code))
    workspace = getattr(loaded, f"{library.name}_workspace")
    workspace.restype = ctypes.c_size_t
    made = Interface(folder, library, ctypes.CDLL(str(driver)), loaded)
    assert made.open() == 0
    yield made
    made.call("close", made.state)


def test_every_layer_of_the_c_interface_equals_the_runner(interface: Interface) -> None:
    rng = np.random.default_rng(0)
    library = opened(str(interface.folder), digest_of(interface.folder))
    tensors = _weights(interface.folder)
    zeros = torch.zeros(max(interface.library.counters, 1), dtype=torch.int32)
    for layer in interface.library.layers:
        inputs = [_drawn(rng, port.dtype, port.width) for port in layer.inputs]
        weights = [*(tensors[f"{layer.name}.{name}"] for name in layer.weights), zeros]
        expected = run_layer(library.layers[layer.name], Emulated(), 87, inputs, weights)
        found = [aligned(np.zeros(value.shape, value.numpy().dtype)) for value in expected]
        before = interface.number("fake_launches").value
        assert _run(interface, layer, inputs, found) == 0, ctypes.c_char_p.in_dll(interface.fake, "fake_fault").value
        assert interface.number("fake_launches").value == before + len(layer.variant(87, ROWS).launches)
        for value, one in zip(expected, found, strict=True):
            np.testing.assert_array_equal(value.numpy(), one, err_msg=layer.name)


def test_driver_in_python_starts_the_same_kernels(interface: Interface) -> None:
    layer = next(one for one in interface.library.layers if one.weights and one.inputs[0].element == "float32")
    used = [launch.rows() for launch in layer.variant(87, ROWS).launches]
    loaded = load_by(interface.fake, b"cubin", [instance for _, instance in used], 0)
    tensors = _weights(interface.folder)
    weights = [*(tensors[f"{layer.name}.{name}"] for name in layer.weights), torch.zeros(1, dtype=torch.int32)]
    inputs = [_drawn(np.random.default_rng(1), port.dtype, port.width) for port in layer.inputs]
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
    layer = next(one for one in interface.library.layers if one.variant(87, ROWS).workspace)
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
    tensors = {name: value.clone() for name, value in _weights(compiled(RECIPE).folder / "cuda").items()}

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


def _build(command: list[str]) -> None:
    done = subprocess.run(["gcc", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.numpy import load_file

    return {name: torch.from_numpy(aligned(value)) for name, value in load_file(folder / WEIGHTS_FILE).items()}


def _drawn(rng: np.random.Generator, dtype: torch.dtype, width: int) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.from_numpy(aligned(rng.uniform(0.01, 1, (ROWS, width)).astype(np.float32))).to(dtype)
    return torch.from_numpy(aligned(rng.integers(-100, 100, (ROWS, width)))).to(dtype)


def _run(interface: Interface, layer: Layer, inputs: list[torch.Tensor], results: list[np.ndarray]) -> int:
    size = interface.call("workspace", interface.state, ROWS)
    workspace = aligned(np.zeros(max(size, 1), np.uint8), 256)
    pointers = [value.data_ptr() for value in inputs] + [value.ctypes.data for value in results]
    arguments = (ctypes.c_void_p(pointer) for pointer in pointers)
    return interface.call(layer.name, interface.state, *arguments, ROWS, ctypes.c_void_p(workspace.ctypes.data), None)
