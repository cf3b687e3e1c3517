"""Formats given by a fixed table of values, one per code.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", appendix E (NF4).
"""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.errors import SpecError
from qcompiler.formats.base import GridFormat


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
