"""Grids whose values are spaced by a ratio: powers of two, of the square root of two, or of any base.

Source: Miyashita et al. 2016, "Convolutional Neural Networks using Logarithmic Data Representation" (log2);
Li et al. 2023, "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers"
(log-sqrt2); Li et al. 2025, "LRQ-DiT" (the spacing as a free parameter).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qcompiler.errors import SpecError
from qcompiler.formats.base import GridFormat, single

_NAME = re.compile(r"(u?)log(?:(2)_|(sqrt2)_)?([2-8])(?:s(\d+(?:\.\d+)?(?:e-\d+)?))?")


@dataclass(frozen=True)
class Logarithmic(GridFormat):
    """Zero and the values 2^(-step * k), k = 0, 1, ...; the largest value is 1.

    Formula: code k stands for 2^(-step * k), the last code for zero, so that padding and pruned weights stay
    exact. Signed: the highest bit is the sign, the others are k. `step` is in octaves: 1 = log2, 0.5 = log-sqrt2.
    Rounding goes to the nearest value, which never has a larger squared error than rounding the logarithm.
    Raises SpecError for a width outside 2 (signed 3) to 8 bits and a step outside 0.01 .. 8.
    """

    bits: int
    signed_values: bool = False
    step: float = 1.0

    def __post_init__(self) -> None:
        if not 2 + self.signed_values <= self.bits <= 8 or not 0.01 <= self.step <= 8:
            raise SpecError(
                f"there is no logarithmic format of {self.bits} bits and {self.step} octaves per code",
                mend="choose 2 (signed 3) to 8 bits and 0.01 to 8 octaves",
            )
        if (self._levels - 1) * self.step > 126:
            raise SpecError(
                f"{self.name} reaches below the range of float32", mend="choose fewer bits or a smaller step"
            )

    @property
    def _levels(self) -> int:
        """Values other than zero of one sign."""
        return (1 << (self.bits - self.signed_values)) - 1

    @property
    def name(self) -> str:
        """`ulog2_4` (unsigned), `log2_4`, `ulogsqrt2_4`, `log4s0.3` (0.3 octaves), ..."""
        sign = "" if self.signed_values else "u"
        words = {1.0: f"log2_{self.bits}", 0.5: f"logsqrt2_{self.bits}"}
        return sign + words.get(self.step, f"log{self.bits}s{self.step!r}")

    @property
    def storage_bits(self) -> int:
        """Width of one code in bits."""
        return self.bits

    def code_values(self) -> tuple[float, ...]:
        """1, 2^-step, 2^(-2 step), ..., 0; then the same negative."""
        positive = [single(2.0 ** (-self.step * place)) for place in range(self._levels)] + [0.0]
        return (*positive, *(-value for value in positive)) if self.signed_values else tuple(positive)


def parse_logarithmic(text: str) -> Logarithmic | None:
    """Reads the name of a logarithmic format; None when it is not the name of one. Raises SpecError like the class."""
    match = _NAME.fullmatch(text)
    if not match:
        return None
    step = 1.0 if match[2] else 0.5 if match[3] else float(match[5] or 0)
    number = Logarithmic(int(match[4]), not match[1], step) if step else None
    return number if number and number.name == text else None
