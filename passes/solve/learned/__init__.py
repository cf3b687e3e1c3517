"""Learned rounding: one core (`passes.solve.reconstruct`), a method per file."""

from qcompiler.passes.solve.learned.adaquant import AdaQuant
from qcompiler.passes.solve.learned.adaround import AdaRound
from qcompiler.passes.solve.learned.bias_tuning import BiasTuning
from qcompiler.passes.solve.learned.brecq import Brecq
from qcompiler.passes.solve.learned.cbq import Cbq
from qcompiler.passes.solve.learned.fp_rounding import FpRounding
from qcompiler.passes.solve.learned.gradient_rounding import GradientRounding
from qcompiler.passes.solve.learned.norm_reestimation import NormReestimation
from qcompiler.passes.solve.learned.nupes import Nupes

LEARNED = (AdaRound, Brecq, AdaQuant, Cbq, FpRounding, GradientRounding, Nupes)
REPAIRS = (BiasTuning, NormReestimation)

__all__ = [
    "LEARNED",
    "REPAIRS",
    "AdaQuant",
    "AdaRound",
    "BiasTuning",
    "Brecq",
    "Cbq",
    "FpRounding",
    "GradientRounding",
    "NormReestimation",
    "Nupes",
]
