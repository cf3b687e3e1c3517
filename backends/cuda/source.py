"""The translation unit of a set of kernels."""

from __future__ import annotations

from collections.abc import Sequence

from qcompiler.backends.cuda.kernels.row import CudaKernel, Instance

Chosen = tuple[CudaKernel, Instance]


def source_of(chosen: Sequence[Chosen]) -> str:
    """CUDA C++ with one entry per instance, in the order given."""
    headers = dict.fromkeys(kernel.header for kernel, _ in chosen)
    lines = [f'#include "{header}"' for header in headers]
    for kernel, instance in chosen:
        lines.append(
            f"QC_KERNEL({instance.name}, {kernel.arguments}, {instance.threads}, {instance.blocks}, {instance.body})"
        )
    return "\n".join([*lines, ""])
