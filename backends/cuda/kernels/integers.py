"""Products of integers on tensor cores."""

from __future__ import annotations

from qcompiler.backends.cuda.kernels.row import Axis, CudaKernel, Instance

_KINDS = {"f32": "qc_float", "f16": "qc_half"}


def _gemm_i8(kind: str, rows: int, columns: int, warps: tuple[int, int], blocks: int) -> Instance:
    stages = 4
    return Instance(
        name=f"qc_gemm_i8_{kind}_{rows}x{columns}",
        body=f"qc_gemm_i8<{_KINDS[kind]}, {rows}, {columns}, {warps[0]}, {warps[1]}, {stages}>",
        threads=32 * warps[0] * warps[1],
        grid=(Axis(("columns",), columns), Axis(("rows",), rows), Axis()),
        shared=stages * (rows + columns) * 64,
        blocks=blocks,
    )


ROWS = (
    CudaKernel(
        "gemm_i8",
        "qc_gemm_i8.cuh",
        tuple(
            instance
            for kind in _KINDS
            for instance in (_gemm_i8(kind, 128, 128, (2, 4), 1), _gemm_i8(kind, 64, 64, (2, 2), 2))
        ),
    ),
)
