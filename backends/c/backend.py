"""Standalone C: a folder that builds with any C11 compiler and runs the model on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from qcompiler.backends.c.emission import check_writable, write_module
from qcompiler.backends.c.host import HostRunner
from qcompiler.backends.c.isa import LEVELS
from qcompiler.backends.c.lower import lower
from qcompiler.backends.c.module import Module, Recorded
from qcompiler.backends.c.project import WEIGHTS_FILE, read_project, write_project
from qcompiler.backends.c.selftest import run_emulated
from qcompiler.backends.c.settings import settings_of
from qcompiler.backends.c.toolchain import find_compiler, find_emulator, is_native
from qcompiler.backends.lowering.guards import GUARDS
from qcompiler.backends.reference import MEANINGS
from qcompiler.backends.reference.bits import BIT_MEANINGS
from qcompiler.data import sample_inputs
from qcompiler.errors import UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.plan import Assignment
from qcompiler.target import Guard, LayerAudit, Runner, Target

FOLDER = "c"


class CBackend:
    """Lowers to kernel calls, writes them as C, builds and runs it where a compiler is found."""

    name: str = "c"
    guards: Mapping[str, Guard] = GUARDS

    def check(self, program: Program, target: Target) -> None:
        """Raises UnsupportedError for what a canonical program holds and generated C lacks."""
        check_writable(program)

    def lower(self, program: Program, target: Target) -> Program:
        """Quantized program to kernel calls; raises VerifyError where the graph does not fit a kernel."""
        return lower(program, target)

    def emit(self, program: Program, target: Target, folder: Path) -> Sequence[str]:
        """Writes the C project into the folder `c`; returns the names of its files.

        Raises:
            UnsupportedError: for what generated C lacks.
            InputError: when the folder cannot be written.
        """
        place = folder / FOLDER
        place.mkdir()
        module = write_module(program, settings_of(target))
        files = write_project(module, place)
        recorded = _recorded(module, place, program)
        if recorded is not None:
            files = write_project(module, place, recorded)
        return [f"{FOLDER}/{name}" for name in files]

    def shipped(self, files: Sequence[str]) -> Sequence[str]:
        """The weights; how large the code becomes depends on the compiler."""
        return [name for name in files if name == f"{FOLDER}/{WEIGHTS_FILE}"]

    def obstacle(self, folder: Path) -> str:
        """Which compiler or emulator is missing; empty where none is."""
        architecture = LEVELS[read_project(folder / FOLDER).isa].architecture
        try:
            find_emulator(architecture)
            find_compiler(architecture)
        except UnsupportedError as error:
            return f"{error.what}; {error.mend}"
        return ""

    def audit(self, program: Program, target: Target, folder: Path) -> Sequence[LayerAudit]:
        """Every call runs the kernel that it names: nothing stands between the program and the processor."""
        return [
            LayerAudit(
                node.name,
                program.origin(node).module,
                str(node.kwargs["op"]),
                _requested(node),
                str(node.args[0]),
                ok=True,
            )
            for node in program.nodes
            if node.target is ops.kernel
        ]

    def meanings(self) -> Mapping[str, Callable[..., object]]:
        """What each kernel computes."""
        return {**MEANINGS, **BIT_MEANINGS}

    def runner(self, folder: Path) -> Runner:
        """Runs the model: on this processor as a library, made for another one as a program under an emulator."""
        return runner(folder / FOLDER)


def runner(folder: Path) -> Runner:
    """Runs a folder of C; it is built at the first call, and a batch of another size is cut into calls of its own."""
    project = read_project(folder)
    native = is_native(LEVELS[project.isa].architecture)
    loaded: list[HostRunner] = []

    def call(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if not native:
            return run_emulated(folder, None, inputs)
        if not loaded:
            loaded.append(HostRunner(folder, project.run_threads))
        return loaded[0](inputs)

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        shapes = [port.shape for port in project.inputs]
        pieces = _pieces(inputs, shapes)
        if pieces is None:
            return call(inputs)
        results = [call(piece) for piece in pieces]
        return [torch.cat(parts) for parts in zip(*results, strict=True)]

    return run


def _pieces(inputs: Sequence[torch.Tensor], shapes: Sequence[tuple[int, ...]]) -> list[list[torch.Tensor]] | None:
    """A larger batch cut along the first axis of all inputs; None when it is not one."""
    counts = set()
    for value, shape in zip(inputs, shapes, strict=False):
        if not shape or tuple(value.shape[1:]) != shape[1:] or value.shape[0] % shape[0]:
            return None
        counts.add(value.shape[0] // shape[0])
    if len(inputs) != len(shapes) or len(counts) != 1 or counts == {1}:
        return None
    (count,) = counts
    cut = [value.split(shape[0]) for value, shape in zip(inputs, shapes, strict=True)]
    return [[parts[i] for parts in cut] for i in range(count)]


def _requested(node: Node) -> str:
    """The numbers that were asked for; a program that was read from a file only knows the kernel."""
    assigned = node.meta.get("assignment")
    if not isinstance(assigned, Assignment):
        return str(node.args[0])
    return " x ".join(spec.format.name for spec in assigned.inputs.values())


def _recorded(module: Module, folder: Path, program: Program) -> Recorded | None:
    """Inputs and results for the self-test; None where the model cannot run here."""
    inputs = [
        value.narrow(0, 0, port.shape[0]) if port.shape and value.shape[0] > port.shape[0] else value
        for value, port in zip(sample_inputs(program), module.inputs, strict=True)
    ]
    if any(tuple(value.shape) != port.shape for value, port in zip(inputs, module.inputs, strict=True)):
        return None
    try:
        results = runner(folder)(inputs)
    except UnsupportedError:
        return None
    return Recorded([_array(value) for value in inputs], [_array(value) for value in results])


def _array(value: torch.Tensor) -> np.ndarray:
    return value.detach().contiguous().numpy()
