"""Runs the program of a folder of generated C: on this machine, or under an emulator for another processor."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qcompiler.backends.c.building import Build
from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.module import Port, chosen
from qcompiler.backends.c.project import read_project
from qcompiler.backends.c.toolchain import find_emulator
from qcompiler.errors import InputError

SECONDS = 600.0
_DIFFERENT = 1


@dataclass(frozen=True)
class Checked:
    """What the self-test found.

    Args:
        equal: whether all results are the recorded ones, bit for bit.
        text: one line per result.
    """

    equal: bool
    text: str


def run_selftest(folder: Path, isa: Isa | None = None, threads: int = 1, seconds: float = SECONDS) -> Checked:
    """Runs the recorded inputs and compares.

    Args:
        folder: of the model.
        isa: level to run on where the model is made for any processor; None for its own.
        threads: how many share the work.
        seconds: that it may take.

    Raises:
        InputError: when nothing is recorded, the compiler refuses the model, or its program fails.
        UnsupportedError: when the compiler or the emulator is not found.
    """
    if not read_project(folder).recorded:
        raise InputError("nothing was recorded for the self-test", where=str(folder), step="selftest")
    done = _call(folder, isa, ["check", str(folder), str(threads)], seconds, accepted=(0, _DIFFERENT))
    return Checked(done.returncode == 0, done.stdout)


def run_emulated(
    folder: Path, isa: Isa | None, inputs: Sequence[torch.Tensor | np.ndarray], seconds: float = SECONDS
) -> list[torch.Tensor]:
    """Computes the results as a program of its own, under an emulator where this machine is another one.

    Args:
        folder: of the model.
        isa: level to run on where the model is made for any processor; None for its own.
        inputs: one per input and then per state, of its dtype and shape; new states follow the results.
        seconds: that it may take.

    Raises:
        InputError: for inputs that do not fit, when the compiler refuses the model, or its program fails.
        UnsupportedError: when the compiler or the emulator is not found.
    """
    project = read_project(folder)
    states = [state.port() for state in project.states]
    taken, given_back = [*project.input_ports, *states], [*project.output_ports, *states]
    if len(inputs) != len(taken):
        raise InputError(f"the model takes {len(taken)} inputs, not {len(inputs)}")
    sizes = chosen(taken, [value.shape for value in inputs], [size.free() for size in project.sizes])
    taken, given_back = [port.at(sizes) for port in taken], [port.at(sizes) for port in given_back]
    with tempfile.TemporaryDirectory() as place:
        given = [Path(place) / f"input_{index}" for index in range(len(taken))]
        made = [Path(place) / f"output_{index}" for index in range(len(given_back))]
        for path, value, port in zip(given, inputs, taken, strict=True):
            path.write_bytes(_bytes(value, port))
        words = ["run", str(folder), *(str(sizes[size.name]) for size in project.sizes)]
        _call(folder, isa, [*words, *map(str, (*given, *made))], seconds, accepted=(0,))
        return [_read(path, port) for path, port in zip(made, given_back, strict=True)]


def _call(
    folder: Path, isa: Isa | None, arguments: Sequence[str], seconds: float, accepted: tuple[int, ...]
) -> subprocess.CompletedProcess[str]:
    architecture = LEVELS[isa or read_project(folder).isa].architecture
    emulator = find_emulator(architecture)
    program = Build("program", architecture).run(folder)
    command = [*emulator, str(program), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"the program was not done after {seconds:g} s", where=str(folder), step="selftest", mend="allow more"
        ) from error
    if done.returncode not in accepted:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise InputError(f"the program failed: {said}", where=str(folder), step="selftest")
    return done


def _bytes(value: torch.Tensor | np.ndarray, port: Port) -> bytes:
    tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.ascontiguousarray(value))
    if tensor.dtype != port.dtype or tuple(tensor.shape) != port.shape:
        raise InputError(
            f"the input {port.title!r} is {tensor.dtype} {list(tensor.shape)}",
            mend=f"give {port.dtype} {list(port.shape)}",
        )
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def _read(path: Path, port: Port) -> torch.Tensor:
    data = bytearray(path.read_bytes())
    return (
        torch.frombuffer(data, dtype=port.dtype).reshape(port.shape)
        if data
        else torch.empty(port.shape, dtype=port.dtype)
    )
