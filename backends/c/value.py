"""Where the values of a program lie while generated code runs: strided views of buffers of fixed size.

Sizes, strides and offsets that a call of the model chooses are `Extent`s in the place of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from qcompiler.backends.c.extent import most

Kind = Literal["arena", "weights", "input", "output"]
Element = Literal["float", "double", "int64_t", "int32_t", "int16_t", "int8_t", "uint8_t", "qc_act"]
BYTES: dict[Element, int] = {
    "float": 4,
    "double": 8,
    "int64_t": 8,
    "int32_t": 4,
    "int16_t": 2,
    "int8_t": 1,
    "uint8_t": 1,
    "qc_act": 1,
}


@dataclass(eq=False)
class Buffer:
    """A stretch of memory.

    Args:
        kind: the arena, where its place is planned; the weights, at byte `place`; or input or result number `place`.
        size: in bytes.
        place: see above; -1 until planned.
        first: number of the step that first writes it.
        last: number of the last step that touches it.
    """

    kind: Kind
    size: int
    place: int = -1
    first: int = -1
    last: int = -1


@dataclass(frozen=True)
class Value:
    """A tensor in memory: element i, j, ... lies at `offset + i * strides[0] + j * strides[1] + ...`.

    Args:
        buffer: that holds it.
        element: C type.
        shape: its sizes.
        strides: in elements; 0 repeats.
        offset: of the first element, in elements.
        shift: what is stored less the code, for quantized values; see `qc_base.h`.
        border: pixels around each image that belong to the buffer and hold the zero point (channels-last images).
    """

    buffer: Buffer
    element: Element
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    shift: int = 0
    border: int = 0

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def dense(self) -> bool:
        """Whether elements lie row-major without gaps."""
        return self.strides == row_major(self.shape) or all(
            size == 1 or stride == wanted
            for size, stride, wanted in zip(self.shape, self.strides, row_major(self.shape), strict=True)
        )

    @property
    def order(self) -> tuple[int, ...]:
        """Axes from the one that moves slowest in memory to the fastest."""
        return tuple(sorted(range(len(self.shape)), key=lambda axis: (-most(self.strides[axis]), axis)))

    def permuted(self, axes: Sequence[int]) -> Value:
        """Axes in another order."""
        shape = tuple(self.shape[axis] for axis in axes)
        return replace(self, shape=shape, strides=tuple(self.strides[axis] for axis in axes), border=0)

    def expanded(self, shape: Sequence[int]) -> Value:
        """Broadcast to `shape`, which may have more axes in front."""
        missing = len(shape) - len(self.shape)
        old = (*[1] * missing, *self.shape)
        strides = (*[0] * missing, *self.strides)
        found = tuple(0 if size == 1 else stride for size, stride in zip(old, strides, strict=True))
        return replace(self, shape=tuple(shape), strides=found, border=0)

    def sliced(self, axis: int, start: int, count: int, step: int = 1) -> Value:
        """`count` indices of an axis from `start` on."""
        shape, strides = list(self.shape), list(self.strides)
        moved = self.offset + start * strides[axis]
        shape[axis], strides[axis] = count, strides[axis] * step
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=moved, border=0)

    def reshaped(self, shape: Sequence[int]) -> Value | None:
        """The same memory in another shape; None when that takes a copy."""
        strides = _view_strides(self.shape, self.strides, shape)
        return None if strides is None else replace(self, shape=tuple(shape), strides=strides, border=0)


def row_major(shape: Sequence[int], order: Sequence[int] | None = None) -> tuple[int, ...]:
    """Strides of a tensor without gaps whose axes lie in `order`, slowest first; row-major by default."""
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(order if order is not None else range(len(shape))):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape to which all are broadcast: of every axis, counted from the last, the size that is not 1."""
    rank = max(map(len, shapes))
    wide = [(*[1] * (rank - len(shape)), *shape) for shape in shapes]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*wide, strict=True))


def channels_last(rank: int) -> tuple[int, ...]:
    """The order of axes of images: batch, space, channels."""
    return (0, *range(2, rank), 1)


@dataclass
class _Runs:
    """Axes that lie one inside the other without gaps, as (size, stride of the innermost)."""

    runs: list[tuple[int, int]] = field(default_factory=list)

    def add(self, size: int, stride: int) -> None:
        if self.runs and self.runs[-1][1] == size * stride:
            self.runs[-1] = (self.runs[-1][0] * size, stride)
        else:
            self.runs.append((size, stride))


def _view_strides(shape: Sequence[int], strides: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...] | None:
    if math.prod(wanted) == 0:
        return row_major(wanted)
    found = _Runs()
    for size, stride in zip(shape, strides, strict=True):
        if size != 1:
            found.add(size, stride)
    runs = found.runs[::-1]
    result: list[int] = []
    left, stride = (runs.pop(0) if runs else (1, 1)) if runs else (1, 1)
    for size in reversed(wanted):
        if size == 1:
            result.append(stride * left)
            continue
        if left == 1 and runs:
            left, stride = runs.pop(0)
        if left % size:
            return None
        result.append(stride)
        left, stride = left // size, stride * size
    return tuple(reversed(result))
