"""Formats given by a fixed table of values, one per code.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", appendix E (NF4); the bitsandbytes
library (the quantiles behind NF4, and its own 4-bit float).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from qcompiler.errors import SpecError
from qcompiler.formats.base import GridFormat, single


@dataclass(frozen=True)
class Table(GridFormat):
    """A named table: `values[code]` is the value of each code, NaN where a code is unused.

    Raises SpecError for fewer than 2 or more than 256 codes.
    """

    title: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.values) <= 256:
            raise SpecError(f"the table {self.title} has {len(self.values)} codes", mend="give 2 to 256 values")

    @property
    def name(self) -> str:
        """The title of the table."""
        return self.title

    @property
    def storage_bits(self) -> int:
        """Bits that number the codes."""
        return (len(self.values) - 1).bit_length()

    def code_values(self) -> tuple[float, ...]:
        """The table itself."""
        return self.values


NF4 = Table(
    "nf4",
    (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ),
)


def normal_float(bits: int) -> Table:
    """The values whose cells hold equal shares of a normal distribution, with an exact zero and the ends at -1 and 1.

    Formula: 2^(bits-1) positive and 2^(bits-1)-1 negative quantiles, evenly spaced in probability from 1/2 to the
    mean of 1 - 1/(2n) and 1 - 1/(2n-2), n = 2^bits, divided by the largest. 4 bits give NF4 up to float32 rounding.
    Raises SpecError for a width outside 2 to 8 bits.
    """
    if not 2 <= bits <= 8:
        raise SpecError(f"there is no normal float of {bits} bits", mend="choose 2 to 8 bits")
    codes = 1 << bits
    outermost = 1 - 0.25 * (1 / codes + 1 / (codes - 1))
    positive, negative = _quantiles(outermost, codes // 2), _quantiles(outermost, codes // 2 - 1)
    top = positive[0]
    values = [*(-value for value in negative), 0.0, *reversed(positive)]
    return Table(f"nf{bits}", tuple(single(value / top) for value in values))


def _quantiles(outermost: float, count: int) -> list[float]:
    """Positive normal quantiles from the outermost down, the one of probability 1/2 (zero) left out."""
    step = (outermost - 0.5) / count
    normal = NormalDist()
    return [normal.inv_cdf(outermost - place * step) for place in range(count)]


NF3 = normal_float(3)
NF2 = normal_float(2)
_BNB_MAGNITUDES = tuple(single(twelfths / 12) for twelfths in (0, 0.0625, 8, 12, 4, 6, 2, 3))
BNB_FP4 = Table("bnbfp4", (*_BNB_MAGNITUDES, *(-value for value in _BNB_MAGNITUDES)))
