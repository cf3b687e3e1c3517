"""All CUDA kernels, by family."""

from __future__ import annotations

from qcompiler.backends.cuda.kernels import (
    float8,
    hopper,
    hopper_weight_only,
    images,
    integers,
    low_bit,
    quantizers,
    weight_only,
)
from qcompiler.backends.cuda.kernels.row import CudaKernel

FAMILIES = (integers, images, low_bit, float8, hopper, quantizers, weight_only, hopper_weight_only)
KERNELS: dict[str, CudaKernel] = {row.name: row for family in FAMILIES for row in family.ROWS}
"""By name."""
