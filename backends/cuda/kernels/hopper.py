"""Products by the instructions that Hopper has for four warps together."""

from __future__ import annotations

from typing import Literal

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.kernels.row import CudaKernel
from qcompiler.backends.cuda.kernels.tiles import PRODUCT, Choice, Tile, choose_tile

Codes = Literal["i8", "f8"]
TILES: dict[Codes, tuple[Tile, ...]] = {
    "i8": (
        Tile(128, 256, (8, 1), 128, 4),
        Tile(128, 128, (8, 1), 128, 6),
        Tile(64, 256, (4, 1), 128, 5),
        Tile(64, 128, (4, 1), 128, 4),
    ),
    "f8": (Tile(128, 128, (8, 1), 128, 6), Tile(64, 128, (4, 1), 128, 4)),
}
"""A warpgroup has 64 rows. Sums of e4m3 take registers three times: two slices under way, and their sum."""
LEAST_ROWS = 64
"""Below, other kernels leave less of a tile empty."""


def hopper(architecture: Architecture) -> bool:
    """Whether an architecture has the instructions."""
    return architecture.capability == 90


def choose_wgmma(codes: Codes, rows: int, columns: int, depth: int, architecture: Architecture) -> Choice | None:
    """How codes of a byte are multiplied by these kernels; None where others do it.

    Args:
        codes: of inputs and weights.
        rows: of the result.
        columns: of the result.
        depth: codes of a row.
        architecture: of the device; its `wgmma` says whether they may be taken.
    """
    if not architecture.wgmma or rows < LEAST_ROWS:
        return None
    name = f"wgmma_{codes}"
    return choose_tile(name, name, TILES[codes], rows, columns, -(-depth // 128), architecture)


ROWS = tuple(
    CudaKernel(
        f"wgmma_{codes}",
        "qc_wgmma.cuh",
        tuple(tile.instance(f"wgmma_{codes}", runs=hopper) for tile in tiles),
        PRODUCT,
    )
    for codes, tiles in TILES.items()
)
