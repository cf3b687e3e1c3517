"""QuantSpec: a number format, where its scales live, and whether they are found before or at run time."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qcompiler.errors import SpecError
from qcompiler.formats import Codebook, ComplexUnits, Format, Integer, ScaleName, parse_format, scale_format, scale_name
from qcompiler.formats.extents import block_counts, consists_of
from qcompiler.spec.parts import Parts

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
    """A quantized tensor's numbers: format, scale levels (innermost first), static or dynamic scales, parts.

    Text: `int4 sym block=(1,32) scale=f16`; a further level repeats `block=... scale=...`; the words of the parts
    and `dynamic` follow the levels. Raises SpecError when there is no level, ranks differ, an outer block does not
    consist of whole inner blocks or has a zero point, a zero point is asked of a format whose values are no
    consecutive integers, or parts do not fit the format.
    """

    format: Format
    levels: tuple[Level, ...]
    dynamic: bool = False
    parts: Parts | None = None

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
        if isinstance(self.format, Codebook) or self.parts is not None:
            _check_parts(self, self.parts or Parts())

    def __str__(self) -> str:
        words = [self.format.name, "sym" if self.symmetric else "asym", *map(str, self.levels)]
        words += [str(self.parts)] if self.parts else []
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
        dynamic = rest[-1:] == ["dynamic"]
        return QuantSpec(number, tuple(levels), dynamic, Parts.parse(rest[: len(rest) - dynamic], text))

    @property
    def symmetric(self) -> bool:
        """Whether there is no zero point."""
        return self.levels[0].zero_point == "none"

    @property
    def bits(self) -> int:
        """Width of one code in bits, without scales."""
        return self.format.storage_bits

    @property
    def numbers(self) -> str:
        """The formats of its codes: one name, or those of all segments with `+` between them, narrowest first.

        That of elements which are kept comes last.
        """
        segments = self.parts.segments if self.parts else ()
        kinds = sorted({number.storage_bits: number.name for _, number in segments}.items())
        found = "+".join(name for _, name in kinds) or self.format.name
        return f"{found}+f16" if self.parts and self.parts.outliers else found

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

    def code_shape(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """Shape of the codes of a tensor of this shape: codebooks of vectors have one per vector along their axis."""
        dimension = self.format.dimension if isinstance(self.format, Codebook) else 1
        if dimension == 1 or self.parts is None:
            return tuple(shape)
        axis = self.parts.along % len(shape)
        return tuple(-(-size // dimension) if at == axis else size for at, size in enumerate(shape))

    def element_shape(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """Shape of the tensor whose codes have this shape, its vectors all whole; inverse of `code_shape`."""
        dimension = self.format.dimension if isinstance(self.format, Codebook) else 1
        if dimension == 1 or self.parts is None:
            return tuple(shape)
        axis = self.parts.along % len(shape)
        return tuple(size * dimension if at == axis else size for at, size in enumerate(shape))

    def table_shape(self, shape: Sequence[Dim]) -> tuple[Dim, ...] | None:
        """Shape of the table of a tensor of this shape: [tables per axis ..., entries], vectors add [dimension].

        None for a format without a table. Raises SpecError when the ranks differ.
        """
        if not isinstance(self.format, Codebook) or self.parts is None or self.parts.table is None:
            return None
        vector = (self.format.dimension,) if self.format.dimension > 1 else ()
        return (*block_counts(shape, self.parts.table.block), self.format.entries, *vector)


def bits_per_element(spec: QuantSpec, shape: Sequence[int]) -> float:
    """Storage per element in bits: codes and the share of scales, zero points and all parts (row padding not counted).

    Raises SpecError when the ranks differ or the tensor is empty.
    """
    count = math.prod(shape)
    if count == 0:
        raise SpecError(f"a tensor of shape {tuple(shape)} has no elements to count bits for")
    parts = spec.parts or Parts()
    total = _code_bits(spec, parts, shape) * parts.planes
    # The real and the imaginary part of a complex number have a scale each.
    scales_per_block = 2 if isinstance(spec.format, ComplexUnits) else 1
    for level in spec.levels:
        blocks = math.prod(int(size) for size in level.scale_shape(shape)) * scales_per_block
        total += blocks * scale_format(level.scale).bits * parts.planes * parts.sets
    if not spec.symmetric:
        total += _zero_point_bits(spec, parts, shape) * parts.planes * parts.sets
    if spec.parts:
        codebook = spec.format if isinstance(spec.format, Codebook) else None
        total += parts.bits(shape, codebook.entries if codebook else 0, codebook.dimension if codebook else 1)
    return total / count


def _code_bits(spec: QuantSpec, parts: Parts, shape: Sequence[int]) -> int:
    if not parts.segments:
        return spec.bits * _code_count(spec, parts, shape)
    size = shape[parts.along]
    if sum(extent for extent, _ in parts.segments) != size:
        raise SpecError(f"segments of {size} elements in all are wanted", where=str(spec))
    return math.prod(shape) // size * sum(extent * number.storage_bits for extent, number in parts.segments)


def _zero_point_bits(spec: QuantSpec, parts: Parts, shape: Sequence[int]) -> int:
    """A zero point per innermost block, as wide as the codes beside it."""
    counts = [int(count) for count in spec.levels[0].scale_shape(shape)]
    if not parts.segments:
        return math.prod(counts) * spec.bits
    others = math.prod(counts) // counts[parts.along]
    extent = spec.block[parts.along]
    return others * sum(-(-size // extent) * number.storage_bits for size, number in parts.segments)


def _code_count(spec: QuantSpec, parts: Parts, shape: Sequence[int]) -> int:
    dimension = spec.format.dimension if isinstance(spec.format, Codebook) else 1
    if dimension == 1:
        return parts.kept(shape)
    size = shape[parts.along]
    return math.prod(shape) // size * -(-size // dimension)


def _check_parts(spec: QuantSpec, parts: Parts) -> None:
    """Raises SpecError where the parts do not fit format, rank or each other."""
    complaint = _part_problem(spec, parts)
    if complaint:
        raise SpecError(complaint[0], where=str(spec), mend=complaint[1])


def _part_problem(spec: QuantSpec, parts: Parts) -> tuple[str, str] | None:
    codebook = spec.format if isinstance(spec.format, Codebook) else None
    if (codebook is None) != (parts.table is None):
        return "a codebook and its table come together", "write codebook4 ... table=f16(-1,-1)"
    if parts.table and len(parts.table.block) != spec.rank:
        return (
            f"a table block of rank {len(parts.table.block)}, a spec of rank {spec.rank}",
            "give one entry per axis",
        )
    if not -spec.rank <= parts.along < max(spec.rank, 1):
        return f"axis {parts.along} is outside a tensor of rank {spec.rank}", "choose one of its axes"
    if codebook and parts.table and not _holds_vectors(parts.table.block[parts.along], codebook.dimension):
        return f"a table is shared by parts of a vector of {codebook.dimension}", "make that extent -1 or a multiple"
    if parts.nested and not _nests(spec, parts.nested[0]):
        return (
            "no narrower model lies inside these codes",
            "take wider symmetric integers or a wider codebook",
        )
    if parts.remainder and spec.rank < 2:
        return "a remainder needs a matrix", "leave it out"
    if parts.outliers and parts != Parts(outliers=parts.outliers):
        return "single elements are kept beside plain codes only", "leave the other parts out"
    return _segment_problem(spec, parts) if parts.segments else None


def _segment_problem(spec: QuantSpec, parts: Parts) -> tuple[str, str] | None:
    if parts.keep or parts.nested or parts.table or not -spec.rank <= parts.along < spec.rank:
        return "segments go with no mask, table or nested width", "leave one of them out"
    extent = spec.block[parts.along]
    if extent == -1 or any(size % extent for size, _ in parts.segments[:-1]):
        return "a block lies in two segments", "end every segment with a block"
    kind = (spec.format.signed, spec.format.is_integer)
    if any(
        (number.signed, number.is_integer) != kind or number.storage_bits > spec.bits for _, number in parts.segments
    ):
        return "the formats of segments are of the spec's kind and no wider", f"choose narrower kin of {spec.format}"
    return None


def _holds_vectors(extent: int, dimension: int) -> bool:
    return extent == -1 or extent % dimension == 0


def _nests(spec: QuantSpec, widest: int) -> bool:
    number = spec.format
    integers = isinstance(number, Integer) and spec.symmetric
    return (integers or (isinstance(number, Codebook) and number.dimension == 1)) and widest < spec.bits


def _parse_block(text: str, spec_text: str) -> tuple[int, ...]:
    match = _BLOCK.fullmatch(text)
    if not match:
        raise SpecError(f"cannot read the block {text!r}", where=spec_text, mend="write it like (1,32) or (-1,-1)")
    return tuple(int(extent) for extent in match[1].split(",")) if match[1] else ()
