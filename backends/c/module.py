"""A model written as C functions, before it becomes files: what the generator hands to whoever lays out the project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qcompiler.backends.c.isa import Isa

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
        shape: fixed sizes.
    """

    name: str
    title: str
    dtype: torch.dtype
    shape: tuple[int, ...]


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


@dataclass(frozen=True)
class Recorded:
    """Inputs and the results that the model must give for them, bit for bit, for the self-test of the folder.

    Args:
        inputs: one array per input.
        outputs: one array per result.
    """

    inputs: Sequence[np.ndarray]
    outputs: Sequence[np.ndarray]
