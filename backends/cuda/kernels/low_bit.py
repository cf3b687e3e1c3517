"""Products of codes below eight bits."""

from __future__ import annotations

from dataclasses import replace

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.kernels.row import CudaKernel
from qcompiler.backends.cuda.kernels.tiles import (
    GROUP_TILES,
    PRODUCT,
    SCALES,
    Choice,
    Scales,
    Tile,
    choose_tile,
    gemv_instances,
    gemv_rows,
)

WIDE_TILES = (
    Tile(128, 256, (2, 4), 128, 4),
    Tile(128, 128, (2, 2), 128, 3),
    Tile(64, 128, (2, 2), 128, 4),
    Tile(64, 64, (2, 2), 128, 3),
    Tile(16, 128, (1, 4), 128, 3),
)
"""One int32 sum per result."""
LOW_RANK_TILES = (
    Tile(128, 256, (2, 4), 128, 4),
    Tile(128, 128, (2, 4), 128, 3),
    Tile(64, 128, (2, 2), 128, 4),
    Tile(64, 64, (2, 2), 128, 3),
    Tile(16, 128, (1, 4), 128, 3),
)
"""The same with addresses of a low-rank branch."""
BIT_TILES = (Tile(128, 128, (2, 4), 128, 3), Tile(64, 64, (2, 2), 128, 3), Tile(16, 128, (1, 4), 128, 3))
"""Of signs, whose rows are short."""
_WEIGHT_BYTES = {4: 8, 2: 4}
"""Of weights for 16 bytes of int8 inputs."""
_OF_NIBBLES: tuple[Scales, ...] = ("columns", "groups", "blocks")
_OF_BYTES: tuple[Scales, ...] = (*_OF_NIBBLES, "zeros", "moved")
_WORD, _WARP = 4, 32
_GEMV_ROWS = {4: 8, 2: 2, 1: 4}
"""Of a block: four inputs of 16 bytes to one of weights of 2 bits leave no registers for more; a multiprocessor counts
ones in 16 words a cycle, which keeps up with memory for four rows of signs.
"""


def _native_s4(architecture: Architecture) -> bool:
    return architecture.native_s4


def _no_native_s4(architecture: Architecture) -> bool:
    return not architecture.native_s4


def _xor(architecture: Architecture) -> bool:
    return "xor" in architecture.native_b1


def _and(architecture: Architecture) -> bool:
    return not _xor(architecture)


def choose_wna8(
    rows: int,
    columns: int,
    depth: int,
    bits: int,
    group: int,
    architecture: Architecture,
    grouped: Scales = "groups",
) -> Choice:
    """How int8 inputs and weights of 4 or 2 bits are multiplied best.

    Args:
        rows: of the result.
        columns: of the result.
        depth: codes of a row.
        bits: of weights.
        group: codes that share a scale, 0 where a column has one scale.
        architecture: of the device.
        grouped: which scales, and zero points, there are where there are groups.
    """
    few = gemv_rows(rows, _GEMV_ROWS[bits])
    name = f"w{bits}a8{_end(grouped if group else 'columns')}"
    if few is not None and (not group or group * bits >= 128):
        return Choice("gemv_wna8", f"qc_gemv_{name}_{few}")
    width, most = _WEIGHT_BYTES[bits], architecture.shared_per_block
    tiles = [tile for tile in _tiles(bits, grouped if group else "columns") if tile.shared(width) <= most]
    return choose_tile("gemm_wna8", f"gemm_{name}", tiles, rows, columns, -(-depth // 128), architecture)


def choose_w4a4(
    rows: int, columns: int, depth: int, group: int, architecture: Architecture, grouped: Scales = "groups"
) -> Choice:
    """How nibbles are multiplied best; arguments as for `choose_wna8`."""
    few = gemv_rows(rows)
    if few is not None:
        return Choice("gemv_w4a4", f"qc_gemv_w4a4{_end(grouped if group else 'columns')}_{few}")
    tiles = [
        tile for tile in (GROUP_TILES if group else LOW_RANK_TILES) if tile.shared() <= architecture.shared_per_block
    ]
    name = f"gemm_w4a4_{'s4' if _native_s4(architecture) else 's8'}{_end(grouped if group else 'columns')}"
    return choose_tile("gemm_w4a4", name, tiles, rows, columns, -(-depth // 256), architecture)


def choose_b1(rows: int, columns: int, depth: int, architecture: Architecture) -> Choice:
    """How signs are multiplied best."""
    few = gemv_rows(rows) if rows <= _GEMV_ROWS[1] else None
    if few is not None:
        return Choice("gemv_b1", f"qc_gemv_b1_{few}")
    tiles = [tile for tile in BIT_TILES if tile.shared() <= architecture.shared_per_block]
    name = f"gemm_b1_{'xor' if _xor(architecture) else 'and'}"
    return choose_tile("gemm_b1", name, tiles, rows, columns, -(-depth // 1024), architecture)


def _tiles(bits: int, scales: Scales) -> tuple[Tile, ...]:
    """Unpacking two bits, or numbers of rows, take registers that the largest tile with a float sum besides has not."""
    if scales == "columns":
        return WIDE_TILES if bits > 2 else (WIDE_TILES[1], *WIDE_TILES[3:])
    if bits > 2:
        return GROUP_TILES if scales == "groups" else GROUP_TILES[1:]
    return GROUP_TILES[2:]


def _end(scales: Scales) -> str:
    """Of names of instances."""
    return "" if scales == "columns" else f"_{scales}"


ROWS = (
    CudaKernel(
        "gemm_wna8",
        "qc_gemm_wna8.cuh",
        (
            *(
                tile.instance(f"gemm_w{bits}a8", width, str(bits), body="qc_gemm_wna8")
                for bits, width in _WEIGHT_BYTES.items()
                for tile in _tiles(bits, "columns")
            ),
            *(
                tile.instance(f"gemm_w{bits}a8_{name}", width, f"{bits}, {SCALES[name]}", body="qc_gemm_wna8_groups")
                for bits, width in _WEIGHT_BYTES.items()
                for name in _OF_BYTES[1:]
                for tile in _tiles(bits, name)
            ),
        ),
        PRODUCT,
    ),
    CudaKernel(
        "gemm_w4a4",
        "qc_gemm_w4a4.cuh",
        tuple(
            tile.instance(
                f"gemm_w4a4_{name}{_end(scales)}", 16, f"{product}, {SCALES[scales]}", runs, "qc_gemm_w4a4", bits
            )
            for name, product, runs, bits in (("s4", "qc_s4", _native_s4, 4), ("s8", "qc_s4_as_s8", _no_native_s4, 8))
            for scales in _OF_NIBBLES
            for tile in (LOW_RANK_TILES if scales == "columns" else GROUP_TILES)
        ),
        PRODUCT,
    ),
    CudaKernel(
        "gemm_b1",
        "qc_gemm_b1.cuh",
        tuple(
            tile.instance(f"gemm_b1_{name}", runs=runs, bits=1)
            for name, runs in (("xor", _xor), ("and", _and))
            for tile in BIT_TILES
        ),
        PRODUCT,
    ),
    CudaKernel(
        "gemv_wna8",
        "qc_gemv_codes.cuh",
        tuple(
            instance
            for bits in _WEIGHT_BYTES
            for scales in _OF_BYTES
            for instance in gemv_instances(f"w{bits}a8{_end(scales)}", f"qc_dot_wna8<{bits}>", scales, _GEMV_ROWS[bits])
        ),
        PRODUCT,
    ),
    CudaKernel(
        "gemv_w4a4",
        "qc_gemv_codes.cuh",
        tuple(
            instance
            for scales in _OF_NIBBLES
            for instance in gemv_instances(f"w4a4{_end(scales)}", "qc_dot_w4a4", scales)
        ),
        PRODUCT,
    ),
    CudaKernel(
        "gemv_b1",
        "qc_gemv_codes.cuh",
        tuple(
            replace(one, shared=_WORD * one.threads // _WARP * one.grid[1].tile)
            for one in gemv_instances("b1", "qc_dot_b1", most=_GEMV_ROWS[1])
        ),
        PRODUCT,
    ),
)
