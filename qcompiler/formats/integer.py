"""Two's complement and unsigned integers of 1 to 8, 16 and 32 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.errors import SpecError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

    from qcompiler.formats.grid import Grid

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)


@dataclass(frozen=True)
class Integer:
    """Consecutive integers; `narrow` leaves out the lowest signed one, so that the range is symmetric.

    Formula: signed -2^(b-1) .. 2^(b-1)-1 (narrow from -2^(b-1)+1), unsigned 0 .. 2^b-1.
    Raises SpecError for a width that nothing stores, for 32 unsigned bits, and for a narrow format without
    room.
    """

    bits: int
    signed: bool
    narrow: bool = False

    def __post_init__(self) -> None:
        if self.bits not in WIDTHS or (self.bits == 32 and not self.signed):
            raise SpecError(
                f"there is no {'signed' if self.signed else 'unsigned'} integer format of {self.bits} bits",
                mend="choose 1 to 8 or 16 bits, or 32 signed bits",
            )
        if self.narrow and (not self.signed or self.bits < 2):
            raise SpecError(f"{self.name} has no narrow form", mend="narrow needs a signed format of at least 2 bits")

    @property
    def name(self) -> str:
        """`int8`, `uint4`, `int8n` (narrow), ..."""
        return f"{'' if self.signed else 'u'}int{self.bits}{'n' if self.narrow else ''}"

    def __str__(self) -> str:
        return self.name

    @property
    def storage_bits(self) -> int:
        """Width of one code in bits."""
        return self.bits

    @property
    def is_integer(self) -> bool:
        """Always true."""
        return True

    @property
    def lowest(self) -> float:
        """The smallest value."""
        return float(-(1 << (self.bits - 1)) + self.narrow) if self.signed else 0.0

    @property
    def highest(self) -> float:
        """The largest value."""
        return float((1 << (self.bits - self.signed)) - 1)

    def grid(self) -> Grid:
        """All values with codes and thresholds; raises UnsupportedError for 32 bits."""
        if self.bits > 16:
            raise UnsupportedError(
                f"{self.name} has too many values to list", mend="use its round, which needs no list"
            )
        from qcompiler.formats.grid import grid_of

        values = [float(code) for code in range(1 << self.bits)]
        if self.signed:
            half = 1 << (self.bits - 1)
            values = values[:half] + [value - 2 * half for value in values[half:]]
        return grid_of(tuple(value if value >= self.lowest else math.nan for value in values))

    def round(self, x: Tensor) -> Tensor:
        """Nearest integer, half to even, saturating; any shape, dtype of `x`.

        Where the dtype cannot hold the last integers of a wide format, the nearest one inside the range is
        the limit.
        """
        from qcompiler.formats.rounding import saturate

        return saturate(x.round(), self)

    def encode(self, values: Tensor) -> Tensor:
        """Integers in any float dtype to two's complement codes, int32 (of 32 bits: the signed pattern)."""
        codes = values.round().int()
        return codes if self.bits == 32 else codes.bitwise_and_((1 << self.bits) - 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to float32 integers; shape of `codes`."""
        if self.bits == 32:
            return codes.int().float()
        values = codes.int() & ((1 << self.bits) - 1)
        if self.signed:
            sign = 1 << (self.bits - 1)
            values = values.bitwise_xor_(sign).sub_(sign)
        return values.float()
