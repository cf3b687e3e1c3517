"""Instruction sets for which micro-kernels are written, and what a compiler must be told to use them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Architecture = Literal["portable", "x86", "arm64", "arm32"]


class Isa(Enum):
    """One level; the value is the suffix of C names and files."""

    PORTABLE = "portable"
    AVX2 = "avx2"
    AVX512 = "avx512"
    AMX = "amx"
    NEON = "neon"
    DOTPROD = "dotprod"
    I8MM = "i8mm"
    NEON32 = "neon32"


@dataclass(frozen=True)
class Level:
    """What goes with an instruction set.

    Args:
        architecture: of the processor.
        flags: of gcc and clang, for the files of this level.
        check: C expression that tells at run time whether the processor has it; empty where the compiler decides.
        falls_back: levels whose kernels also run here, best first; portable C runs everywhere.
    """

    architecture: Architecture
    flags: tuple[str, ...]
    check: str = ""
    falls_back: tuple[Isa, ...] = (Isa.PORTABLE,)


_AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi2", "-mpopcnt")
_AVX512 = (
    *_AVX2,
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vbmi"),
    *("-mavx512vnni", "-mavx512vpopcntdq", "-mavx512bitalg", "-mprefer-vector-width=512"),
)

LEVELS: dict[Isa, Level] = {
    Isa.PORTABLE: Level("portable", ("-DQC_SIGNED_ACTIVATIONS=1",), falls_back=()),
    Isa.AVX2: Level("x86", _AVX2, "qc_has_avx2()"),
    Isa.AVX512: Level("x86", _AVX512, "qc_has_avx512()", (Isa.AVX2, Isa.PORTABLE)),
    Isa.AMX: Level("x86", (*_AVX512, "-mamx-tile", "-mamx-int8"), "qc_has_amx()", (Isa.AVX512, Isa.AVX2, Isa.PORTABLE)),
    Isa.NEON: Level("arm64", ("-march=armv8-a",)),
    Isa.DOTPROD: Level("arm64", ("-march=armv8.2-a+dotprod",), falls_back=(Isa.NEON, Isa.PORTABLE)),
    Isa.I8MM: Level("arm64", ("-march=armv8.2-a+dotprod+i8mm",), falls_back=(Isa.DOTPROD, Isa.NEON, Isa.PORTABLE)),
    Isa.NEON32: Level("arm32", ("-march=armv7-a", "-mfpu=neon-vfpv4", "-mfloat-abi=hard")),
}

COMMON_FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
"""For every file. Products and sums are rounded where the source says so, that is apart unless it says `fmaf`: results
are the same on every level. `-ffast-math` would break that."""
WARNINGS = ("-Wall", "-Wextra", "-Werror")
