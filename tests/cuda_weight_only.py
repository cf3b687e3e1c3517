"""Cases of the products with packed weights, and what they must give."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from qcompiler.backends.cuda.emulation import Argument, Emulation, Traffic, emulate
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.row import Instance
from qcompiler.backends.cuda.kernels.weight_only import CODES, GEMM, GEMV, Kind, Tile
from qcompiler.backends.cuda.weight_only_packing import (
    from_kind,
    group_count,
    group_shift,
    pack_codes,
    pack_scales,
    pack_zeros,
    tensor_scale,
    to_kind,
)
from qcompiler.errors import UnsupportedError
from qcompiler.formats import FP4_E2M1, FP8_E4M3, NF2, NF3, NF4
from tests.cuda_harness import aligned

SINGLE = 2.0**-24
ROUNDED: dict[Kind, float] = {"f16": 2.0**-11, "bf16": 2.0**-8}
"""Largest relative error of one rounding to a kind."""
SUMMANDS = {"codebook8d8x2": 2, "codebook8d8x4": 4, "codebook16d8x2": 2, "codebook8d4x2": 2}
"""Tables of which vectors are sums, by the codes that have several."""


@dataclass(frozen=True)
class Case:
    """A problem: what the kernel reads, and the exact numbers that it stands for, float64.

    Args:
        name: of the code.
        kind: of activations.
        arguments: of the kernel; results are float32.
        input: [M, K].
        codes: [N, K] values of codes less zero points, without scales.
        scale: [N, K], tensor scale included.
        reach: [N, K] magnitudes that are summed: codes and zero points apart.
    """

    name: str
    kind: Kind
    arguments: dict[str, Argument]
    input: np.ndarray
    codes: np.ndarray
    scale: np.ndarray
    reach: np.ndarray

    def weight(self, post: bool) -> np.ndarray:
        """As an instance takes it: each rounded to the kind, or exact where scales come behind sums."""
        exact = self.codes * self.scale
        if post:
            return exact
        outer = float(self.arguments["tensor_scale"])  # pyright: ignore[reportArgumentType]
        return from_kind(to_kind((exact / outer).astype(np.float32), self.kind), self.kind).astype(np.float64) * outer

    def expected(self, post: bool) -> np.ndarray:
        """[M, N], float64."""
        return self.input @ self.weight(post).T

    def bound(self, post: bool) -> np.ndarray:
        """[M, N]: what rounding of sums and scales may add up to."""
        sizes = np.abs(self.input) @ (self.reach * np.abs(self.scale) if post else np.abs(self.weight(post))).T
        return (self.input.shape[1] + 16) * SINGLE * sizes + 1e-30


def make_case(
    name: str, kind: Kind, rows: int, columns: int, depth: int, group: int, seed: int, zeros: bool = True
) -> Case:
    """A random problem; `zeros` gives integers a zero point for each group."""
    rng = np.random.default_rng(seed)
    whole = min(group, depth)
    groups = -(-depth // whole)
    scale = rng.uniform(0.002, 0.02, (columns, groups)).astype(np.float32)
    outer = tensor_scale(scale)
    scale = from_kind(to_kind(scale / np.float32(outer), kind), kind) * np.float32(outer)
    codes, values, table = _codes(name, kind, columns, depth, rng)
    bits = CODES[name].words
    zero = rng.integers(0, 1 << bits, (columns, groups)) if zeros else np.full((columns, groups), 1 << (bits - 1))
    zero = zero if CODES[name].zeros else np.zeros_like(zero)
    spread = np.arange(depth) // whole
    bits_in = to_kind(rng.normal(size=(rows, depth)).astype(np.float32), kind)
    arguments: dict[str, Argument] = {
        "input": aligned(bits_in),
        "weight": aligned(pack_codes(codes, name)),
        "scale": aligned(pack_scales(scale, name, kind, depth, whole)),
        "zero": aligned(pack_zeros(zero, depth, whole)) if CODES[name].zeros and zeros else None,
        "table": None if table is None else aligned(table),
        "tensor_scale": outer,
        "rows": rows,
        "columns": columns,
        "depth": depth,
        "groups": group_count(depth, whole),
        "group_shift": group_shift(depth, whole),
        "splits": 1,
        "out_float": 1,
    }
    return Case(
        name,
        kind,
        arguments,
        from_kind(bits_in, kind).astype(np.float64),
        values - zero[:, spread],
        scale.astype(np.float64)[:, spread],
        np.abs(values) + zero[:, spread],
    )


def _codes(
    name: str, kind: Kind, columns: int, depth: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes, what each element stands for without zero point and scale, and the table as the kernel reads it."""
    import torch

    formats = {"e2m1": FP4_E2M1, "e4m3": FP8_E4M3, "table16": NF4, "table8": NF3, "table4": NF2}
    if name in formats:
        number = formats[name]
        values = number.decode(torch.arange(1 << number.storage_bits)).numpy()
        usable = np.flatnonzero(np.isfinite(values))
        codes = rng.choice(usable, (columns, depth))
        if not name.startswith("table"):
            return codes, values.astype(np.float64)[codes], None
        table = to_kind(values, kind)
        return codes, from_kind(table, kind).astype(np.float64)[codes], table
    if not name.startswith("codebook"):
        codes = rng.integers(0, 1 << CODES[name].words, (columns, depth))
        return codes, codes.astype(np.float64), None
    bits, dimension, summands = 16 if "16" in name else 8, int(name.rpartition("d")[2][0]), SUMMANDS.get(name, 1)
    table = to_kind(rng.normal(size=(summands, 1 << bits, dimension)).astype(np.float32), kind)
    codes = rng.integers(0, 1 << bits, (columns, depth // dimension, summands))
    total = np.zeros((*codes.shape[:2], dimension), np.float32)
    for index, one in enumerate(table):
        total = from_kind(to_kind(total + from_kind(one, kind)[codes[..., index]], kind), kind)
    return codes.reshape(columns, -1), total.astype(np.float64).reshape(columns, depth), table


def instances(name: str, kind: Kind, tiles: tuple[Tile, ...] = (GEMV[1],)) -> list[Instance]:
    """The instances of some tiles, with scales before and behind sums."""
    sizes = {f"{tile.rows}x{tile.columns}" for tile in tiles}
    return [
        one
        for one in KERNELS[f"gemm_{name}"].instances
        if f"_{kind}_" in one.name and one.name.removesuffix("_post").rpartition("_")[2] in sizes
    ]


W4 = {one.name: one for one in instances("w4", "f16", (*GEMV, GEMM[0], *GEMM[2:]))}
"""Tiles that are tested."""


@cache
def _emulation() -> Emulation:
    """All instances that are tested, in one library; the test is skipped without a compiler."""
    kinds: tuple[Kind, ...] = ("f16", "bf16")
    each = [(name, one) for name in CODES for kind in kinds for one in instances(name, kind)]
    each += [("w4", one) for one in W4.values() if ("w4", one) not in each]
    try:
        return emulate([(KERNELS[f"gemm_{name}"], one) for name, one in each], ("-O0",))
    except UnsupportedError as error:
        pytest.skip(error.what)


def launch(case: Case, instance: Instance, order: int = 0, **more: Argument) -> tuple[np.ndarray, Traffic]:
    """The result, and what it took. Workspace and counters are there where sums are split."""
    name = f"gemm_{case.name}"
    given = {**case.arguments, **more}
    rows, columns = (int(given[key]) for key in ("rows", "columns"))  # pyright: ignore[reportArgumentType]
    kind = np.float32 if given["out_float"] else np.uint16
    out = aligned(np.full((rows, columns), 7, kind))
    room = int(given["splits"]) * rows * (columns + 256)  # pyright: ignore[reportArgumentType]
    counters, traffic = np.zeros(256, np.int32), Traffic()
    places = {"out": out, "workspace": aligned(np.full(room, np.nan, np.float32)), "counters": counters}
    _emulation().launch(KERNELS[name], instance, {**given, **places}, order, traffic)
    assert not counters.any()
    return out, traffic
