"""All CUDA kernels, by family."""

from __future__ import annotations

from qcompiler.backends.cuda.kernels import integers
from qcompiler.backends.cuda.kernels.row import CudaKernel

FAMILIES = (integers,)
KERNELS: dict[str, CudaKernel] = {row.name: row for family in FAMILIES for row in family.ROWS}
"""By name."""
