"""Number formats: one file each, all listed here. Naming and parsing them loads no torch."""

from __future__ import annotations

import re

from qcompiler.errors import SpecError
from qcompiler.formats.base import Format
from qcompiler.formats.binary import BINARY
from qcompiler.formats.integer import Integer
from qcompiler.formats.minifloat import (
    E8M0,
    FP4_E2M1,
    FP6_E2M3,
    FP6_E3M2,
    FP8_E4M3,
    FP8_E5M2,
    MiniFloat,
    minifloat,
)
from qcompiler.formats.scales import SCALE_FORMATS, ScaleFormat, ScaleName, scale_format, scale_name
from qcompiler.formats.table import NF4, Table
from qcompiler.formats.ternary import TERNARY

FORMATS: tuple[Format, ...] = (
    *(Integer(bits, signed=True) for bits in (2, 3, 4, 5, 6, 7, 8, 16, 32)),
    Integer(8, signed=True, narrow=True),
    *(Integer(bits, signed=False) for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16)),
    FP8_E4M3,
    FP8_E5M2,
    FP6_E2M3,
    FP6_E3M2,
    FP4_E2M1,
    NF4,
    TERNARY,
    BINARY,
)

_INTEGER = re.compile(r"(u?)int([1-9]\d?)(n?)")
_FLOAT = re.compile(r"fp(\d)e(\d)m(\d)")


def parse_format(text: str) -> Format:
    """Reads the name of a format; inverts `str(format)`. Raises SpecError that lists the known names."""
    if match := _INTEGER.fullmatch(text):
        return Integer(int(match[2]), signed=not match[1], narrow=bool(match[3]))
    if match := _FLOAT.fullmatch(text):
        number = minifloat(int(match[2]), int(match[3]))
        if number.name == text:
            return number
    for known in (*FORMATS, E8M0):
        if known.name == text:
            return known
    raise SpecError(
        f"unknown number format {text!r}", mend="choose one of " + ", ".join(known.name for known in FORMATS)
    )


__all__ = [
    "BINARY",
    "E8M0",
    "FORMATS",
    "FP4_E2M1",
    "FP6_E2M3",
    "FP6_E3M2",
    "FP8_E4M3",
    "FP8_E5M2",
    "NF4",
    "SCALE_FORMATS",
    "TERNARY",
    "Format",
    "Integer",
    "MiniFloat",
    "ScaleFormat",
    "ScaleName",
    "Table",
    "minifloat",
    "parse_format",
    "scale_format",
    "scale_name",
]
