"""Products of half-precision activations with packed weights of few bits: see `runtime/qc_gemm_wn.cuh`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.kernels.row import Axis, CudaKernel, Instance
from qcompiler.backends.cuda.kernels.tiles import MULTIPROCESSORS, Choice

Kind = Literal["f16", "bf16"]
KINDS: dict[Kind, str] = {"f16": "qc_wn_half", "bf16": "qc_wn_bfloat"}


@dataclass(frozen=True)
class Code:
    """How weights are coded.

    Args:
        type: class of `runtime` that decodes it, with `{kind}` for the kind of floats.
        words: of 32 bits, of each lane in a block of 16 columns and 64 inputs.
        zeros: whether there may be zero points.
        table: bytes of shared memory.
        coarse: kinds in which sums of codes are within float32, so that scales may come behind them.
        warps: that share the inputs of a tile of one row: what registers and shared memory suffice for.
        powers: by kind, which power of two makes up for how codes are decoded: scales are multiplied by it.
        heavy: whether decoding takes the registers of a third block.
    """

    type: str
    words: int
    zeros: bool = False
    table: int = 0
    coarse: tuple[Kind, ...] = ("f16", "bf16")
    warps: int = 16
    powers: tuple[tuple[Kind, int], ...] = ()
    heavy: bool = False

    def power(self, kind: Kind) -> int:
        """The power of two by which scales are multiplied."""
        return dict(self.powers).get(kind, 0)


_COPIES = 32768
"""Bytes of all copies of a table, or of tables whose entries are summed."""
CODES: dict[str, Code] = {
    "w2": Code("qc_wn_int<{kind}, 2>", 2, zeros=True),
    "w3": Code("qc_wn_int<{kind}, 3>", 3, zeros=True, warps=8),
    "w4": Code("qc_wn_int<{kind}, 4>", 4, zeros=True),
    "w8": Code("qc_wn_int<{kind}, 8>", 8, zeros=True, warps=8),
    "e2m1": Code("qc_wn_e2m1<{kind}>", 4, coarse=(), powers=(("f16", 14), ("bf16", 126))),
    "e4m3": Code("qc_wn_e4m3<{kind}>", 8, coarse=("f16",), warps=8, powers=(("f16", 8), ("bf16", 120))),
    "table16": Code("qc_wn_table<{kind}>", 4, warps=8),
    "table8": Code("qc_wn_small_table<{kind}, 3>", 3, warps=8),
    "table4": Code("qc_wn_small_table<{kind}, 2>", 2, warps=8),
    "codebook8d8": Code("qc_wn_codebook<{kind}, 8, 8>", 1, table=_COPIES, warps=8),
    "codebook16d8": Code("qc_wn_codebook<{kind}, 16, 8>", 2, warps=8),
    "codebook8d4": Code("qc_wn_codebook<{kind}, 8, 4>", 2, table=_COPIES, warps=8),
    "codebook8d8x2": Code("qc_wn_codebook<{kind}, 8, 8, 2>", 2, table=_COPIES, warps=8),
    "codebook8d8x4": Code("qc_wn_codebook<{kind}, 8, 8, 4>", 4, table=_COPIES, warps=4),
    "codebook16d8x2": Code("qc_wn_codebook<{kind}, 16, 8, 2>", 4, warps=8, heavy=True),
    "codebook8d4x2": Code("qc_wn_codebook<{kind}, 8, 4, 2>", 4, table=_COPIES, warps=4),
}
"""By the end of the kernel's name."""


_WIDE = 8
"""Words from which on a slice is so large that fewer are under way."""


@dataclass(frozen=True)
class Tile:
    """What a block computes.

    Args:
        rows: of activations.
        tiles: of sixteen columns, of each warp.
        warps: along columns, along inputs.
        stages: slices of inputs that are in shared memory or under way.
        post: scales behind the sums of 64 inputs: groups are 64 or longer.
    """

    rows: int
    tiles: int
    warps: tuple[int, int]
    stages: int
    post: bool = False

    @property
    def columns(self) -> int:
        """Of the result."""
        return 16 * self.tiles * self.warps[0]

    @property
    def whole_rows(self) -> int:
        """Rows that matrix units compute: eights."""
        return max(8, self.rows)

    def stages_of(self, code: Code) -> int:
        """Slices under way: fewer where they have more bytes, or where tables take their place."""
        fewer = 2 if code.words >= (_WIDE // 2 if code.table else _WIDE) else int(code.table > 0)
        return max(2, self.stages - fewer)

    def shared(self, code: Code) -> int:
        """Bytes of shared memory: slices under way, or later the sums of the warps."""
        share = self.rows * 128 + self.warps[0] * self.tiles * (code.words * 128 + (256 if code.zeros else 128))
        sums = self.warps[1] * min(32, self.whole_rows) * (self.columns + 4) * 4
        return max(code.table + self.stages_of(code) * self.warps[1] * share, sums)


GEMV = (Tile(1, 2, (1, 16), 3), Tile(8, 2, (1, 8), 3))
"""For one row, and for up to eight."""
GEMM = (Tile(16, 2, (4, 2), 4), Tile(32, 2, (4, 2), 3), Tile(64, 2, (4, 2), 3), Tile(96, 2, (8, 1), 3))


def tiles(code: Code, kind: Kind) -> tuple[Tile, ...]:
    """All tiles that there are instances of."""
    few = tuple(replace(one, warps=(1, min(one.warps[1], code.warps))) if one.rows == 1 else one for one in GEMV)
    coarse = tuple(replace(one, post=True) for one in (*few, GEMM[0]) if kind in code.coarse)
    return (*coarse, *few, *GEMM)


def instance_name(name: str, kind: Kind, tile: Tile) -> str:
    """Of the C function."""
    return f"qc_gemm_{name}_{kind}_{tile.rows}x{tile.columns}{'_post' if tile.post else ''}"


def choose_wn(
    name: str, kind: Kind, rows: int, columns: int, depth: int, group: int, architecture: Architecture
) -> Choice:
    """The instance, and the splits, with which a device is done first, by counting.

    Args:
        name: of the code.
        kind: of activations.
        rows: of the result.
        columns: of the result.
        depth: inputs.
        group: inputs of a scale.
        architecture: of the device; before Ampere it has no bfloat16.
    """
    code = CODES[name]
    fine = group < min(_SLICE, depth)
    fitting = [tile for tile in tiles(code, kind) if tile.shared(code) <= architecture.shared_per_block]
    behind = kind in code.coarse and not fine
    ways = [
        (tile, splits)
        for tile in fitting
        if _suits(tile, rows, behind, fitting)
        for splits in range(1, most_splits(tile, depth) + 1)
    ]
    tile, splits = min(ways, key=lambda way: (cycles(code, *way, rows, columns, depth, architecture), way[1]))
    instance = instance_name(name, kind, tile)
    if splits == 1:
        return Choice(f"gemm_{name}", instance)
    along_n, along_m = -(-columns // tile.columns), -(-rows // tile.whole_rows)
    return Choice(f"gemm_{name}", instance, splits, 4 * splits * rows * along_n * tile.columns, along_n * along_m)


_SLICE = 64
_MOST_SPLITS = 8
_STEPS = 4
"""Slices that a warp has at least, so that splitting pays."""


def most_splits(tile: Tile, depth: int) -> int:
    """How many blocks may share the inputs of a tile."""
    return max(1, min(_MOST_SPLITS, depth // (_SLICE * _STEPS * tile.warps[1])))


def _suits(tile: Tile, rows: int, behind: bool, fitting: Sequence[Tile]) -> bool:
    """Few rows have tiles of their own; scales come behind sums where that can be and there is such a tile."""
    few = next((one.rows for one in GEMV if rows <= one.rows and one.rows in {that.rows for that in fitting}), None)
    right = tile.rows == few if few else tile.rows >= GEMM[0].rows
    return right and tile.post == (behind and tile.rows <= GEMM[0].rows)


def cycles(
    code: Code, tile: Tile, splits: int, rows: int, columns: int, depth: int, architecture: Architecture
) -> float:
    """Of a multiprocessor, roughly.

    A slice takes its copies from memory and from the second cache (12 and 40 bytes a cycle), its products (2 cycles
    each) or its instructions (4 a cycle), whichever is longest; a block a latency and its results besides, which
    splitting makes travel twice.
    """
    blocks = -(-columns // tile.columns) * -(-rows // tile.whole_rows) * splits
    groups = tile.columns // 16
    weights = groups * (code.words * 128 + 64)
    products = groups * tile.whole_rows // 8 * 4 * 2
    instructions = (groups * (30 + 12 * code.words) + 50 * tile.warps[0]) / 4 + products / 2
    slice_ = max(weights / 12 + tile.rows * 128 / 40, products, instructions)
    results = tile.whole_rows * tile.columns * 4 / 40
    finish = 1000 + results + (2000 + results * splits if splits > 1 else 0)
    waves = max(1.0, blocks / MULTIPROCESSORS[architecture.capability])
    partly = -(-waves // 1) if waves < 4 else waves
    return partly * (-(-depth // _SLICE) / splits * slice_ + finish)


def _bfloat16(architecture: Architecture) -> bool:
    return architecture.bfloat16


def _everywhere(architecture: Architecture) -> bool:
    return True


def _resident(tile: Tile, code: Code) -> int:
    """Blocks of a multiprocessor: so many lanes as hide the way from memory, for many rows as registers allow.

    Tables leave shared memory for fewer.
    """
    if code.table:
        return 2 if tile.rows == 1 else 1
    if tile.rows > GEMM[0].rows:
        return 1
    third = tile.rows == 1 and tile.warps[1] < GEMV[0].warps[1] and not code.heavy
    return 3 if third else 2


def _instance(name: str, code: Code, kind: Kind, tile: Tile) -> Instance:
    along_n, along_k = tile.warps
    runs: Callable[[Architecture], bool] = _bfloat16 if kind == "bf16" else _everywhere
    decoder = code.type.format(kind=KINDS[kind])
    sizes = f"{tile.rows}, {tile.tiles}, {along_n}, {along_k}, {tile.stages_of(code)}"
    return Instance(
        name=instance_name(name, kind, tile),
        body=f"qc_gemm_wn<{KINDS[kind]}, {decoder}, {str(tile.post).lower()}, {sizes}>",
        threads=32 * along_n * along_k,
        grid=(Axis(("columns",), tile.columns), Axis(("rows",), tile.whole_rows), Axis(("splits",))),
        shared=tile.shared(code),
        blocks=_resident(tile, code),
        runs=runs,
        bits=16,
    )


ROWS = tuple(
    CudaKernel(
        f"gemm_{name}",
        "qc_gemm_wn.cuh",
        tuple(_instance(name, code, kind, tile) for kind in KINDS for tile in tiles(code, kind)),
        takes="wn",
    )
    for name, code in CODES.items()
)
