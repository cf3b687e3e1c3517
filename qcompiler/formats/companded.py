"""Symmetric grids that a monotone curve bends: power-exponent and two-sided logarithmic.

Source: Yvinec et al. 2023, "NUPES: Non-Uniform Post-Training Quantization via Power Exponent Search" (power);
Li et al. 2025, "LRQ-DiT: Log-Rotation Post-Training Quantization of Diffusion Transformers" (twin-log).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from qcompiler.errors import SpecError
from qcompiler.formats.base import GridFormat, single

Curve = Literal["pow", "twinlog"]

_NAME = re.compile(r"(pow|twinlog)([2-8])c(\d+(?:\.\d+)?(?:e-\d+)?)")
_LIMITS: dict[Curve, tuple[float, float]] = {"pow": (0.1, 2.0), "twinlog": (1e-3, 1e6)}


@dataclass(frozen=True)
class Companded(GridFormat):
    """2L + 1 values between -1 and 1, L = 2^(bits-1)-1, evenly spaced after the curve phi.

    Formula: code q (two's complement, the lowest unused) stands for sign(q) * phi^-1(|q| / L).
    pow: phi(u) = u^curvature (1 = evenly spaced). twinlog: phi(u) = ln(1 + curvature u) / ln(1 + curvature).
    Rounding goes to the nearest value, which never has a larger squared error than rounding phi(u).
    Raises SpecError for a width outside 2 to 8 bits or a curvature outside 0.1 .. 2 (pow), 0.001 .. 1e6 (twinlog).
    """

    curve: Curve
    bits: int
    curvature: float

    def __post_init__(self) -> None:
        low, high = _LIMITS[self.curve]
        if not 2 <= self.bits <= 8 or not low <= self.curvature <= high:
            raise SpecError(
                f"there is no {self.curve} format of {self.bits} bits and curvature {self.curvature}",
                mend=f"choose 2 to 8 bits and a curvature from {low} to {high}",
            )

    @property
    def name(self) -> str:
        """`pow4c0.5`, `twinlog4c3.2`, ..."""
        return f"{self.curve}{self.bits}c{self.curvature!r}"

    @property
    def storage_bits(self) -> int:
        """Width of one code in bits."""
        return self.bits

    def code_values(self) -> tuple[float, ...]:
        """0 and the positive values, one unused code, then the negative values from -1 up."""
        top = (1 << (self.bits - 1)) - 1
        positive = [single(self._expand(place / top)) for place in range(top + 1)]
        return (*positive, math.nan, *(-value for value in reversed(positive[1:])))

    def _expand(self, u: float) -> float:
        if u in (0.0, 1.0):
            return u
        if self.curve == "pow":
            return u ** (1 / self.curvature)
        return math.expm1(u * math.log1p(self.curvature)) / self.curvature


def power(bits: int, exponent: float) -> Companded:
    """The power-exponent grid of this width; raises SpecError like Companded."""
    return Companded("pow", bits, float(exponent))


def twin_log(bits: int, growth: float) -> Companded:
    """The two-sided logarithmic grid of this width; raises SpecError like Companded."""
    return Companded("twinlog", bits, float(growth))


def parse_companded(text: str) -> Companded | None:
    """Reads the name of a companded format; None when it is not the name of one. Raises SpecError like the class."""
    match = _NAME.fullmatch(text)
    if not match:
        return None
    number = (power if match[1] == "pow" else twin_log)(int(match[2]), float(match[3]))
    return number if number.name == text else None
