"""Matrix products with weights that are codes of vectors in learned tables."""

from __future__ import annotations

from qcompiler.backends.c.kernels.floats import portable

ROWS = (portable("gemm_codebook"),)
