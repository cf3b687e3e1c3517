"""Allocation: which operator gets which numbers. The driver asks the target; a method decides under a budget."""

from qcompiler.passes.allocate.mixed import MixedPrecision
from qcompiler.passes.allocate.uniform import Assign
from qcompiler.passes.allocate.use_plan import UsePlan

PASSES = (Assign, MixedPrecision, UsePlan)
