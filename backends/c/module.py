"""A model written as C functions, before it becomes files: what the generator hands to whoever lays out the project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from qcompiler.backends.c.extent import Free, at, lone
from qcompiler.backends.c.isa import Isa
from qcompiler.errors import InputError

ALIGNMENT = 64
"""Of the arena, the weights, and everything in them, in bytes."""
C_TYPES: dict[torch.dtype, str] = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.int16: "int16_t",
    torch.int8: "int8_t",
    torch.uint8: "uint8_t",
    torch.bool: "uint8_t",
}


@dataclass(frozen=True)
class Port:
    """An input or a result of the model, dense and row-major.

    Args:
        name: as C writes it, unique among inputs and results.
        title: as the model calls it, which may hold any character.
        dtype: one of `C_TYPES`.
        shape: its sizes; an `Extent` stands for what a call chooses.
    """

    name: str
    title: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    def at(self, values: Mapping[str, int]) -> Port:
        """The same in a call that chooses these sizes; raises InputError where they make it less than nothing."""
        shape = tuple(at(size, values) for size in self.shape)
        if any(size < 0 for size in shape):
            raise InputError(f"{self.title!r} would be of shape {list(shape)}", mend="give larger inputs")
        return replace(self, shape=shape)


def chosen(ports: Sequence[Port], shapes: Sequence[Sequence[int]], sizes: Sequence[Free]) -> dict[str, int]:
    """What the shapes of inputs choose: for every free size that of the first axis that is nothing else.

    Raises:
        InputError: when it is none that the model takes.
    """
    found: dict[str, int] = {}
    for port, shape in zip(ports, shapes, strict=True):
        for size, given in zip(port.shape, shape, strict=False):
            free = lone(size)
            if free is not None:
                found.setdefault(free.name, given)
    for free in sizes:
        if not free.least <= found.get(free.name, 0) <= free.most:
            raise InputError(
                f"{free.name} is {found.get(free.name, 'not told')}",
                mend=f"the model takes {free.least} to {free.most}",
            )
    return found


@dataclass(frozen=True)
class Kept:
    """What goes from call to call, dense and row-major.

    Args:
        port: its name, type and sizes.
        place: byte of the arena at which it lies.
        size: in bytes.
        first: byte of the weights at which lies what the first call starts from; -1 when that is zero.
    """

    port: Port
    place: int
    size: int
    first: int


@dataclass(frozen=True)
class Layer:
    """One function of the model, `static void <name>(const qc_context *c)`.

    Args:
        name: as C writes it, unique.
        text: the whole definition, comment included. It reaches memory as `c->arena + N`, `c->weights + N`,
            `c->inputs[i]`, `c->outputs[i]`, and kernels as `QC_RUN(c, gemm_i8, &args, tasks)`.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Module:
    """A whole model.

    Args:
        name: as C writes it; prefix of everything that the folder exports.
        inputs: in order.
        outputs: in order.
        layers: in the order in which they run.
        kernels: names of the micro-kernels that they call, sorted.
        weights: everything constant, as the layers address it.
        arena_bytes: memory for what is computed; multiple of `ALIGNMENT`.
        isa: the least that the processor has; model.c is compiled for it.
        dispatched: further levels whose kernels are taken when the processor turns out to have them, best first.
        threads: whether a pool of threads shares the work; without it nothing but math and string is used of libc.
        run_threads: how many threads whoever runs the folder on this machine asks for.
        headers: further ones of the runtime that the layers use, such as `qc_math.h`.
        sizes: what every call chooses.
        nonnegative: sizes that some choices would make less than zero, which are refused.
        states: what goes from call to call.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: tuple[Layer, ...]
    kernels: tuple[str, ...]
    weights: bytes
    arena_bytes: int
    isa: Isa
    dispatched: tuple[Isa, ...] = ()
    threads: bool = True
    headers: tuple[str, ...] = ()
    run_threads: int = 1
    sizes: tuple[Free, ...] = ()
    nonnegative: tuple[int, ...] = ()
    states: tuple[Kept, ...] = ()


@dataclass(frozen=True)
class Recorded:
    """Inputs and the results that the model must give for them, bit for bit, for the self-test of the folder.

    Args:
        inputs: one array per input; of a model with states one for all calls, which run along a first axis; of one
            whose calls choose sizes [calls, most elements], zeros behind what a call takes.
        outputs: one array per result, alike.
        sizes: what each call chooses, in the order of `Module.sizes`.
    """

    inputs: Sequence[np.ndarray]
    outputs: Sequence[np.ndarray]
    sizes: Sequence[Sequence[int]] = ()
