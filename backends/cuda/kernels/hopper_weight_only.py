"""Products of half-precision activations with packed weights by Hopper's instructions for four warps together."""

from __future__ import annotations

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.kernels.hopper import LEAST_ROWS, hopper
from qcompiler.backends.cuda.kernels.row import Axis, CudaKernel, Instance
from qcompiler.backends.cuda.kernels.tiles import Choice
from qcompiler.backends.cuda.kernels.weight_only import CODES, KINDS, Code, Kind, Tile, cycles, most_splits

WIDE_CODES = ("w4", "w8")
"""Of the weights."""
TILES = (Tile(128, 2, (8, 1), 4), Tile(128, 1, (8, 1), 4), Tile(64, 2, (8, 1), 4))
_ROW = 128
"""Bytes of activations of a slice."""


def choose_wgmma_wn(
    name: str, kind: Kind, rows: int, columns: int, depth: int, architecture: Architecture
) -> Choice | None:
    """The instance, and the splits, with which a device is done first; None where other kernels do it.

    Args:
        name: of the code.
        kind: of activations.
        rows: of the result.
        columns: of the result.
        depth: inputs.
        architecture: of the device; its `wgmma` says whether these may be taken.
    """
    if not architecture.wgmma or rows < LEAST_ROWS or name not in WIDE_CODES:
        return None
    code = CODES[name]
    ways = [(tile, splits) for tile in TILES for splits in range(1, most_splits(tile, depth) + 1)]
    tile, splits = min(ways, key=lambda way: (cycles(code, *way, rows, columns, depth, architecture), way[1]))
    instance = _name(name, kind, tile)
    if splits == 1:
        return Choice(f"wgmma_{name}", instance)
    along_n, along_m = -(-columns // tile.columns), -(-rows // tile.rows)
    return Choice(f"wgmma_{name}", instance, splits, 4 * splits * rows * along_n * tile.columns, along_n * along_m)


def _name(name: str, kind: Kind, tile: Tile) -> str:
    return f"qc_wgmma_{name}_{kind}_{tile.rows}x{tile.columns}"


def _shared(code: Code, tile: Tile) -> int:
    """Operands of two slices, and the slices that are on their way."""
    weights = tile.columns // 16 * (code.words * _ROW + 2 * _ROW)
    return 2 * tile.rows * _ROW + tile.stages * (tile.rows * _ROW + weights)


def _instance(name: str, code: Code, kind: Kind, tile: Tile) -> Instance:
    decoder = code.type.format(kind=KINDS[kind])
    sizes = f"{tile.rows}, {tile.tiles}, {tile.warps[0]}, {tile.stages}"
    return Instance(
        name=_name(name, kind, tile),
        body=f"qc_wgmma_wn<{KINDS[kind]}, {decoder}, {sizes}>",
        threads=32 * tile.warps[0],
        grid=(Axis(("columns",), tile.columns), Axis(("rows",), tile.rows), Axis(("splits",))),
        shared=_shared(code, tile),
        runs=hopper,
        bits=16,
    )


ROWS = tuple(
    CudaKernel(
        f"wgmma_{name}",
        "qc_wgmma_wn.cuh",
        tuple(_instance(name, CODES[name], kind, tile) for kind in KINDS for tile in TILES),
        takes="wn",
    )
    for name in WIDE_CODES
)
