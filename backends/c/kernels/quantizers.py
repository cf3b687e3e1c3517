"""Kernels that bring float activations to codes at run time, and pools of codes."""

from __future__ import annotations

from qcompiler.backends.c.kernels.floats import portable

ROWS = (portable("quantize_rows"), portable("quantize_blocks"), portable("pool_i8"))
