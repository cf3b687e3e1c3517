"""The micro-kernels of the C generator: one row each, by family."""

from __future__ import annotations

from qcompiler.backends.c.kernels import binary, codebook, dense, floats, low_bit, quantizers, whole
from qcompiler.backends.c.kernels.row import MicroKernel

FAMILIES: tuple[tuple[MicroKernel, ...], ...] = (
    dense.ROWS,
    floats.ROWS,
    binary.ROWS,
    low_bit.ROWS,
    codebook.ROWS,
    quantizers.ROWS,
    whole.ROWS,
)
MICRO_KERNELS: dict[str, MicroKernel] = {row.name: row for family in FAMILIES for row in family}
