"""Learned transforms: optimised against the quantized output, then folded like all others."""

from __future__ import annotations

from qcompiler.passes.transform.learned.affinequant import AffineQuant
from qcompiler.passes.transform.learned.flatquant import FlatQuant
from qcompiler.passes.transform.learned.passionsr import PassionSR
from qcompiler.passes.transform.learned.spinquant import SpinQuant
from qcompiler.pipeline import Pass

METHODS: tuple[type[Pass], ...] = (SpinQuant, FlatQuant, AffineQuant, PassionSR)
