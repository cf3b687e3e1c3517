"""QuantSpec: a number format, where its scales live, and whether they are found before or at run time."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qcompiler.errors import SpecError
from qcompiler.formats import Format, ScaleName, parse_format, scale_format, scale_name
from qcompiler.formats.extents import block_counts, consists_of

if TYPE_CHECKING:
    from qcompiler.formats.extents import Dim

Granularity = Literal["tensor", "channel", "token", "slice", "group", "tile", "element"]
ZeroPoint = Literal["none", "int"]

_EXAMPLES = "int8 sym block=(1,-1) scale=f32 | uint4 asym block=(1,32) scale=f16 dynamic"
_BLOCK = re.compile(r"\((-?\d+(?:,-?\d+)*)?\)")


@dataclass(frozen=True)
class Level:
    """One layer of scales.

    block: extent of a block along each axis in elements, -1 = the whole axis; the last block of an axis may
    be short. scale: stored format of the scales. zero_point: `int` = an integer of the number format beside
    every scale. Raises SpecError for an extent that is neither -1 nor positive and for an unknown scale
    format.
    """

    block: tuple[int, ...]
    scale: ScaleName = "f32"
    zero_point: ZeroPoint = "none"

    def __post_init__(self) -> None:
        scale_format(self.scale)
        if any(extent < 1 and extent != -1 for extent in self.block):
            raise SpecError(f"block {self.block} has an extent that is no size", mend="use -1 or a positive size")

    def __str__(self) -> str:
        return f"block=({','.join(map(str, self.block))}) scale={self.scale}"

    def scale_shape(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """Shape of the scales of a tensor of this shape; dimensions may be symbolic.

        Raises SpecError when the ranks differ.
        """
        return block_counts(shape, self.block)


@dataclass(frozen=True)
class QuantSpec:
    """A quantized tensor's numbers: format, scale levels (innermost first), static or dynamic scales.

    Text: `int4 sym block=(1,32) scale=f16`; a further level repeats `block=... scale=...`; words follow the
    levels. Raises SpecError when there is no level, ranks differ, an outer block does not consist of whole
    inner blocks or has a zero point, or a zero point is asked of a format whose values are no consecutive
    integers.
    """

    format: Format
    levels: tuple[Level, ...]
    dynamic: bool = False

    def __post_init__(self) -> None:
        if not self.levels:
            raise SpecError(f"{self.format.name} needs at least one level of scales", mend=_EXAMPLES)
        if self.levels[0].zero_point == "int" and not self.format.is_integer:
            raise SpecError(f"{self.format.name} has no zero point", mend="write sym, or choose an integer format")
        for inner, outer in zip(self.levels, self.levels[1:], strict=False):
            if outer.zero_point != "none":
                raise SpecError("only the innermost level has zero points", where=str(self))
            if not consists_of(outer.block, inner.block):
                raise SpecError(
                    f"outer block {outer.block} does not consist of whole inner blocks {inner.block}",
                    mend="make each outer extent -1 or a multiple of the inner one",
                )

    def __str__(self) -> str:
        words = [self.format.name, "sym" if self.symmetric else "asym", *map(str, self.levels)]
        return " ".join([*words, "dynamic"] if self.dynamic else words)

    @staticmethod
    def parse(text: str) -> QuantSpec:
        """Reads the text form; inverts `str(spec)`. Raises SpecError that says which word is wrong."""
        words = text.split()
        if len(words) < 4 or words[1] not in ("sym", "asym"):
            raise SpecError("a spec is: format, sym or asym, block=(...), scale=...", where=text, mend=_EXAMPLES)
        number = parse_format(words[0])
        zero_point: ZeroPoint = "int" if words[1] == "asym" else "none"
        levels: list[Level] = []
        rest = words[2:]
        while rest and rest[0].startswith("block="):
            if len(rest) < 2 or not rest[1].startswith("scale="):
                raise SpecError(f"{rest[0]} is not followed by its scale=...", where=text, mend=_EXAMPLES)
            block = _parse_block(rest[0].removeprefix("block="), text)
            scale = scale_name(rest[1].removeprefix("scale="))
            levels.append(Level(block, scale, "none" if levels else zero_point))
            rest = rest[2:]
        if rest not in ([], ["dynamic"]):
            raise SpecError(f"unknown words in a spec: {' '.join(rest)}", where=text, mend=_EXAMPLES)
        return QuantSpec(number, tuple(levels), dynamic=bool(rest))

    @property
    def symmetric(self) -> bool:
        """Whether there is no zero point."""
        return self.levels[0].zero_point == "none"

    @property
    def bits(self) -> int:
        """Width of one code in bits, without scales."""
        return self.format.storage_bits

    @property
    def block(self) -> tuple[int, ...]:
        """Block of the innermost level."""
        return self.levels[0].block

    @property
    def rank(self) -> int:
        """Number of axes of the tensors it describes."""
        return len(self.block)

    @property
    def granularity(self) -> Granularity:
        """The usual word for the innermost block.

        tensor: one scale. channel: one axis split. token: only the last axis whole (at rank 2 the same block
        as channel 0, so told apart by `dynamic`). slice: other mixes of split and whole axes. group: blocks
        along one axis. tile: blocks along several. element: a scale per element.
        """
        grouped = sum(extent > 1 for extent in self.block)
        if grouped:
            return "group" if grouped == 1 else "tile"
        split = self.block.count(1)
        if split == 0:
            return "tensor"
        if split == self.rank:
            return "element"
        by_token = split == self.rank - 1 and self.block[-1] == -1
        if split == 1 and not (by_token and self.dynamic):
            return "channel"
        return "token" if by_token else "slice"

    def scale_shapes(self, shape: Sequence[Dim]) -> tuple[tuple[Dim, ...], ...]:
        """Shape of the scales of each level, innermost first; raises SpecError when the ranks differ."""
        return tuple(level.scale_shape(shape) for level in self.levels)


def bits_per_element(spec: QuantSpec, shape: Sequence[int]) -> float:
    """Storage per element in bits: code and share of all scales and zero points (row padding not counted).

    Raises SpecError when the ranks differ or the tensor is empty.
    """
    count = math.prod(shape)
    if count == 0:
        raise SpecError(f"a tensor of shape {tuple(shape)} has no elements to count bits for")
    total = spec.bits * count
    for level in spec.levels:
        zero_point_bits = spec.bits if level.zero_point == "int" else 0
        blocks = math.prod(int(size) for size in level.scale_shape(shape))
        total += blocks * (scale_format(level.scale).bits + zero_point_bits)
    return total / count


def _parse_block(text: str, spec_text: str) -> tuple[int, ...]:
    match = _BLOCK.fullmatch(text)
    if not match:
        raise SpecError(f"cannot read the block {text!r}", where=spec_text, mend="write it like (1,32) or (-1,-1)")
    return tuple(int(extent) for extent in match[1].split(",")) if match[1] else ()
