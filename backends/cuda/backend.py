"""Kernels for NVIDIA GPUs: a folder with a library of quantized layers, and what runs the model with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from qcompiler.backends.cuda.assembly import assemble
from qcompiler.backends.cuda.driver import current_device, missing_device
from qcompiler.backends.cuda.guards import GUARDS
from qcompiler.backends.cuda.interface import write_interface
from qcompiler.backends.cuda.library import read_library, write_library
from qcompiler.backends.cuda.lower import lower
from qcompiler.backends.cuda.module import module_of
from qcompiler.backends.cuda.prediction import read_roofs, write_roofs
from qcompiler.backends.cuda.settings import settings_of
from qcompiler.backends.reference import MEANINGS, dense
from qcompiler.backends.reference.bits import BIT_MEANINGS
from qcompiler.backends.reference.codebook import CODEBOOK_MEANINGS
from qcompiler.backends.reference.grouped import GROUPED_MEANINGS
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.plan import Assignment, Decomposition
from qcompiler.target import Guard, LayerAudit, Runner, Target
from qcompiler.weights import read_program, write_program

FOLDER = "cuda"
MODEL = "model"
"""Of the program between the layers, below the library's folder."""
_CODE = (".cubin", ".safetensors")
_MOVED = "torch, on bytes"
"""What runs a call that no layer stands for: codes that are moved as they are."""
_UNPACKED_MEND = "a solver that keeps codes, or tables of vectors of 4 or 8 with 256 entries"
_MEND = "numbers that the rows of the target name"


class CudaBackend:
    """Lowers to kernel calls, writes them as a library, and runs it on a device or in emulation."""

    name: str = "cuda"
    guards: Mapping[str, Guard] = GUARDS

    def check(self, program: Program, target: Target) -> None:
        """Raises SpecError for settings that cannot be, before any work."""
        settings_of(target)

    def lower(self, program: Program, target: Target) -> Program:
        """Quantized program to kernel calls; raises VerifyError where the graph does not fit a kernel."""
        return lower(program, target)

    def emit(self, program: Program, target: Target, folder: Path) -> Sequence[str]:
        """Writes the library and the program between its layers into the folder `cuda`; returns the names of its files.

        Raises:
            UnsupportedError: when code is wanted ahead and there is no nvcc.
            OSError: when the folder cannot be written.
        """
        place = folder / FOLDER
        (place / MODEL).mkdir(parents=True)
        assembled = assemble(program, settings_of(target))
        name = re.sub(r"[^A-Za-z0-9]+", "_", program.name).strip("_") or "model"
        library = write_library(name, assembled.layers, assembled.tensors, settings_of(target), place)
        if library.layers:
            write_interface(library, place)
            write_roofs(library, target.device, place)
        write_program(assembled.program, place / MODEL)
        return sorted(str(path.relative_to(folder)) for path in place.rglob("*") if path.is_file())

    def shipped(self, files: Sequence[str]) -> Sequence[str]:
        """Code and weights, those between the layers too."""
        return [name for name in files if name.startswith(f"{FOLDER}/") and name.endswith(_CODE)]

    def tell(self, folder: Path) -> Sequence[str]:
        """What the library holds."""
        library = read_library(folder / FOLDER)
        kernels = sorted({kernel for layer in library.layers for kernel in layer.kernels})
        code = [code.cubin or f"{code.source} ({code.left})" for code in library.code.values()]
        calls = sum("codes" in layer.weights for layer in library.layers)
        if not calls:
            return []
        line = f"{FOLDER}/{library.name}.h: {calls} layers by {', '.join(kernels)}; {', '.join(code)}"
        return [line, *map(str, read_roofs(folder / FOLDER))]

    def obstacle(self, folder: Path) -> str:
        """Why nothing runs here; empty where there is a device, or the emulation is asked for."""
        return "" if read_library(folder / FOLDER).device == "emulation" else missing_device()

    def audit(self, program: Program, target: Target, folder: Path) -> Sequence[LayerAudit]:
        """Every call runs the kernels that it names, or moves bytes: nothing else stands before the device.

        Operators that no kernel took run in floats.
        """
        library = read_library(folder / FOLDER)
        layers = {layer.node: layer for layer in library.layers}
        called = [
            LayerAudit(
                node.name,
                program.origin(node).module,
                str(node.kwargs["op"]),
                _requested(node),
                " + ".join(layers[node.name].kernels) if node.name in layers else _MOVED,
                ok=True,
            )
            for node in program.nodes
            if node.target is ops.kernel
        ]
        return [*called, *_left(program)]

    def meanings(self) -> Mapping[str, Callable[..., object]]:
        """What each kernel computes."""
        return {**MEANINGS, **BIT_MEANINGS, **GROUPED_MEANINGS, **CODEBOOK_MEANINGS, "linear_codes": dense.linear}

    def runner(self, folder: Path) -> Runner:
        """Runs the model: on the current device of torch, or in emulation on this processor."""
        return runner(folder / FOLDER)


def _requested(node: Node) -> str:
    """The numbers that were asked for; a program that was read from a file only knows the kernel."""
    assigned = node.meta.get("assignment")
    if not isinstance(assigned, Assignment):
        return str(node.args[0])
    return " x ".join(spec.format.name for spec in assigned.inputs.values())


def _left(program: Program) -> list[LayerAudit]:
    """Operators that run in floats although numbers were asked for them."""
    found: list[LayerAudit] = []
    for node in program.nodes:
        asked, parts = node.meta.get("assignment"), node.meta.get("decomposition")
        if node.target is ops.kernel or not isinstance(asked, Assignment):
            continue
        known = (parts.reason, _UNPACKED_MEND) if isinstance(parts, Decomposition) else ("no kernel takes them", _MEND)
        where = program.origin(node).module
        found.append(LayerAudit(node.name, where, program.op(node), _requested(node), "float", False, *known))
    return found


def runner(folder: Path) -> Runner:
    """Runs a library with its model, whose weights are on the device from the first call on.

    Raises UnsupportedError at the call when there is no device.
    """
    device = read_library(folder).device
    loaded: list[torch.fx.GraphModule] = []

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        place = torch.device("cpu") if device == "emulation" else current_device()
        if not loaded:
            loaded.append(module_of(read_program(folder / MODEL), folder).to(place))
        with torch.no_grad():
            found = loaded[0](*(value.to(place) for value in inputs))
        homes = {value.device for value in inputs}
        home = homes.pop() if len(homes) == 1 else place
        return [value.to(home) for value in found]

    return run
