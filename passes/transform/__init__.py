"""Equivalent transforms: the function stays, what must be quantized becomes easier to quantize.

The driver of each sub-family finds the sites in the symmetries of the graph, gathers statistics, calls the method's one
function and folds what it returned; the surgery is one for all (`surgery`, `cut`, `gains`).
"""

from qcompiler.passes.transform.branches import METHODS as BRANCHES
from qcompiler.passes.transform.learned import METHODS as LEARNED
from qcompiler.passes.transform.rotation import METHODS as ROTATION
from qcompiler.passes.transform.smoothing import METHODS as SMOOTHING

PASSES = (*SMOOTHING, *ROTATION, *LEARNED, *BRANCHES)

__all__ = ["PASSES"]
