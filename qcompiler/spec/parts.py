"""What lies beside the codes and scales of a tensor: tables, signs, masks, planes, widths inside, a remainder.

Source: Xiang et al. 2025, "SSVQ: Unleashing the Potential of Vector Quantization with Sign-Splitting" (signs);
Li et al. 2024, "MVQ" (masks); Xu et al. 2018, "Alternating Multi-bit Quantization" (planes); Huang et al. 2025, "Double
Rounding" (widths inside); Yao et al. 2023, "ZeroQuant-V2" (low-rank remainder).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, cast

from qcompiler.errors import SpecError
from qcompiler.formats import Format, parse_format
from qcompiler.formats.extents import block_counts, mask_bits
from qcompiler.spec.outliers import Outliers

StoredName = Literal["f32", "f16", "bf16", "i8"]
STORED_BITS: dict[StoredName, int] = {"f32": 32, "f16": 16, "bf16": 16, "i8": 8}

_EXAMPLES = (
    "table=f16(-1,-1) | along=1 | signs | keep=4:16 | planes=2 | nested=6,4 | remainder=16:f16 | sets=25 | "
    "segments=64*int2,64*int4 | outliers=BwMQ"
)
_SEGMENT_BITS = 32
"""The length of a segment and the number of its format."""
_TABLE = re.compile(r"(f32|f16|bf16|i8)\((-?\d+(?:,-?\d+)*)\)")
_REMAINDER = re.compile(r"([1-9]\d*):(f32|f16|bf16|i8)")


@dataclass(frozen=True)
class SharedTable:
    """Where the values of a codebook live: one table per block of elements, stored in a small format.

    block: extents as for scales. stored: `i8` holds multiples of 1/127, the others floats.
    """

    block: tuple[int, ...]
    stored: StoredName = "f16"

    def __str__(self) -> str:
        return f"{self.stored}({','.join(map(str, self.block))})"

    def counts(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Tables along each axis; raises SpecError when the ranks differ."""
        return cast("tuple[int, ...]", block_counts(shape, self.block))


@dataclass(frozen=True)
class Remainder:
    """A product of two thin matrices that is added to the dequantized one: [rows, rank] times [rank, columns].

    Rows are the first axis, columns all others together.
    """

    rank: int
    stored: StoredName = "f16"

    def __str__(self) -> str:
        return f"{self.rank}:{self.stored}"


@dataclass(frozen=True)
class Parts:
    """What a tensor has beside plain codes and scales; every field's default is "nothing".

    table: the values of a codebook format. along: the axis of its vectors and of masks. signs: one bit per element
    carries its sign, the codes its magnitude. keep: (N, M), N of every M neighbours are stored, the others are zero.
    planes: the tensor is the sum of so many tensors of this spec, each with its own scales. nested: narrower widths
    whose models lie inside the codes. remainder: a low-rank matrix to add. sets: so many sets of scales, one of which
    an index chooses at run time (time step, position, region). segments: sizes along the axis whose slices have
    formats of their own, none wider than the spec's. outliers: single elements that stay in half precision.

    Text: `table=f16(-1,-1) along=1 signs keep=4:16 planes=2 nested=6,4 remainder=16:f16 sets=25
    segments=128*int2,64*int4 outliers=BwMQ`.
    Raises SpecError for values that make no sense.
    """

    table: SharedTable | None = None
    along: int = -1
    signs: bool = False
    keep: tuple[int, int] | None = None
    planes: int = 1
    nested: tuple[int, ...] = ()
    remainder: Remainder | None = None
    sets: int = 1
    segments: tuple[tuple[int, Format], ...] = ()
    outliers: Outliers | None = None

    def __post_init__(self) -> None:
        if self.planes < 1 or self.sets < 1:
            raise SpecError("a tensor has at least one plane and one set of scales", where=str(self), mend=_EXAMPLES)
        if self.keep and not 1 <= self.keep[0] < self.keep[1] <= 32:
            raise SpecError(f"keep={self.keep[0]}:{self.keep[1]} is no mask", mend="keep N of M with 1 <= N < M <= 32")
        if any(low >= high for high, low in zip(self.nested, self.nested[1:], strict=False)) or 0 in self.nested:
            raise SpecError(f"nested widths {self.nested} do not fall", mend="write the widest first: nested=6,4,2")
        if any(size < 1 for size, _ in self.segments):
            raise SpecError("a segment has at least one row or column", where=str(self), mend=_EXAMPLES)

    def __str__(self) -> str:
        return " ".join(word for field in fields(self) if (word := self._word(field.name)))

    def _word(self, name: str) -> str:
        value = getattr(self, name)
        if value == _NOTHING.get(name):
            return ""
        match name:
            case "signs":
                return name
            case "keep":
                return f"keep={value[0]}:{value[1]}"
            case "nested":
                return f"nested={','.join(map(str, value))}"
            case "segments":
                return "segments=" + ",".join(f"{size}*{number}" for size, number in value)
        return f"{name}={value}"

    @staticmethod
    def parse(words: Sequence[str], where: str) -> Parts | None:
        """Reads the words of a spec that follow its levels; None when there are none. Inverts `str(parts)`.

        Raises SpecError that says which word is wrong; `where` is the whole text.
        """
        if not words:
            return None
        found: dict[str, str] = {}
        for word in words:
            name, _, value = word.partition("=")
            if name not in _NOTHING or name in found or (name == "signs") == bool(value):
                raise SpecError(f"unknown words in a spec: {word}", where=where, mend=_EXAMPLES)
            found[name] = value
        parts = Parts(
            table=_parse_table(found["table"], where) if "table" in found else None,
            along=_whole(found.get("along", "-1"), where),
            signs="signs" in found,
            keep=_pair(found["keep"], where) if "keep" in found else None,
            planes=_whole(found.get("planes", "1"), where),
            nested=tuple(_whole(width, where) for width in found["nested"].split(",")) if "nested" in found else (),
            remainder=_parse_remainder(found["remainder"], where) if "remainder" in found else None,
            sets=_whole(found.get("sets", "1"), where),
            segments=_parse_segments(found["segments"], where) if "segments" in found else (),
            outliers=Outliers(found["outliers"]) if "outliers" in found else None,
        )
        return None if parts == Parts() else parts

    def bits(self, shape: Sequence[int], entries: int, dimension: int) -> int:
        """Bits of everything but codes and scales for a tensor of this shape.

        entries: rows of a table (0 without one), dimension: elements per row. Rows padding is not counted.
        """
        total = 0
        if self.table:
            rows = entries + sum(1 << width for width in self.nested)
            total += math.prod(self.table.counts(shape)) * rows * dimension * STORED_BITS[self.table.stored]
        if self.keep:
            total += (
                (math.prod(shape) // shape[self.along]) * -(-shape[self.along] // self.keep[1]) * mask_bits(*self.keep)
            )
        if self.signs:
            total += self.kept(shape)
        if self.remainder:
            columns = math.prod(shape[1:])
            total += self.remainder.rank * (shape[0] + columns) * STORED_BITS[self.remainder.stored]
        if self.outliers:
            total += self.outliers.bits
        return total + len(self.segments) * _SEGMENT_BITS

    def kept(self, shape: Sequence[int]) -> int:
        """Elements that are stored: all of them without a mask."""
        count = math.prod(shape)
        if not self.keep:
            return count
        size = shape[self.along]
        whole, rest = divmod(size, self.keep[1])
        return count // size * (whole * self.keep[0] + min(rest, self.keep[0]))


_NOTHING: dict[str, object] = {field.name: field.default for field in fields(Parts)}


def _parse_table(text: str, where: str) -> SharedTable:
    match = _TABLE.fullmatch(text)
    if not match:
        raise SpecError(f"cannot read table={text}", where=where, mend="write it like table=f16(-1,-1)")
    return SharedTable(tuple(map(int, match[2].split(","))), cast("StoredName", match[1]))


def _parse_remainder(text: str, where: str) -> Remainder:
    match = _REMAINDER.fullmatch(text)
    if not match:
        raise SpecError(f"cannot read remainder={text}", where=where, mend="write it like remainder=16:f16")
    return Remainder(int(match[1]), cast("StoredName", match[2]))


def _parse_segments(text: str, where: str) -> tuple[tuple[int, Format], ...]:
    words = [word.partition("*") for word in text.split(",")]
    return tuple((_whole(size, where), parse_format(number)) for size, _, number in words)


def _pair(text: str, where: str) -> tuple[int, int]:
    first, _, second = text.partition(":")
    return _whole(first, where), _whole(second, where)


def _whole(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SpecError(f"{text!r} is no whole number", where=where, mend=_EXAMPLES) from None
