"""Complex weights that are 1, i, -1 or -i.

Source: Wang et al. 2025, "iFairy: the First 2-bit Complex LLM with All Parameters in {+-1, +-i}".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from qcompiler.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ComplexUnits:
    """The four complex units; code k stands for i^k.

    Formula: the phase decides: [-45, 45) degrees is 1, [45, 135) is i, [135, 225) is -1, the rest -i; zero is 1.
    A quarter turn of the number is a quarter turn of its unit.
    """

    @property
    def name(self) -> str:
        """`complex2`."""
        return "complex2"

    def __str__(self) -> str:
        return self.name

    @property
    def storage_bits(self) -> int:
        """Two bits per complex number, one per real parameter."""
        return 2

    @property
    def signed(self) -> bool:
        """Always true."""
        return True

    @property
    def is_integer(self) -> bool:
        """Always false."""
        return False

    @property
    def lowest(self) -> float:
        """The smallest value of either part."""
        return -1.0

    @property
    def highest(self) -> float:
        """The largest value of either part."""
        return 1.0

    def grid(self) -> NoReturn:
        """Raises UnsupportedError: complex numbers have no order."""
        raise UnsupportedError(f"{self.name} has no sorted list of values", mend="use its round, encode and decode")

    def round(self, x: Tensor) -> Tensor:
        """The unit of each complex number; any shape, dtype of `x`; NaN stays NaN. Takes complex tensors only."""
        return x.where(x.isnan(), self.decode(self.encode(x)).to(x.dtype))

    def encode(self, values: Tensor) -> Tensor:
        """The code of each complex number of any shape, int32."""
        # A turn by 45 degrees makes the four sectors the quadrants of (rising, falling).
        rising, falling = values.real + values.imag, values.real - values.imag
        one = (rising >= 0) & (falling > 0) | (rising == 0) & (falling == 0)
        imaginary = (rising > 0) & (falling <= 0)
        minus_one = (rising <= 0) & (falling < 0)
        return (3 - 3 * one.int() - 2 * imaginary.int() - minus_one.int()).int()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes of any shape to complex64 units."""
        import torch

        units = torch.tensor([1, 1j, -1, -1j], dtype=torch.complex64, device=codes.device)
        return units[codes.long()]


COMPLEX_UNITS = ComplexUnits()
