"""Families of numbers that kernels take, as targets' data files write them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from qcompiler.errors import SpecError
from qcompiler.formats import Integer, ScaleName, parse_format, scale_name
from qcompiler.spec import Number

Granularity = Literal["tensor", "channel", "token", "group"]
_ANYTHING = "any"
_ACCEPT = re.compile(r"(\w+) (sym|asym) (tensor|channel|token|group=(\d+(?:\|\d+)*))(?: scale=(\w+))?( dynamic)?")


@dataclass(frozen=True)
class Accept:
    """One family of numbers that a kernel takes: `uint8 asym tensor`, `uint4 asym group=16|32|64`, `... dynamic`.

    `int4 sym group=64 scale=f16` is one whose scales the kernel reads in that format, whatever is asked for. `any` is
    the family of all numbers; its other fields say nothing.
    """

    format: str
    symmetric: bool
    granularity: Granularity
    group_sizes: tuple[int, ...] = ()
    dynamic: bool = False
    scale: ScaleName | None = None

    def __str__(self) -> str:
        if self.anything:
            return _ANYTHING
        sizes = "|".join(map(str, self.group_sizes))
        where = f"group={sizes}" if sizes else self.granularity
        scale = f" scale={self.scale}" if self.scale else ""
        return f"{self.format} {'sym' if self.symmetric else 'asym'} {where}{scale}{' dynamic' if self.dynamic else ''}"

    @property
    def anything(self) -> bool:
        """Whether it is the family of all numbers."""
        return self.format == _ANYTHING

    @staticmethod
    def parse(text: str) -> Accept:
        """Reads the text form.

        Raises:
            SpecError: when it cannot be read.
        """
        if text.strip() == _ANYTHING:
            return Accept(_ANYTHING, True, "tensor")
        match = _ACCEPT.fullmatch(text.strip())
        if not match:
            raise SpecError(f"'{text}' is not a number that a kernel accepts", mend="for example `int8 sym channel`")
        parse_format(match[1])
        sizes = tuple(int(size) for size in match[4].split("|")) if match[4] else ()
        granularity: Granularity = "group" if sizes else match[3]  # pyright: ignore[reportAssignmentType]
        scale = scale_name(match[5]) if match[5] else None
        return Accept(match[1], match[2] == "sym", granularity, sizes, bool(match[6]), scale)

    def numbers(self) -> list[Number]:
        """Every number of the family; not to be asked of the family of all numbers."""
        format_ = parse_format(self.format)
        sizes, scale = self.group_sizes or (0,), self.scale or "f32"
        return [Number(format_, self.granularity, size, self.symmetric, self.dynamic, scale) for size in sizes]

    def resolve(self, request: Number) -> Number | None:
        """The number that serves a request on this kernel: same bits, granularity and timing; None when it cannot.

        A whole-tensor scale also serves a request for channels, never the other way round; the kernel's own signedness
        and symmetry win for activations, because they are a matter of the instruction set, and so does the format in
        which it reads scales.
        """
        if self.anything:
            return request
        format_ = parse_format(self.format)
        integers = isinstance(format_, Integer) and isinstance(request.format, Integer)
        if format_ != request.format and not (integers and format_.storage_bits == request.format.storage_bits):
            return None
        if self.dynamic != request.dynamic or self.granularity != request.granularity:
            return None
        if self.granularity == "group" and request.group_size not in self.group_sizes:
            return None
        return replace(request, format=format_, symmetric=self.symmetric, scale=self.scale or request.scale)
