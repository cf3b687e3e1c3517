"""Standalone C: a folder that builds with any C11 compiler and runs the model on its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from qcompiler.backends.c.emission import check_writable, write_module
from qcompiler.backends.c.extent import Extent, Free, lone, most
from qcompiler.backends.c.host import HostRunner
from qcompiler.backends.c.isa import LEVELS
from qcompiler.backends.c.lower import lower
from qcompiler.backends.c.module import Module, Port, Recorded, chosen
from qcompiler.backends.c.project import CALLS, WEIGHTS_FILE, read_project, write_project
from qcompiler.backends.c.selftest import run_emulated
from qcompiler.backends.c.settings import settings_of
from qcompiler.backends.c.sizes import BATCH, with_free
from qcompiler.backends.c.timing import runtime_here, time_calls, time_parts
from qcompiler.backends.c.toolchain import find_compiler, find_emulator, is_native
from qcompiler.backends.lowering.guards import GUARDS
from qcompiler.backends.reference import MEANINGS
from qcompiler.backends.reference.attention import ROTARY_MEANINGS
from qcompiler.backends.reference.bits import BIT_MEANINGS
from qcompiler.backends.reference.codebook import CODEBOOK_MEANINGS
from qcompiler.backends.reference.whole import WHOLE_MEANINGS
from qcompiler.clocks import Times, device_here
from qcompiler.cost import Device
from qcompiler.data import sample_inputs
from qcompiler.errors import UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.states import first_values
from qcompiler.plan import Assignment
from qcompiler.session import HandedOn
from qcompiler.target import Guard, LayerAudit, Runner, Target

FOLDER = "c"


class CBackend:
    """Lowers to kernel calls, writes them as C, builds and runs it where a compiler is found."""

    name: str = "c"
    guards: Mapping[str, Guard] = GUARDS

    def check(self, program: Program, target: Target) -> None:
        """Finds faults before any other work is done.

        Raises:
            UnsupportedError: for what a canonical program holds and generated C lacks.
            SpecError: for settings that do not fit the program.
        """
        check_writable(program)
        settings = settings_of(target)
        with_free(program, settings.batch, settings.most)

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
        """Every call on codes runs the kernel that it names: nothing stands between the program and the processor."""
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
            if node.target is ops.kernel and node.args[0] not in ROTARY_MEANINGS
        ]

    def meanings(self) -> Mapping[str, Callable[..., object]]:
        """What each kernel computes."""
        return {**MEANINGS, **BIT_MEANINGS, **CODEBOOK_MEANINGS, **WHOLE_MEANINGS, **ROTARY_MEANINGS}

    def device(self, target: Target, threads: int) -> Device | None:
        """The machine; None for models that another machine will run, or where no compiler is found."""
        level = settings_of(target).level
        try:
            find_compiler(LEVELS[level].architecture)
        except UnsupportedError:
            return None
        return device_here(target.name, threads, runtime_here(level)) if is_native(LEVELS[level].architecture) else None

    def calls(
        self, folders: Sequence[Path], inputs: Sequence[Sequence[torch.Tensor]], threads: int, runs: int
    ) -> list[list[float]]:
        """Seconds of every call of each model, run in turns."""
        return time_calls([folder / FOLDER for folder in folders], inputs, threads, runs)

    def parts(
        self, folders: Sequence[Path], inputs: Sequence[Sequence[torch.Tensor]], threads: int, runs: int
    ) -> list[list[Times]]:
        """Seconds of the parts of every call of each model, which holds one layer, run in turns."""
        return time_parts([folder / FOLDER for folder in folders], inputs, threads, runs)

    def runner(self, folder: Path) -> Runner:
        """Runs the model: on this processor as a library, made for another one as a program under an emulator."""
        return runner(folder / FOLDER)


def runner(folder: Path) -> Runner:
    """Runs a folder of C; it is built at the first call, and a batch of another size is cut into calls of its own."""
    project = read_project(folder)
    native = is_native(LEVELS[project.isa].architecture)
    if project.states and native:
        return KeepingRunner(folder, project.run_threads)
    loaded: list[HostRunner] = []

    def call(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if not native:
            return run_emulated(folder, None, inputs)
        if not loaded:
            loaded.append(HostRunner(folder, project.run_threads))
        return loaded[0](inputs)

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if project.states:
            return call(inputs)
        pieces = _pieces(inputs, project.input_ports)
        if pieces is None:
            return call(inputs)
        results = [call(piece) for piece in pieces]
        return [torch.cat(parts) for parts in zip(*results, strict=True)]

    return run


class KeepingRunner:
    """A model with states on this processor: as a pure function, or in sessions whose states stay where they lie."""

    def __init__(self, folder: Path, threads: int) -> None:
        """It is built at the first call; raises nothing.

        Args:
            folder: of the C project.
            threads: that share the work.
        """
        self._folder, self._threads = folder, threads
        self._loaded: HostRunner | None = None

    def __call__(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Flat inputs, states behind them, to flat results, new states behind them."""
        if self._loaded is None:
            self._loaded = self.session()
        count = len(inputs) - self._loaded.states
        self._loaded.write_states(inputs[count:])
        return [*self._loaded(inputs[:count]), *self._loaded.read_states()]

    def session(self) -> HostRunner:
        """The model once more, with states of its own."""
        return HostRunner(self._folder, self._threads)


def _pieces(inputs: Sequence[torch.Tensor], ports: Sequence[Port]) -> list[list[torch.Tensor]] | None:
    """A larger batch cut along the first axis of all inputs; None when it is not one."""
    rows = [_rows(value, port.shape) for value, port in zip(inputs, ports, strict=False)]
    counts = {-(-value.shape[0] // count) if count else 0 for value, count in zip(inputs, rows, strict=False)}
    if len(inputs) != len(ports) or len(counts) != 1 or counts <= {0, 1}:
        return None
    (count,) = counts
    cut = [value.split(size) for value, size in zip(inputs, rows, strict=True)]
    return [[parts[i] for parts in cut] for i in range(count)]


def _rows(value: torch.Tensor, shape: Sequence[int]) -> int:
    """How much of the first axis one call takes; 0 where it is no batch, or does not fit."""
    if not shape or len(shape) != value.dim():
        return 0
    first, *others = shape
    fits = all(isinstance(size, Extent) or size == given for size, given in zip(others, value.shape[1:], strict=True))
    free = lone(first)
    whole = free.name == BATCH if free else bool(first) and value.shape[0] % first == 0
    return most(first) if fits and whole else 0


def _requested(node: Node) -> str:
    """The numbers that were asked for; a program that was read from a file only knows the kernel."""
    assigned = node.meta.get("assignment")
    if not isinstance(assigned, Assignment):
        return str(node.args[0])
    return " x ".join(spec.format.name for spec in assigned.inputs.values())


def _recorded(module: Module, folder: Path, program: Program) -> Recorded | None:
    """Inputs and results for the self-test; None where the model cannot run here."""
    sizes = _recorded_sizes(module, program)
    calls = [
        _made_up([port.at(each) for port in module.inputs], program, seed)
        for seed, each in enumerate(sizes if module.states or module.sizes else sizes[:1])
    ]
    if any(tuple(value.shape) != port.at(sizes[0]).shape for value, port in zip(calls[0], module.inputs, strict=True)):
        return None
    session = HandedOn(runner(folder), lambda: first_values(program))
    try:
        results = [session(inputs) for inputs in calls]
    except UnsupportedError:
        return None
    if module.sizes:
        given, found = (
            _side_by_side(ports, each) for ports, each in ((module.inputs, calls), (module.outputs, results))
        )
        return Recorded(given, found, [[each[size.name] for size in module.sizes] for each in sizes])
    if not module.states:
        return Recorded([_array(value) for value in calls[0]], [_array(value) for value in results[0]])
    given, found = ([_array(torch.stack(parts)) for parts in zip(*each, strict=True)] for each in (calls, results))
    return Recorded(given, found)


def _recorded_sizes(module: Module, program: Program) -> list[dict[str, int]]:
    """What each recorded call chooses: the sizes of the examples, where they are not too large, and the least."""
    shapes = [program.shape(node) for node in program.inputs][: len(module.inputs)]
    examples = [tuple(map(program.dimensions.hint, shape)) for shape in shapes]
    largest = max((size for shape in examples for size in shape), default=0)
    anything = [Free(size.name, max(size.most, largest), 0) for size in module.sizes]
    known = chosen(module.inputs, examples, anything)
    large = {size.name: max(min(known[size.name], size.most), size.least) for size in module.sizes}
    least = {size.name: size.least for size in module.sizes}
    return [large if call % 2 == 0 else least for call in range(CALLS)]


def _made_up(ports: Sequence[Port], program: Program, seed: int) -> list[torch.Tensor]:
    """Inputs of one call, cut from those of the examples' sizes."""
    found = []
    for value, port in zip(sample_inputs(program, seed), ports, strict=False):
        for axis, size in enumerate(port.shape):
            value = value.narrow(axis, 0, min(size, value.shape[axis]))
        found.append(value)
    return found


def _side_by_side(ports: Sequence[Port], calls: Sequence[Sequence[torch.Tensor]]) -> list[np.ndarray]:
    """Tensors of all calls as [calls, most elements], zeros behind those of a call."""
    found = []
    for index, port in enumerate(ports):
        whole = np.zeros((len(calls), most(math.prod(port.shape))), _array(calls[0][index]).dtype)
        for row, values in zip(whole, calls, strict=True):
            row[: values[index].numel()] = _array(values[index]).reshape(-1)
        found.append(whole)
    return found


def _array(value: torch.Tensor) -> np.ndarray:
    return value.detach().contiguous().numpy()
