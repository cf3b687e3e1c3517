"""Moving average: each batch pulls the range towards its own extremes.

Formula   m <- momentum * m + (1 - momentum) * (min x, max x) per batch; the first batch starts m
Shapes    one pair per block of the spec
Promise   inside the min-max range; depends on the order of the batches
Needs     calibration data in several batches; two numbers per block
Source    Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference: A whitepaper"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.passes.calibrate.method import Energy, Ranges, merged_extremes
from qcompiler.reducers import MovingExtremes
from qcompiler.spec import QuantSpec


@dataclass(frozen=True)
class MovingAverage:
    """Averaged extremes.

    Args:
        momentum: how much of the average stays at every batch, from 0 to below 1.
    """

    momentum: float = 0.9
    name: ClassVar[str] = "moving_average"

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise SpecError(f"momentum {self.momentum} is not between 0 and 1", mend="0.9 is usual")

    def reducer(self, block: tuple[int, ...], energy: Energy | None) -> MovingExtremes:
        """Averaged extremes per block."""
        return MovingExtremes(block, self.momentum)

    def ranges(self, answers: Sequence[Tensor], spec: QuantSpec) -> Ranges:
        """Low and high [blocks]."""
        return merged_extremes(answers)
