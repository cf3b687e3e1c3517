"""Number formats: one file each, all listed here. Naming and parsing them loads no torch."""

from __future__ import annotations

import re

from qcompiler.errors import SpecError
from qcompiler.formats.base import Format
from qcompiler.formats.binary import BINARY
from qcompiler.formats.codebook import Codebook, parse_codebook
from qcompiler.formats.companded import Companded, parse_companded, power, twin_log
from qcompiler.formats.complex_units import COMPLEX_UNITS, ComplexUnits
from qcompiler.formats.integer import Integer
from qcompiler.formats.logarithmic import Logarithmic, parse_logarithmic
from qcompiler.formats.minifloat import (
    E8M0,
    FP4_E1M2,
    FP4_E2M1,
    FP4_E3M0,
    FP6_E2M3,
    FP6_E3M2,
    FP8_E3M4,
    FP8_E4M3,
    FP8_E4M3_FNUZ,
    FP8_E5M2,
    FP8_E5M2_FNUZ,
    MiniFloat,
    minifloat,
    parse_minifloat,
)
from qcompiler.formats.scales import SCALE_FORMATS, ScaleFormat, ScaleName, scale_format, scale_name
from qcompiler.formats.table import BNB_FP4, NF2, NF3, NF4, Table, normal_float
from qcompiler.formats.ternary import TERNARY

FORMATS: tuple[Format, ...] = (
    *(Integer(bits, signed=True) for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)),
    Integer(8, signed=True, narrow=True),
    *(Integer(bits, signed=False) for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16)),
    FP8_E4M3,
    FP8_E5M2,
    FP8_E3M4,
    FP8_E4M3_FNUZ,
    FP8_E5M2_FNUZ,
    FP6_E2M3,
    FP6_E3M2,
    FP4_E2M1,
    FP4_E1M2,
    FP4_E3M0,
    NF4,
    NF3,
    NF2,
    BNB_FP4,
    Logarithmic(4),
    Logarithmic(4, step=0.5),
    Logarithmic(4, signed_values=True),
    power(4, 0.5),
    twin_log(4, 10.0),
    TERNARY,
    BINARY,
)

_INTEGER = re.compile(r"(u?)int([1-9]\d?)(n?)")
# Families with more members than FORMATS lists; a reader gives None for the name of another family.
_FAMILIES = (parse_minifloat, parse_logarithmic, parse_companded, parse_codebook)


def parse_format(text: str) -> Format:
    """Reads the name of a format; inverts `str(format)`. Raises SpecError that lists the known names."""
    if match := _INTEGER.fullmatch(text):
        return Integer(int(match[2]), signed=not match[1], narrow=bool(match[3]))
    for read in _FAMILIES:
        if number := read(text):
            return number
    for known in (*FORMATS, E8M0, COMPLEX_UNITS):
        if known.name == text:
            return known
    raise SpecError(
        f"unknown number format {text!r}",
        mend="choose one of " + ", ".join(known.name for known in FORMATS) + ", codebook4, codebook8d4, complex2",
    )


__all__ = [
    "BINARY",
    "BNB_FP4",
    "COMPLEX_UNITS",
    "E8M0",
    "FORMATS",
    "FP4_E1M2",
    "FP4_E2M1",
    "FP4_E3M0",
    "FP6_E2M3",
    "FP6_E3M2",
    "FP8_E3M4",
    "FP8_E4M3",
    "FP8_E4M3_FNUZ",
    "FP8_E5M2",
    "FP8_E5M2_FNUZ",
    "NF2",
    "NF3",
    "NF4",
    "SCALE_FORMATS",
    "TERNARY",
    "Codebook",
    "Companded",
    "ComplexUnits",
    "Format",
    "Integer",
    "Logarithmic",
    "MiniFloat",
    "ScaleFormat",
    "ScaleName",
    "Table",
    "minifloat",
    "normal_float",
    "parse_format",
    "power",
    "scale_format",
    "scale_name",
    "twin_log",
]
