"""The generated C of a library of kernels, against a driver whose device is this processor."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from qcompiler.backends.cuda.driver import Emulated
from qcompiler.backends.cuda.execution import digest_of, opened, run_layer
from qcompiler.backends.cuda.layer import Layer, Port
from qcompiler.backends.cuda.library import WEIGHTS_FILE, Library, read_library
from qcompiler.backends.cuda.toolchain import compile_emulation
from tests.cuda_harness import aligned

HERE = Path(__file__).parent
FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-fPIC", "-shared")
CAPABILITY = 87
"""Of the driver's device."""


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

    def run(self, layer: Layer, inputs: list[torch.Tensor], results: list[np.ndarray], rows: int) -> int:
        """Calls the function of a layer; returns its status."""
        workspace = aligned(np.zeros(max(self.call("workspace", self.state, rows), 1), np.uint8), 256)
        pointers = [value.data_ptr() for value in inputs] + [value.ctypes.data for value in results]
        arguments = (ctypes.c_void_p(pointer) for pointer in pointers)
        return self.call(layer.name, self.state, *arguments, rows, ctypes.c_void_p(workspace.ctypes.data), None)


def with_code(source: Path, place: Path) -> Path:
    """A copy of a library's folder with something in the place of its code."""
    shutil.copytree(source, place)
    library = read_library(place)
    for capability in library.capabilities:
        (place / f"{library.name}_sm_{capability}.cubin").write_bytes(b"cubin")
    return place


def built_interface(folder: Path, built: Path, rows: int) -> Interface:
    """Builds a library's C, the driver and the kernels that calls of so many rows start."""
    library = read_library(folder)
    emulation, driver, code = built / "emulation.so", built / "driver.so", built / "code.so"
    used = {
        (kernel.name, instance.name): (kernel, instance)
        for layer in library.layers
        for launch in layer.variant(CAPABILITY, rows).launches
        for kernel, instance in [launch.rows()]
    }
    compile_emulation(list(used.values()), emulation)
    build([*FLAGS, f'-DEMULATION="{emulation}"', str(HERE / "cuda_fake_driver.c"), "-o", str(driver), "-ldl"])
    source = str(folder / f"{library.name}.c")
    build([*FLAGS, f'-DQC_CUDA_DRIVER="{driver}"', source, "-o", str(code), "-ldl"])
    loaded = ctypes.CDLL(str(code))
    workspace = getattr(loaded, f"{library.name}_workspace")
    workspace.restype = ctypes.c_size_t
    made = Interface(folder, library, ctypes.CDLL(str(driver)), loaded)
    assert made.open() == 0
    return made


def equals_the_runner(interface: Interface, rows: int) -> None:
    """Fails unless every layer of the C interface starts the launches of its plan, with the runner's results."""
    rng = np.random.default_rng(0)
    library = opened(str(interface.folder), digest_of(interface.folder))
    tensors = weights_of(interface.folder)
    zeros = torch.zeros(max(interface.library.counters, 1), dtype=torch.int32)
    for layer in interface.library.layers:
        inputs = [drawn(rng, port, rows) for port in layer.inputs]
        weights = [*(tensors[f"{layer.name}.{name}"] for name in layer.weights), zeros]
        expected = run_layer(library.layers[layer.name], Emulated(), CAPABILITY, inputs, weights)
        found = [aligned(np.zeros(value.shape, value.numpy().dtype)) for value in expected]
        before = interface.number("fake_launches").value
        status = interface.run(layer, inputs, found, rows)
        assert status == 0, ctypes.c_char_p.in_dll(interface.fake, "fake_fault").value
        assert interface.number("fake_launches").value == before + len(layer.variant(CAPABILITY, rows).launches)
        for value, one in zip(expected, found, strict=True):
            np.testing.assert_array_equal(value.numpy(), one, err_msg=layer.name)


def build(command: list[str]) -> None:
    """Compiles C."""
    done = subprocess.run(["gcc", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Packed weights by `layer.name`."""
    return {name: torch.from_numpy(aligned(value)) for name, value in load_file(folder / WEIGHTS_FILE).items()}


def drawn(rng: np.random.Generator, port: Port, rows: int) -> torch.Tensor:
    """Random values for an input."""
    shape = (rows, *port.dims)
    if port.dtype.is_floating_point:
        return torch.from_numpy(aligned(rng.uniform(0.01, 1, shape).astype(np.float32))).to(port.dtype)
    return torch.from_numpy(aligned(rng.integers(-100, 100, shape))).to(port.dtype)
