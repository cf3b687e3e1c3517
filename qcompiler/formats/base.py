"""What every number format answers: which values it holds, how a real becomes one, and how one is stored."""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from qcompiler.formats.grid import Grid


class Format(Protocol):
    """The numbers themselves, without any scale.

    A *grid value* is a real number that the format holds (for integers: the integer itself, zero point
    included). A *code* is the unsigned bit pattern that stores it.
    """

    @property
    def name(self) -> str:
        """Text of the format; `parse_format` reads it back."""
        ...

    @property
    def storage_bits(self) -> int:
        """Width of one code in bits."""
        ...

    @property
    def signed(self) -> bool:
        """Whether negative values exist."""
        ...

    @property
    def is_integer(self) -> bool:
        """Whether the values are a run of consecutive integers, so that a zero point can shift them."""
        ...

    @property
    def lowest(self) -> float:
        """The smallest finite value."""
        ...

    @property
    def highest(self) -> float:
        """The largest finite value."""
        ...

    def grid(self) -> Grid:
        """All values in order with their codes and decision thresholds."""
        ...

    def round(self, x: Tensor) -> Tensor:
        """Nearest grid value, ties to the even code, saturating; any shape, dtype of `x`; NaN stays."""
        ...

    def encode(self, values: Tensor) -> Tensor:
        """Grid values of any shape to unsigned storage codes, int32."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Unsigned storage codes of any shape to grid values, float32; a code without a number gives NaN."""
        ...


def single(value: float) -> float:
    """The float32 number nearest to a finite value: decoding gives float32, and a grid value must survive it."""
    return struct.unpack("f", struct.pack("f", value))[0]


class GridFormat(ABC):
    """A format that is defined by the value of each of its codes; the Grid does its arithmetic."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Text of the format."""

    @property
    @abstractmethod
    def storage_bits(self) -> int:
        """Width of one code in bits."""

    @abstractmethod
    def code_values(self) -> tuple[float, ...]:
        """The value of code 0, 1, 2, ...: NaN or infinity where a code holds no finite number."""

    def __str__(self) -> str:
        return self.name

    @property
    def lowest(self) -> float:
        """The smallest finite value."""
        return self._limits[0]

    @property
    def highest(self) -> float:
        """The largest finite value."""
        return self._limits[1]

    # Found once: a solver asks at every column. Neither equality nor the hash of a format looks at it.
    @cached_property
    def _limits(self) -> tuple[float, float]:
        finite = [value for value in self.code_values() if math.isfinite(value)]
        return min(finite), max(finite)

    @property
    def signed(self) -> bool:
        """Whether negative values exist."""
        return self.lowest < 0

    @property
    def is_integer(self) -> bool:
        """Whether the values are a run of consecutive integers."""
        values = sorted({value for value in self.code_values() if math.isfinite(value)})
        return values == [values[0] + step for step in range(len(values))] and values[0].is_integer()

    def grid(self) -> Grid:
        """All values in order with their codes and decision thresholds."""
        return self._grid

    @cached_property
    def _grid(self) -> Grid:
        # Loaded here because the grid needs torch, which naming and parsing formats must not wait for.
        from qcompiler.formats.grid import grid_of

        return grid_of(self.code_values())

    def round(self, x: Tensor) -> Tensor:
        """Nearest grid value, ties to the even code, saturating; any shape, dtype of `x`."""
        return self.grid().round(x)

    def encode(self, values: Tensor) -> Tensor:
        """Grid values of any shape to int32 codes."""
        return self.grid().encode(values)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes of any shape to float32 grid values."""
        return self.grid().decode(codes)
