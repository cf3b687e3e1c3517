"""Codebooks whose values are data: the numbers are indices into a table that lies beside the scales.

Source: Han et al. 2016, "Deep Compression" (scalar); Stock et al. 2020, "And the Bit Goes Down" (vectors).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from qcompiler.formats.grid import Grid

_NAME = re.compile(r"codebook([1-9]\d?)(?:d([2-9]|\d\d+))?")


@dataclass(frozen=True)
class Codebook:
    """Indices 0 .. 2^bits-1; each stands for `dimension` neighbouring elements.

    The grid values of this format are the indices themselves: what they stand for, and which one is nearest,
    only the table knows (`qcompiler.spec.quantize` and `dequantize` take it).
    Raises SpecError for a width outside 1 to 16 bits and a dimension outside 1 to 256.
    """

    bits: int
    dimension: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16 or not 1 <= self.dimension <= 256:
            raise SpecError(
                f"there is no codebook of {self.bits} bits and dimension {self.dimension}",
                mend="choose 1 to 16 bits and vectors of 1 to 256 elements",
            )

    @property
    def name(self) -> str:
        """`codebook4` (16 numbers), `codebook8d4` (256 vectors of 4 numbers), ..."""
        return f"codebook{self.bits}" + (f"d{self.dimension}" if self.dimension > 1 else "")

    def __str__(self) -> str:
        return self.name

    @property
    def storage_bits(self) -> int:
        """Width of one index in bits."""
        return self.bits

    @property
    def entries(self) -> int:
        """How many numbers or vectors the table holds."""
        return 1 << self.bits

    @property
    def signed(self) -> bool:
        """Always false: indices have no sign."""
        return False

    @property
    def is_integer(self) -> bool:
        """Always false: a zero point would shift the index, not the value."""
        return False

    @property
    def lowest(self) -> float:
        """Always 0."""
        return 0.0

    @property
    def highest(self) -> float:
        """The last index."""
        return float(self.entries - 1)

    def grid(self) -> Grid:
        """The indices with their codes and thresholds."""
        from qcompiler.formats.grid import grid_of

        return grid_of(tuple(float(index) for index in range(self.entries)))

    def round(self, x: Tensor) -> Tensor:
        """Nearest index of real-valued indices, half to even, saturating; any shape, dtype of `x`."""
        return x.round().clamp_(0, self.entries - 1)

    def encode(self, values: Tensor) -> Tensor:
        """Indices in a float dtype to int32 codes."""
        return values.round().int()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to float32 indices; shape of `codes`."""
        return codes.float()


def parse_codebook(text: str) -> Codebook | None:
    """Reads the name of a codebook; None when it is not the name of one. Raises SpecError like Codebook."""
    match = _NAME.fullmatch(text)
    return Codebook(int(match[1]), int(match[2] or 1)) if match else None
