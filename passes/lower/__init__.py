"""Lowering between stages: from assigned specs to explicit quantize and dequantize nodes."""

from qcompiler.passes.lower.apply_plan import ApplyPlan

PASSES = (ApplyPlan,)
