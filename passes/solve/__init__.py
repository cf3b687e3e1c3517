"""Weight solvers: from a float weight to codes and scales.

A solver answers one question: codes, scales and zero point of a weight, from its spec and what is known of
the loss around it. The driver finds the weights and puts the codes in their place.
"""

from qcompiler.passes.solve.nearest import Nearest
from qcompiler.passes.solve.weight_ranges import WeightRanges

METHODS = (Nearest,)
PASSES = (WeightRanges, Nearest)

__all__ = ["METHODS", "PASSES", "Nearest", "WeightRanges"]
