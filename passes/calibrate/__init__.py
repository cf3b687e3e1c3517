"""Ranges: what part of the real line a static grid covers, and the biases that make up for the rest.

A method answers one question: low and high of a value, from statistics and the spec. `Calibrate` drives
them.
"""

from qcompiler.passes.calibrate.bias_correction import BiasCorrection
from qcompiler.passes.calibrate.calibrate import Calibrate
from qcompiler.passes.calibrate.entropy import Entropy
from qcompiler.passes.calibrate.minmax import MinMax
from qcompiler.passes.calibrate.moving_average import MovingAverage
from qcompiler.passes.calibrate.mse import Mse
from qcompiler.passes.calibrate.percentile import Percentile

METHODS = (MinMax, MovingAverage, Percentile, Mse, Entropy)
PASSES = (Calibrate, BiasCorrection)

__all__ = [
    "METHODS",
    "PASSES",
    "BiasCorrection",
    "Calibrate",
    "Entropy",
    "MinMax",
    "MovingAverage",
    "Mse",
    "Percentile",
]
