"""Min-max: the range covers everything that was seen.

Formula   low = min x, high = max x
Shapes    one pair per block of the spec
Promise   no value of the calibration data saturates
Needs     calibration data; two numbers per block
Source    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
          Only Inference"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qcompiler.passes.calibrate.method import Energy, Ranges, merged_extremes
from qcompiler.reducers import Extremes
from qcompiler.spec import QuantSpec


@dataclass(frozen=True)
class MinMax:
    """Smallest and largest value."""

    name: ClassVar[str] = "minmax"

    def reducer(self, block: tuple[int, ...], energy: Energy | None) -> Extremes:
        """Extremes per block."""
        return Extremes(block)

    def ranges(self, answers: Sequence[Tensor], spec: QuantSpec) -> Ranges:
        """Low and high [blocks]."""
        return merged_extremes(answers)
