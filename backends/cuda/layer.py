"""Layers of a library of kernels as data: which kernels run with which arguments, for how many rows.

The runner in Python and the generated C read the same data, and it is written beside the kernels as `plan.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.row import CudaKernel, Instance

ALIGNMENT = 256
"""Bytes: of weights and of parts of a workspace; no access of a kernel is wider."""
Element = Literal["float16", "bfloat16", "float32", "int8", "int32", "uint8"]
ELEMENT_BYTES: Mapping[Element, int] = {
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "int8": 1,
    "int32": 4,
    "uint8": 1,
}


class Strict(BaseModel):
    """Data of a file: nothing unknown, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rows(Strict):
    """A number: rows of the call, times a constant."""

    rows: int


class Input(Strict):
    """A pointer: an input of the layer."""

    input: int


class Output(Strict):
    """A pointer: a result of the layer."""

    output: int


class Weight(Strict):
    """A pointer: a packed weight of the layer, by its name there."""

    weight: str


class Scratch(Strict):
    """A pointer: a part of the workspace."""

    scratch: int


class Counters(Strict):
    """A pointer: numbers of 32 bits that are zero before and after every launch."""

    counters: Literal["zeros"] = "zeros"


Argument = int | float | Rows | Input | Output | Weight | Scratch | Counters
"""Of a kernel; those that are not given are zero or NULL."""


class Launch(Strict):
    """One grid.

    Args:
        kernel: its name.
        instance: which of its functions.
        arguments: by field of its struct.
    """

    kernel: str
    instance: str
    arguments: dict[str, Argument]

    def rows(self) -> tuple[CudaKernel, Instance]:
        """The kernel's row and the instance's; raises KeyError for names that this version lacks."""
        row = KERNELS[self.kernel]
        return row, {one.name: one for one in row.instances}[self.instance]


class Part(Strict):
    """A part of the workspace: `per_row * rows + fixed` bytes."""

    per_row: int
    fixed: int = 0

    def bytes(self, rows: int) -> int:
        """Its size, filled up so that the next one is aligned."""
        return -(-(self.per_row * rows + self.fixed) // ALIGNMENT) * ALIGNMENT


class Variant(Strict):
    """What runs for some numbers of rows.

    Args:
        most: rows up to which it is taken, behind those of the variant before; None for any number.
        launches: in order.
        workspace: parts of the workspace.
        counters: how many counters its launches use.
    """

    most: int | None
    launches: tuple[Launch, ...]
    workspace: tuple[Part, ...] = ()
    counters: int = 0


class Port(Strict):
    """An input or a result: `[rows, width]`, dense.

    Args:
        width: elements of a row.
        element: their kind.
        shape: of a row in torch, empty where it is the width alone; an image is a row of the call.
    """

    width: int
    element: Element
    shape: tuple[int, ...] = ()

    @property
    def dims(self) -> tuple[int, ...]:
        """Of a row in torch."""
        return self.shape or (self.width,)

    @property
    def dtype(self) -> torch.dtype:
        """Of its tensor."""
        return getattr(torch, self.element)


class WeightRecord(Strict):
    """A packed weight: a tensor of the file of weights, called `layer.name`."""

    element: Element
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        return prod(self.shape) * ELEMENT_BYTES[self.element]


class Layer(Strict):
    """One function of the library.

    Args:
        name: a C name, unique in the library.
        node: of the program that it stands for.
        module: source module path.
        meaning: one line for people: what it computes with which numbers.
        inputs: in order.
        outputs: in order.
        weights: by name.
        variants: by compute capability: in order of rows, the last one for any number.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    node: str
    module: str
    meaning: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: dict[str, WeightRecord]
    variants: dict[int, tuple[Variant, ...]]

    def variant(self, capability: int, rows: int) -> Variant:
        """What runs on an architecture of the library for so many rows."""
        return next(one for one in self.variants[capability] if one.most is None or rows <= one.most)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of its kernels, in the order in which they first run."""
        launches = (launch for ways in self.variants.values() for way in ways for launch in way.launches)
        return tuple(dict.fromkeys(launch.kernel for launch in launches))


def compatible(capabilities: tuple[int, ...], device: int) -> int | None:
    """The newest of some architectures whose code a device runs: of its own generation, and no newer than it."""
    same = [one for one in capabilities if one // 10 == device // 10 and one <= device]
    return max(same, default=None)
