"""Branches beside codes: what quantization has left of a weight or of an activation, in a form of its own."""

from __future__ import annotations

from qcompiler.passes.solve.branches.arcquant import ArcQuant
from qcompiler.passes.solve.branches.lorc import Lorc
from qcompiler.passes.solve.branches.mpq_dmv2 import MpqDmV2
from qcompiler.pipeline import Pass

BRANCHES: tuple[type[Pass], ...] = (ArcQuant, Lorc, MpqDmV2)

__all__ = ["BRANCHES", "ArcQuant", "Lorc", "MpqDmV2"]
