"""Block extents: one per axis, in elements, -1 = the whole axis; the last block of an axis may be short."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qcompiler.errors import SpecError

if TYPE_CHECKING:
    import sympy

    Dim = int | sympy.Expr


def block_counts(shape: Sequence[Dim], block: tuple[int, ...]) -> tuple[Dim, ...]:
    """Number of blocks along each axis: 1 for -1, the size for 1, else rounded up; sizes may be symbolic.

    Raises SpecError when the ranks differ.
    """
    if len(block) != len(shape):
        raise SpecError(
            f"a block of rank {len(block)} cannot divide a tensor of rank {len(shape)}",
            where=f"block {block}, shape {tuple(shape)}",
            mend="give the block one entry per axis (-1 for the whole axis)",
        )
    return tuple(_count(size, extent) for size, extent in zip(shape, block, strict=True))


def consists_of(outer: tuple[int, ...], inner: tuple[int, ...]) -> bool:
    """Whether every outer block consists of whole inner blocks."""
    if len(outer) != len(inner):
        return False
    return all(big == -1 or (small != -1 and big % small == 0) for big, small in zip(outer, inner, strict=True))


def in_units_of(outer: tuple[int, ...], inner: tuple[int, ...]) -> tuple[int, ...]:
    """The outer block counted in inner blocks instead of elements; `consists_of` must hold."""
    return tuple(-1 if big == -1 else big // small for big, small in zip(outer, inner, strict=True))


def _count(size: Dim, extent: int) -> Dim:
    if extent == -1:
        return 1
    return size if extent == 1 else -(-size // extent)


def mask_bits(kept: int, group: int) -> int:
    """Bits that number all masks with `kept` ones among `group` places."""
    return (math.comb(group, kept) - 1).bit_length()
