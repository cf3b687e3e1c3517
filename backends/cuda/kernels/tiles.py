"""Tiles of products on matrix units: what a block computes, and which one suits a problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.kernels.row import Axis, Instance

PRODUCT = "product"
"""Family of all kernels that take `qc_product_args`."""
MULTIPROCESSORS = {75: 40, 80: 108, 86: 84, 87: 16, 89: 128, 90: 132, 100: 148, 110: 20, 120: 170}
"""Of the largest device of a generation that is common: tiles are chosen to fill it."""
GEMV_ROWS = (1, 2, 4, 8)
"""Of the kernels for few rows."""
GEMV_COLUMNS = 4
Scales = Literal["columns", "groups", "blocks", "zeros", "moved"]
"""What has a scale of its own: columns of weights, groups of them, those and blocks of inputs, groups with zero points
on either side, or groups under inputs that share one zero point."""
SCALES: dict[Scales, str] = {
    "columns": "QC_OF_COLUMNS",
    "groups": "QC_OF_GROUPS",
    "blocks": "QC_OF_BLOCKS",
    "zeros": "QC_OF_ZEROS",
    "moved": "QC_OF_MOVED",
}
"""In CUDA C++."""
_GEMV_WARPS = 4
_MOST_SPLITS = 16
_PRODUCTS_PER_BYTE = 64
"""int8 products that a multiprocessor of Ampere or Hopper does while a byte comes from the second cache."""
_LATENCY = 16384
"""Of memory, in products over 128 codes: about 850 cycles."""


@dataclass(frozen=True)
class Tile:
    """What a block computes and how.

    Args:
        rows: of the result.
        columns: likewise.
        warps: by which the tile is divided, along rows and columns.
        slice: bytes of a row of inputs that are fetched at once.
        stages: slices in shared memory.
    """

    rows: int
    columns: int
    warps: tuple[int, int]
    slice: int
    stages: int

    @property
    def name(self) -> str:
        """Part of names of instances."""
        return f"{self.rows}x{self.columns}x{self.slice}"

    @property
    def type(self) -> str:
        """In CUDA C++."""
        return f"qc_tile<{self.rows}, {self.columns}, {self.warps[0]}, {self.warps[1]}, {self.slice}, {self.stages}>"

    def shared(self, weight_bytes: int = 16) -> int:
        """Bytes of shared memory; `weight_bytes` of weights belong to 16 of inputs."""
        return self.stages * self.slice * (16 * self.rows + weight_bytes * self.columns) // 16

    def blocks(self, rows: int, columns: int) -> int:
        """How many cover a result."""
        return -(-rows // self.rows) * -(-columns // self.columns)

    def instance(
        self,
        kernel: str,
        weight_bytes: int = 16,
        options: str = "",
        runs: Callable[[Architecture], bool] = lambda architecture: True,
        body: str = "",
        bits: int = 8,
    ) -> Instance:
        """The instance `qc_<kernel>_<tile>` of the device function `body<tile, options>`, qc_<kernel> unless said."""
        return Instance(
            name=f"qc_{kernel}_{self.name}",
            body=f"{body or 'qc_' + kernel}<{self.type}{', ' * bool(options)}{options}>",
            threads=32 * self.warps[0] * self.warps[1],
            # Only the first axis of a grid takes more than 65535 blocks, and images have many rows.
            grid=(Axis(("rows",), self.rows), Axis(("columns",), self.columns), Axis(("splits",))),
            shared=self.shared(weight_bytes),
            runs=runs,
            bits=bits,
        )


GROUP_TILES = (
    Tile(128, 128, (2, 4), 128, 3),
    Tile(64, 128, (2, 4), 128, 3),
    Tile(64, 64, (2, 2), 128, 3),
    Tile(16, 128, (1, 4), 128, 3),
)
"""With registers to spare, for a second sum or for places of windows."""


@dataclass(frozen=True)
class Choice:
    """What to launch.

    Args:
        kernel: by name.
        instance: by name.
        splits: blocks that share a tile; the argument of that name.
        workspace: bytes, 0 where splits is 1.
        counters: numbers of 32 bits that are zero before the first launch, 0 where splits is 1.
    """

    kernel: str
    instance: str
    splits: int = 1
    workspace: int = 0
    counters: int = 0


def gemv_rows(rows: int, most: int = GEMV_ROWS[-1]) -> int | None:
    """Rows that a block of the kernel for few rows takes, at most `most`; None where rows are not few."""
    if rows > GEMV_ROWS[-1]:
        return None
    return min(most, next(few for few in GEMV_ROWS if rows <= few))


def gemv_instances(name: str, dot: str, scales: Scales = "columns", most: int = GEMV_ROWS[-1]) -> tuple[Instance, ...]:
    """Instances `qc_gemv_<name>_<rows>` of the kernel for few rows, which differ in the rows of a block."""
    return tuple(
        Instance(
            name=f"qc_gemv_{name}_{rows}",
            body=f"qc_gemv_codes<{dot}, {SCALES[scales]}, {rows}, {GEMV_COLUMNS}>",
            threads=32 * _GEMV_WARPS,
            grid=(Axis(("columns",), GEMV_COLUMNS * _GEMV_WARPS), Axis(("rows",), rows), Axis()),
            bits=8,
        )
        for rows in GEMV_ROWS
        if rows <= most
    )


def choose_tile(
    kernel: str,
    name: str,
    tiles: Sequence[Tile],
    rows: int,
    columns: int,
    slices: int,
    architecture: Architecture,
    most_splits: int = _MOST_SPLITS,
) -> Choice:
    """The tile with which a device is done first, by counting: waves of blocks times the work of a block.

    Args:
        kernel: by name.
        name: of its instances, before the tile's.
        tiles: those that the architecture has.
        rows: of the result.
        columns: of the result.
        slices: of 128 bytes of a row of inputs.
        architecture: of the device.
        most_splits: how many blocks may share a tile.
    """
    units = MULTIPROCESSORS[architecture.capability]

    def seconds(tile: Tile, splits: int) -> float:
        # In products of a multiprocessor over 128 codes: those of a slice, or the copies of what it takes, or the wait
        # for one of the copies that are under way, whatever is most; a filling of the pipeline and an epilogue besides.
        copied = _PRODUCTS_PER_BYTE * (tile.rows + tile.columns)
        waited = _LATENCY * 128 // tile.slice // (tile.stages - 1)
        slice_ = max(tile.rows * tile.columns, copied, waited)
        blocks = tile.blocks(rows, columns) * splits
        finish = 2 * tile.rows * tile.columns * (2 if splits > 1 else 1)
        return -(-blocks // units) * (-(-slices // splits) * slice_ + _LATENCY + finish)

    ways = [(tile, splits) for tile in tiles for splits in range(1, max(1, min(most_splits, slices // 4)) + 1)]
    tile, splits = min(ways, key=lambda way: (seconds(*way), way[1]))
    instance = f"qc_{name}_{tile.name}"
    if splits == 1:
        return Choice(kernel, instance)
    blocks = tile.blocks(rows, columns)
    return Choice(kernel, instance, splits, 4 * blocks * splits * tile.rows * tile.columns, blocks)
