"""Products of int8 codes."""

from __future__ import annotations

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.kernels.hopper import choose_wgmma
from qcompiler.backends.cuda.kernels.row import CudaKernel
from qcompiler.backends.cuda.kernels.tiles import (
    GROUP_TILES,
    PRODUCT,
    Choice,
    Tile,
    choose_tile,
    gemv_instances,
    gemv_rows,
)

TILES = (
    Tile(128, 256, (2, 4), 128, 4),
    Tile(128, 256, (2, 4), 64, 4),
    Tile(128, 128, (2, 2), 128, 3),
    Tile(128, 128, (2, 2), 64, 4),
    Tile(64, 128, (2, 2), 128, 4),
    Tile(64, 64, (2, 2), 64, 4),
    Tile(16, 128, (1, 4), 128, 4),
    Tile(16, 64, (1, 2), 64, 4),
)


def choose_i8(rows: int, columns: int, depth: int, architecture: Architecture) -> Choice:
    """How int8 inputs and weights are multiplied best.

    Args:
        rows: of the result.
        columns: of the result.
        depth: codes of a row.
        architecture: of the device.
    """
    few = gemv_rows(rows)
    if few is not None:
        return Choice("gemv_i8", f"qc_gemv_i8_{few}")
    found = choose_wgmma("i8", rows, columns, depth, architecture)
    if found is not None:
        return found
    tiles = [tile for tile in TILES if tile.shared() <= architecture.shared_per_block]
    return choose_tile("gemm_i8", "gemm_i8", tiles, rows, columns, -(-depth // 128), architecture)


def choose_conv_i8(rows: int, columns: int, depth: int, architecture: Architecture) -> Choice:
    """How int8 images are convolved best; rows are places of all images, depth the numbers of a window."""
    tiles = [tile for tile in GROUP_TILES if tile.shared() <= architecture.shared_per_block]
    return choose_tile("conv_i8", "conv_i8", tiles, rows, columns, -(-depth // 128), architecture)


ROWS = (
    CudaKernel("conv_i8", "qc_conv_i8.cuh", tuple(tile.instance("conv_i8") for tile in GROUP_TILES), PRODUCT),
    CudaKernel("gemm_i8", "qc_gemm_i8.cuh", tuple(tile.instance("gemm_i8") for tile in TILES), PRODUCT),
    CudaKernel("gemv_i8", "qc_gemv_codes.cuh", gemv_instances("i8", "qc_dot_i8"), PRODUCT),
)
