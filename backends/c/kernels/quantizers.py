"""Kernels that bring float activations to codes at run time."""

from __future__ import annotations

from qcompiler.backends.c.kernels.floats import portable

ROWS = (portable("quantize_rows"), portable("quantize_blocks"))
