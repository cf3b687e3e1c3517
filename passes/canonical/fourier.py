"""Fourier transforms as products with the matrices of cosines and sines, on real and imaginary parts.

Formula   X_k = sum_j x_j (cos t - i sin t), t = 2 pi ((j k) mod n) / n; the inverse with + i; half a spectrum
          stands for the conjugates of its inner numbers too
Shapes    the transformed axis has n numbers, known or free; half spectra turn back only where n is known
Source    Cooley and Tukey 1965 name this the definition; own
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from qcompiler.ir.program import Node

Pair = tuple[Node, Node]
Size = int | Node


class Maker(Protocol):
    """Adds operators in front of a node."""

    def __call__(self, op: str, *args: object, dtype: torch.dtype | None = None) -> Node:
        """One operator; `dtype` where it takes one."""
        ...

    def rank(self, node: Node) -> int:
        """Number of axes."""
        ...

    def size(self, node: Node, axis: int) -> Size | None:
        """One size of a value: a number, or a node that computes it."""
        ...

    def dtype(self, node: Node) -> torch.dtype:
        """Element type."""
        ...


def transform(make: Maker, pair: Pair, axes: Sequence[int], normalization: int, forward: bool) -> Pair | None:
    """Complex numbers to complex numbers along several axes; None where a size cannot be had."""
    for axis in axes:
        size = make.size(pair[0], axis % make.rank(pair[0]))
        factor = None if size is None else _factor(size, normalization)
        if size is None or factor is None:
            return None
        cos, sin = _waves(make, size, make.dtype(pair[0]))
        real, imaginary = ((_along(make, part, axis, cos), _along(make, part, axis, sin)) for part in pair)
        turn, back = ("aten.add.Tensor", "aten.sub.Tensor") if forward else ("aten.sub.Tensor", "aten.add.Tensor")
        parts = make(turn, real[0], imaginary[1]), make(back, imaginary[0], real[1])
        pair = _scaled(make, parts, factor)
    return pair


def from_half(make: Maker, pair: Pair, axis: int, size: int, normalization: int) -> Node | None:
    """Real numbers from half a spectrum along one axis."""
    factor = _factor(size, normalization)
    if factor is None:
        return None
    dtype, half = make.dtype(pair[0]), size // 2 + 1
    rows = [make("aten.slice.Tensor", wave, 0, 0, half, 1) for wave in _waves(make, size, dtype)]
    real, imaginary = (
        _along(make, part, axis, wave) for part, wave in zip(_doubled(make, pair, axis, size), rows, strict=True)
    )
    return _scaled(make, (make("aten.sub.Tensor", real, imaginary), real), factor)[0]


def _doubled(make: Maker, pair: Pair, axis: int, size: int) -> Pair:
    """Both parts, all but the first number (and the last, for an even size) counted twice."""
    rank, half = make.rank(pair[0]), size // 2 + 1
    last = half - 1 if size % 2 == 0 else half

    def part(node: Node) -> Node:
        inner = make("aten.mul.Tensor", make("aten.slice.Tensor", node, axis, 1, last, 1), 2.0)
        pieces = [make("aten.slice.Tensor", node, axis, 0, 1, 1), inner]
        if last < half:
            pieces.append(make("aten.slice.Tensor", node, axis, last, half, 1))
        return make("aten.cat", pieces, axis % rank)

    return part(pair[0]), part(pair[1])


def _waves(make: Maker, size: Size, dtype: torch.dtype) -> Pair:
    """Cosines and sines of `2 pi ((j k) mod n) / n`, each `[n, n]`."""
    places = make("aten.arange.start_step", 0, size, 1, dtype=torch.int64)
    products = make("aten.mul.Tensor", make("aten.unsqueeze", places, 1), make("aten.unsqueeze", places, 0))
    whole = make("aten.mul.Tensor", make("aten.floor_divide", products, size), size)
    rest = make("aten._to_copy", make("aten.sub.Tensor", products, whole), dtype=dtype)
    angles = make("aten.mul.Tensor", make("aten.div.Tensor", rest, size), 2 * math.pi)
    return make("aten.cos", angles), make("aten.sin", angles)


def _along(make: Maker, x: Node, axis: int, matrix: Node) -> Node:
    """The product of a matrix with every row of `x` along one axis."""
    rank = make.rank(x)
    axis %= rank
    if axis == rank - 1:
        return make("aten.matmul", x, matrix)
    order = [rank - 1 if place == axis else axis if place == rank - 1 else place for place in range(rank)]
    return make("aten.permute", make("aten.matmul", make("aten.permute", x, order), matrix), order)


def _factor(size: Size, normalization: int) -> Size | float | None:
    """What to divide by: 1, the root of the size, or the size; None for the root of a free one."""
    if normalization == 1:
        return math.sqrt(size) if isinstance(size, int) else None
    return size if normalization == 2 else 1


def _scaled(make: Maker, pair: Pair, factor: Size | float) -> Pair:
    if isinstance(factor, int | float) and factor == 1:
        return pair
    return make("aten.div.Tensor", pair[0], factor), make("aten.div.Tensor", pair[1], factor)
