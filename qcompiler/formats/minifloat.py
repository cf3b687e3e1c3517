"""Small floating-point formats eXmY, and the power-of-two scale format e8m0.

Source: OCP 8-bit Floating Point Specification 1.0 (e4m3, e5m2); OCP Microscaling Formats 1.0 (fp6, fp4,
e8m0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qcompiler.errors import SpecError
from qcompiler.formats.base import GridFormat

if TYPE_CHECKING:
    from qcompiler.formats.grid import Grid

Specials = Literal["none", "nan", "ieee"]


@dataclass(frozen=True)
class MiniFloat(GridFormat):
    """Sign, `exponent` bits, `mantissa` bits; subnormals; bias 2^(exponent-1)-1.

    `specials`: `none` = every code is a number; `nan` = the all-ones codes are NaN (e4m3);
    `ieee` = the top exponent is infinity and NaN (e5m2). Rounding saturates and never makes either.
    Raises SpecError when the format is wider than 8 bits or has no exponent.
    """

    exponent: int
    mantissa: int
    specials: Specials = "none"

    def __post_init__(self) -> None:
        smallest_mantissa = 0 if self.specials == "none" else 1
        if self.exponent < 1 or self.mantissa < smallest_mantissa or self.storage_bits > 8:
            raise SpecError(
                f"there is no float format with {self.exponent} exponent and {self.mantissa} mantissa bits",
                mend="choose at least 1 exponent bit and at most 8 bits with the sign",
            )

    @property
    def name(self) -> str:
        """`fp8e4m3`, `fp4e2m1`, ..."""
        return f"fp{self.storage_bits}e{self.exponent}m{self.mantissa}"

    @property
    def storage_bits(self) -> int:
        """Width of one code in bits, sign included."""
        return 1 + self.exponent + self.mantissa

    def code_values(self) -> tuple[float, ...]:
        """The value of each code: sign bit highest, then exponent, then mantissa."""
        magnitudes = [self._magnitude(code) for code in range(1 << (self.storage_bits - 1))]
        return (*magnitudes, *(-value for value in magnitudes))

    def _magnitude(self, code: int) -> float:
        exponent, fraction = code >> self.mantissa, code & ((1 << self.mantissa) - 1)
        top = (1 << self.exponent) - 1
        if self.specials == "ieee" and exponent == top:
            return math.nan if fraction else math.inf
        if self.specials == "nan" and code == (1 << (self.storage_bits - 1)) - 1:
            return math.nan
        bias = (1 << (self.exponent - 1)) - 1
        if exponent == 0:
            return math.ldexp(fraction, 1 - bias - self.mantissa)
        return math.ldexp((1 << self.mantissa) + fraction, exponent - bias - self.mantissa)


@dataclass(frozen=True)
class PowerOfTwo(GridFormat):
    """e8m0: 2^-127 .. 2^127, unsigned, no zero, code 255 is NaN. A scale format.

    Ties go up: between significands 1 and 10 (binary) the even one is the upper.
    """

    @property
    def name(self) -> str:
        """`e8m0`."""
        return "e8m0"

    @property
    def storage_bits(self) -> int:
        """Always 8."""
        return 8

    def code_values(self) -> tuple[float, ...]:
        """2^(code-127), and NaN for code 255."""
        return (*(math.ldexp(1.0, code - 127) for code in range(255)), math.nan)

    def grid(self) -> Grid:
        """All values in order with their codes and decision thresholds."""
        from qcompiler.formats.grid import Grid

        return Grid.from_codes(self.code_values(), ties="up")


FP8_E4M3 = MiniFloat(4, 3, "nan")
FP8_E5M2 = MiniFloat(5, 2, "ieee")
FP6_E2M3 = MiniFloat(2, 3)
FP6_E3M2 = MiniFloat(3, 2)
FP4_E2M1 = MiniFloat(2, 1)
E8M0 = PowerOfTwo()


def minifloat(exponent: int, mantissa: int) -> MiniFloat:
    """The format eXmY as the standards define it: e4m3 and e5m2 have special codes, others only numbers.

    Raises SpecError like MiniFloat.
    """
    for standard in (FP8_E4M3, FP8_E5M2):
        if (standard.exponent, standard.mantissa) == (exponent, mantissa):
            return standard
    return MiniFloat(exponent, mantissa)
