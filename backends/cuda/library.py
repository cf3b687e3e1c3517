"""A library of kernels: a folder with sources, code for each architecture, packed weights and the plan of launches."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.row import RUNTIME, Instance
from qcompiler.backends.cuda.layer import Layer, Strict
from qcompiler.backends.cuda.settings import Compute, Settings
from qcompiler.backends.cuda.source import Chosen, source_of
from qcompiler.backends.cuda.toolchain import Compiled, compile_cubin
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.weights import system_error

PLAN_FILE = "plan.json"
WEIGHTS_FILE = "weights.safetensors"
SOURCES = "kernels"
_INCLUDE = re.compile(r'^#include "(\w+\.\w+)"', re.MULTILINE)
_NOT_SHIPPED = frozenset({"qc_emulation.h", "qc_warpgroup_emulation.h"})
"""Headers that no compiler of CUDA reads."""


class Code(Strict):
    """What an architecture has.

    Args:
        instances: functions that its layers launch, in order.
        source: the translation unit, below the folder.
        cubin: the compiled one, empty where that is left to the machine that runs it.
        registers: of each function, as the assembler says; empty without a cubin.
        left: why nothing was compiled.
    """

    instances: tuple[str, ...]
    source: str
    cubin: str = ""
    registers: dict[str, int] = Field(default_factory=dict)
    left: str = ""


class Library(Strict):
    """What is known of a folder without reading its weights.

    Args:
        name: prefix of the interface in C.
        compute: floats of activations.
        device: where the runner in Python runs it.
        layers: in order.
        code: by compute capability.
        weights_bytes: size of the file of weights.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    compute: Compute
    device: str
    layers: tuple[Layer, ...]
    code: dict[int, Code]
    weights_bytes: int

    @property
    def capabilities(self) -> tuple[int, ...]:
        """Of the architectures, oldest first."""
        return tuple(self.code)

    @property
    def counters(self) -> int:
        """How many counters any layer uses."""
        ways = (way for layer in self.layers for variants in layer.variants.values() for way in variants)
        return max((way.counters for way in ways), default=0)

    def chosen(self, capability: int) -> tuple[Chosen, ...]:
        """Kernels and instances that an architecture's layers launch."""
        return chosen_by(self.layers, capability)


def write_library(
    name: str, layers: Sequence[Layer], tensors: Mapping[str, Tensor], settings: Settings, folder: Path
) -> Library:
    """Writes sources, code, weights and plan; the same layers give the same bytes.

    Args:
        name: of the library, a C name.
        layers: in order.
        tensors: packed weights by `layer.name`.
        settings: for which architectures, compiled when.
        folder: exists.

    Raises:
        UnsupportedError: when code is wanted ahead and there is no nvcc.
        InputError: with the compiler's first error.
        OSError: when something cannot be written.
    """
    (folder / SOURCES).mkdir()
    weights = folder / WEIGHTS_FILE
    try:
        save_file(_apart(tensors), weights)
    except SafetensorError as error:
        raise system_error(error, weights) from error
    weights.chmod(folder.stat().st_mode & 0o666)
    chosen = {one: chosen_by(layers, one.capability) for one in settings.generations}
    compiled = _compiled(chosen, settings)
    texts = _headers([pair for pairs in chosen.values() for pair in pairs])
    texts |= {f"{one.name}.cu": source_of(pairs) for one, pairs in chosen.items()}
    for file, text in texts.items():
        (folder / SOURCES / file).write_text(text)
    for one, code in compiled.items():
        if isinstance(code, Compiled):
            (folder / f"{name}_{one.name}.cubin").write_bytes(code.cubin)
    library = Library(
        name=name,
        compute=settings.compute,
        device=settings.device,
        layers=tuple(layers),
        code={one.capability: _code(name, one, pairs, compiled[one]) for one, pairs in chosen.items()},
        weights_bytes=weights.stat().st_size,
    )
    (folder / PLAN_FILE).write_text(library.model_dump_json(indent=1) + "\n")
    return library


def read_library(folder: Path) -> Library:
    """What `write_library` wrote.

    Raises:
        InputError: when the folder is none.
    """
    path = folder / PLAN_FILE
    try:
        return Library.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError("this is no folder of generated CUDA", where=str(folder)) from error
    except ValidationError as error:
        raise InputError(f"{PLAN_FILE} does not say what it must: {error}", where=str(folder)) from error


def chosen_by(layers: Sequence[Layer], capability: int) -> tuple[Chosen, ...]:
    """Kernels and instances that layers launch on an architecture, in the order of the table of kernels."""
    launches = (launch for layer in layers for way in layer.variants[capability] for launch in way.launches)
    names = {launch.instance for launch in launches}
    return tuple((row, one) for row in KERNELS.values() for one in row.instances if one.name in names)


def instances_of(chosen: Sequence[Chosen]) -> list[Instance]:
    """The instances alone."""
    return [instance for _, instance in chosen]


def _code(name: str, target: Architecture, chosen: Sequence[Chosen], compiled: Compiled | str) -> Code:
    instances, source = tuple(instance.name for _, instance in chosen), f"{SOURCES}/{target.name}.cu"
    if isinstance(compiled, str):
        return Code(instances=instances, source=source, left=compiled)
    registers = {key: used.registers for key, used in sorted(compiled.usage.items())}
    return Code(instances=instances, source=source, cubin=f"{name}_{target.name}.cubin", registers=registers)


def _compiled(
    chosen: Mapping[Architecture, Sequence[Chosen]], settings: Settings
) -> Mapping[Architecture, Compiled | str]:
    """Code for each architecture, several at a time, or why it is left for later."""
    if settings.build == "later":
        return dict.fromkeys(chosen, "to be compiled where it runs")

    def made(target: Architecture) -> Compiled | str:
        try:
            return _cubin(tuple(chosen[target]), target)
        except (InputError, UnsupportedError) as error:
            if settings.build == "ahead":
                raise
            return f"to be compiled where it runs: {error.what}"

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip(chosen, pool.map(made, chosen), strict=True))


@cache
def _cubin(chosen: tuple[Chosen, ...], target: Architecture) -> Compiled:
    """Models of one kind have the same kernels, and compiling them takes longer than all the rest."""
    return compile_cubin(chosen, target)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, each with memory of its own: layers that are called twice share what is not packed."""
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in taken else tensor.contiguous()
        taken.add(place)
    return found


def _headers(chosen: Sequence[Chosen]) -> dict[str, str]:
    """All headers that the kernels need, by name."""
    found: dict[str, str] = {}
    pending = [kernel.header for kernel, _ in chosen]
    while pending:
        file = pending.pop()
        if file not in found and file not in _NOT_SHIPPED:
            found[file] = (RUNTIME / file).read_text()
            pending += _INCLUDE.findall(found[file])
    return dict(sorted(found.items()))
