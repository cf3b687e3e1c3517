"""Small floating-point formats eXmY, and the power-of-two scale format e8m0.

Source: OCP 8-bit Floating Point Specification 1.0 (e4m3, e5m2); OCP Microscaling Formats 1.0 (fp6, fp4,
e8m0); Noune et al. 2022, "8-bit Numerical Formats for Deep Neural Networks" (fnuz).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from qcompiler.errors import SpecError
from qcompiler.formats.base import GridFormat

if TYPE_CHECKING:
    from torch import Tensor

    from qcompiler.formats.grid import Grid

Specials = Literal["none", "nan", "ieee", "fnuz"]

_STANDARD: dict[tuple[int, int], Specials] = {(4, 3): "nan", (5, 2): "ieee"}
_WORDS: dict[str, Specials] = {"all": "none", "nan": "nan", "ieee": "ieee", "fnuz": "fnuz"}
_NAME = re.compile(r"fp(\d)e(\d)m(\d)(all|nan|ieee|fnuz)?(?:b(-?\d+))?")
# Grid values and the sums that round to them stay normal float32 numbers inside these exponents.
_LOWEST_EXPONENT, _HIGHEST_EXPONENT = -126, 100


@dataclass(frozen=True)
class MiniFloat(GridFormat):
    """Sign, `exponent` bits, `mantissa` bits; subnormals.

    `specials`: `none` = every code is a number; `nan` = the all-ones codes are NaN (e4m3);
    `ieee` = the top exponent is infinity and NaN (e5m2); `fnuz` = the code of -0 is NaN. Rounding saturates and
    never makes a special. `bias`: None = the usual one, 2^(exponent-1)-1, for `fnuz` one more.
    Raises SpecError when the format is wider than 8 bits, has no exponent, or leaves the range of float32.
    """

    exponent: int
    mantissa: int
    specials: Specials = "none"
    bias: int | None = None

    def __post_init__(self) -> None:
        smallest_mantissa = 1 if self.specials in ("nan", "ieee") else 0
        if self.exponent < 1 or self.mantissa < smallest_mantissa or self.storage_bits > 8:
            raise SpecError(
                f"there is no float format with {self.exponent} exponent and {self.mantissa} mantissa bits",
                mend="choose at least 1 exponent bit and at most 8 bits with the sign",
            )
        if self.bias == self._usual_bias:
            object.__setattr__(self, "bias", None)
        smallest = 1 - self.exponent_bias - self.mantissa
        largest = (1 << self.exponent) - 1 - self.exponent_bias
        if smallest < _LOWEST_EXPONENT or largest > _HIGHEST_EXPONENT:
            raise SpecError(
                f"{self.name} reaches from 2^{smallest} to 2^{largest}",
                mend=f"choose a bias that stays within 2^{_LOWEST_EXPONENT} .. 2^{_HIGHEST_EXPONENT}",
            )

    @property
    def _usual_bias(self) -> int:
        return (1 << (self.exponent - 1)) - (self.specials != "fnuz")

    @property
    def exponent_bias(self) -> int:
        """What is subtracted from the exponent field."""
        return self._usual_bias if self.bias is None else self.bias

    @property
    def name(self) -> str:
        """`fp8e4m3`, `fp4e2m1`, `fp8e4m3fnuz`, `fp8e4m3all` (every code a number), `fp4e2m1b3` (bias 3), ..."""
        standard = _STANDARD.get((self.exponent, self.mantissa), "none")
        word = "" if self.specials == standard else "all" if self.specials == "none" else self.specials
        bias = "" if self.bias is None else f"b{self.bias}"
        return f"fp{self.storage_bits}e{self.exponent}m{self.mantissa}{word}{bias}"

    @property
    def storage_bits(self) -> int:
        """Width of one code in bits, sign included."""
        return 1 + self.exponent + self.mantissa

    def code_values(self) -> tuple[float, ...]:
        """The value of each code: sign bit highest, then exponent, then mantissa."""
        magnitudes = [self._magnitude(code) for code in range(1 << (self.storage_bits - 1))]
        negative = [-value for value in magnitudes]
        if self.specials == "fnuz":
            negative[0] = math.nan
        return (*magnitudes, *negative)

    def round(self, x: Tensor) -> Tensor:
        """Nearest value, ties to the even code, saturating; any shape, dtype of `x`; NaN stays NaN."""
        from qcompiler.formats.significand import narrow, round_significand

        # Without a mantissa the even code is a matter of the exponent, which the grid knows.
        if self.mantissa == 0 or not narrow(x.dtype):
            return self.grid().round(x)
        return round_significand(x, self.mantissa, 1 - self.exponent_bias, self.highest)

    def _magnitude(self, code: int) -> float:
        exponent, fraction = code >> self.mantissa, code & ((1 << self.mantissa) - 1)
        top = (1 << self.exponent) - 1
        if self.specials == "ieee" and exponent == top:
            return math.nan if fraction else math.inf
        if self.specials == "nan" and code == (1 << (self.storage_bits - 1)) - 1:
            return math.nan
        bias = self.exponent_bias
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

    @cached_property
    def _grid(self) -> Grid:
        from qcompiler.formats.grid import grid_of

        return grid_of(self.code_values(), ties="up")


FP8_E4M3 = MiniFloat(4, 3, "nan")
FP8_E5M2 = MiniFloat(5, 2, "ieee")
FP8_E3M4 = MiniFloat(3, 4)
FP8_E4M3_FNUZ = MiniFloat(4, 3, "fnuz")
FP8_E5M2_FNUZ = MiniFloat(5, 2, "fnuz")
FP6_E2M3 = MiniFloat(2, 3)
FP6_E3M2 = MiniFloat(3, 2)
FP4_E2M1 = MiniFloat(2, 1)
FP4_E1M2 = MiniFloat(1, 2)
FP4_E3M0 = MiniFloat(3, 0)
E8M0 = PowerOfTwo()


def minifloat(exponent: int, mantissa: int, specials: Specials | None = None, bias: int | None = None) -> MiniFloat:
    """The format eXmY; by default as the standards define it: e4m3 and e5m2 have special codes, others only numbers.

    Raises SpecError like MiniFloat.
    """
    return MiniFloat(exponent, mantissa, specials or _STANDARD.get((exponent, mantissa), "none"), bias)


def parse_minifloat(text: str) -> MiniFloat | None:
    """Reads the name of a float format; None when it is not the name of one. Raises SpecError like MiniFloat."""
    match = _NAME.fullmatch(text)
    if not match:
        return None
    number = minifloat(int(match[2]), int(match[3]), _WORDS.get(match[4]), int(match[5]) if match[5] else None)
    return number if number.name == text else None
