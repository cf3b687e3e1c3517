"""Products of floats of eight bits."""

from __future__ import annotations

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.kernels.hopper import choose_wgmma
from qcompiler.backends.cuda.kernels.row import CudaKernel
from qcompiler.backends.cuda.kernels.tiles import GROUP_TILES, PRODUCT, Choice, Tile, choose_tile

_LARGE, _OTHERS = GROUP_TILES[0], GROUP_TILES[1:]
_INSTRUCTION = (89, 120)


def _large(architecture: Architecture) -> bool:
    """On Hopper the compiler makes `mma` of e4m3 out of halves, which takes the registers that a large tile needs."""
    return architecture.capability in _INSTRUCTION


def _fp8(architecture: Architecture) -> bool:
    return architecture.fp8


def choose_f8(rows: int, columns: int, depth: int, architecture: Architecture) -> Choice:
    """How e4m3 codes are multiplied best, on an architecture that has `fp8`; arguments as for `choose_i8`."""
    found = choose_wgmma("f8", rows, columns, depth, architecture)
    if found is not None:
        return found
    tiles: tuple[Tile, ...] = GROUP_TILES if _large(architecture) else _OTHERS
    return choose_tile("gemm_f8", "gemm_f8", tiles, rows, columns, -(-depth // 128), architecture)


ROWS = (
    CudaKernel(
        "gemm_f8",
        "qc_gemm_f8.cuh",
        (_LARGE.instance("gemm_f8", runs=_large), *(tile.instance("gemm_f8", runs=_fp8) for tile in _OTHERS)),
        PRODUCT,
    ),
)
