"""Cases of kernels that multiply codes: integers, floats of eight bits, signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernels.cuda_common import Argument, Arguments, Call, Case, Place
from qcompiler.backends.cuda import integer_packing as packing
from qcompiler.backends.cuda.groups import packed_group_zeros
from qcompiler.backends.cuda.kernels.float8 import choose_f8
from qcompiler.backends.cuda.kernels.integers import choose_i8
from qcompiler.backends.cuda.kernels.low_bit import choose_b1, choose_w4a4, choose_wna8
from qcompiler.backends.cuda.kernels.tiles import Choice

_RANGES = {1: (0, 2), 2: (-2, 2), 4: (-8, 8), 8: (-128, 128)}
_F16 = 1
_RANK = 32
_SUBNORMAL = 2.0**-24
"""Of float16: its smallest results are off by half of that."""
HOPPER = 90
"""Its products of four warps together are timed beside the others, whatever is chosen by default."""
_CHECKED = 256
"""Rows that are compared."""
Peers = dict[str, Callable[[], Call]]


def product(
    place: Place,
    way: str,
    rows: int,
    columns: int,
    depth: int,
    group: int = 0,
    low_rank: bool = False,
    given: tuple[str, str] | None = None,
) -> Case:
    """A product of codes, float16 results.

    Args:
        place: where.
        way: `i8`, `w4a8`, `w2a8`, `w4a4`, `b1` or `f8`.
        rows: of the result.
        columns: of the result.
        depth: codes of a row.
        group: codes that share a scale, 0 where a column has one.
        low_rank: whether a branch of rank 32 is added.
        given: kernel and instance; chosen by size where it is None.
    """
    bits = {"i8": (8, 8), "w4a8": (8, 4), "w2a8": (8, 2), "w4a4": (4, 4), "b1": (1, 1), "f8": (8, 8)}[way]
    rng = np.random.default_rng()
    x, w = (_codes(rng, size, depth, width, way) for size, width in ((rows, bits[0]), (columns, bits[1])))
    choice = Choice(*given) if given else _choice(place, way, rows, columns, depth, group)
    arguments: Arguments = {
        "input": _stored(x, bits[0], bits[1]),
        "weight": _stored(w, bits[1], bits[0]),
        "out": torch.full((rows, columns), torch.nan, dtype=torch.float16),
        "input_scale": torch.rand(rows) * 0.01,
        "weight_scale": torch.rand(columns) * 0.01,
        "rows": rows,
        "columns": columns,
        "depth": -(-depth // 16) * 16 if bits[0] == 8 else depth,
        "input_scales": 1,
        "weight_scales": 1,
        "out_kind": _F16,
        "splits": choice.splits,
    }
    if choice.splits > 1:
        arguments |= {
            "workspace": torch.empty(choice.workspace, dtype=torch.uint8),
            "counters": torch.zeros(choice.counters, dtype=torch.int32),
        }
    if group:
        scales = rng.uniform(0.5, 1.5, (columns, -(-depth // group)))
        arguments |= {"group_scale": torch.from_numpy(packing.group_scales(scales)), "group": group}
        arguments |= _beside_groups(rng, choice.instance, w, rows, group)
    if low_rank:
        arguments |= {"low": torch.randn(rows, _RANK).half(), "up": torch.randn(columns, _RANK).half(), "rank": _RANK}
    if "b1_and" in choice.instance:
        arguments["column_sum"] = torch.from_numpy(packing.count_negative(packing.pack_signs(w)))
    there: Arguments = {
        name: value.to(place.device) if isinstance(value, Tensor) else value for name, value in arguments.items()
    }
    shape = f"{rows}x{columns}x{depth} {way}{f' g{group}' if group else ''}{' + rank 32' if low_rank else ''}"
    size = sum(value.nbytes for name, value in there.items() if isinstance(value, Tensor) and name in _MOVED)
    peers: Peers = {"f16": partial(float_product, place.device, torch.float16, rows, columns, depth)}
    if way == "i8" and rows > 16:
        peers["torch._int_mm"] = partial(_int_product, place.device, rows, columns, depth)
    if way == "f8":
        peers["torch._scaled_mm"] = partial(_scaled_product, place.device, rows, columns, depth)
    wrong = partial(_wrong, x, w, group, way == "f8")
    return Case(choice.kernel, choice.instance, shape, there, wrong, size, 2 * rows * columns * depth, peers)


_MOVED = ("input", "weight", "out", "group_scale")
_OF_GROUPS = ("group_scale", "input_group_scale", "group_zero", "input_zero")


def timed(place: Place) -> Iterator[Case]:
    """The cases that are timed; small ones where devices are emulated."""
    small = place.emulated
    shapes = ((3, 40, 96), (70, 72, 160)) if small else ((1, 4096, 4096), (16, 4096, 4096), (4096, 4096, 4096))
    for rows, columns, depth in shapes:
        for way in ("i8", "w4a8", "w2a8", "w4a4", "b1", *(("f8",) if place.architecture.fp8 else ())):
            yield product(place, way, rows, columns, depth)
        for way in ("w4a8", "w4a4"):
            yield product(place, way, rows, columns, depth, group=128 if depth > 128 else 64)
    rows, columns, depth = shapes[-1]
    for group in (0, 64):
        yield product(place, "w4a4", rows, columns, depth, group)
        yield product(place, "w4a4", rows, columns, depth, group, low_rank=True)
    if not small:
        for size in ((512, 4096, 4096), (2048, 14336, 4096), (8192, 8192, 8192)):
            yield product(place, "i8", *size)
    if not small and place.architecture.capability == HOPPER:
        allowed = replace(place, architecture=replace(place.architecture, wgmma=True))
        for size in ((64, 4096, 4096), (512, 4096, 4096), (4096, 4096, 4096), (2048, 14336, 4096), (8192, 8192, 8192)):
            yield from (product(allowed, way, *size) for way in ("i8", "f8"))


def every_instance(place: Place, kernel: str, instance: str, seed: int) -> Case:
    """A small ragged case for one instance."""
    way = next(one for one in ("w4a8", "w2a8", "w4a4", "b1", "f8", "i8") if f"_{one}" in instance)
    group = 64 if any(scales in instance for scales in ("groups", "blocks", "zeros", "moved")) else 0
    rows, columns, depth = 5 + seed % 150, 33 + seed % 140, 65 + seed % 500
    low_rank = way == "w4a4" and seed % 2 == 0
    return product(place, way, rows, columns, depth, group, low_rank, (kernel, instance))


def float_product(device: torch.device, dtype: torch.dtype, rows: int, columns: int, depth: int) -> Call:
    """A product of the framework's own."""
    x, w = (torch.randn(size, depth, device=device, dtype=dtype) for size in (rows, columns))
    return lambda: x @ w.T


def _int_product(device: torch.device, rows: int, columns: int, depth: int) -> Call:
    x, w = (torch.randint(-128, 128, (size, depth), device=device, dtype=torch.int8) for size in (rows, columns))
    return lambda: torch.ops.aten._int_mm(x, w.T)


def _scaled_product(device: torch.device, rows: int, columns: int, depth: int) -> Call:
    x, w = (torch.randn(size, depth, device=device).to(torch.float8_e4m3fn) for size in (rows, columns))
    sx, sw = torch.rand(rows, 1, device=device), torch.rand(1, columns, device=device)
    return lambda: torch.ops.aten._scaled_mm(x, w.T, sx, sw, out_dtype=torch.bfloat16)


def _codes(rng: np.random.Generator, size: int, depth: int, bits: int, way: str) -> np.ndarray:
    if way == "f8":
        reals = torch.from_numpy(rng.normal(size=(size, depth)).astype(np.float32))
        return reals.to(torch.float8_e4m3fn).view(torch.int8).numpy()
    codes = rng.integers(*_RANGES[bits], (size, depth), dtype=np.int8)
    return 1 - 2 * codes if bits == 1 else codes


def _stored(codes: np.ndarray, bits: int, beside: int) -> Tensor:
    if bits == 8:
        return torch.from_numpy(packing.pack_bytes(codes))
    if bits == 1:
        return torch.from_numpy(packing.pack_signs(codes))
    if beside == 4:
        return torch.from_numpy(packing.pack_nibbles(codes))
    return torch.from_numpy(packing.interleave(codes, 4 if bits == 4 else 2))


def _choice(place: Place, way: str, rows: int, columns: int, depth: int, group: int) -> Choice:
    match way:
        case "i8":
            return choose_i8(rows, columns, depth, place.architecture)
        case "w4a4":
            return choose_w4a4(rows, columns, depth, group, place.architecture)
        case "b1":
            return choose_b1(rows, columns, depth, place.architecture)
        case "f8":
            return choose_f8(rows, columns, depth, place.architecture)
        case _:
            return choose_wna8(rows, columns, depth, int(way[1]), group, place.architecture)


def _wrong(x: np.ndarray, w: np.ndarray, group: int, floats: bool, given: Arguments) -> str:
    """Integers without groups are exact; sums of floats are within their roundings."""
    out = _tensor(given["out"])[:_CHECKED].cpu()
    a, b = (_reals(codes, floats) for codes in (x[:_CHECKED], w))
    scale = _tensor(given["input_scale"])[:_CHECKED].cpu()[:, None] * _tensor(given["weight_scale"]).cpu()
    if not (group or floats or given.get("low") is not None):
        expected = ((a @ b.T).float() * scale).half()
        return "" if torch.equal(out, expected) else f"{int((out != expected).sum())} of {out.numel()} results differ"
    if group:
        a, b = _with_groups(a, b, group, given)
    real, sizes = a @ b.T * scale.double(), a.abs() @ b.abs().T * scale.double()
    if given.get("low") is not None:
        low, up = (_tensor(given[name]).cpu().double() for name in ("low", "up"))
        real, sizes = real + low[:_CHECKED] @ up.T, sizes + low[:_CHECKED].abs() @ up.abs().T
    off = (out.double() - real).abs() > 2.0**-10 * real.abs() + (2.0**-9 if floats else 2.0**-18) * sizes + _SUBNORMAL
    return f"{int(off.sum())} of {off.numel()} results are off" if off.any() else ""


def _beside_groups(rng: np.random.Generator, instance: str, w: np.ndarray, rows: int, group: int) -> Arguments:
    """Scales of blocks of inputs, or zero points on both sides, for the instances that have them."""
    groups = -(-w.shape[1] // group)
    if "blocks" in instance:
        return {"input_group_scale": torch.from_numpy(rng.uniform(0.5, 1.5, (rows, groups)).astype(np.float32))}
    both = "zeros" in instance
    if not both and "moved" not in instance:
        return {}
    zeros = torch.from_numpy(rng.integers(-2, 2, (len(w), groups))) if both else None
    moved = torch.from_numpy(rng.integers(-128, 128, rows if both else 1, dtype=np.int32))
    return {**packed_group_zeros(w, zeros, 0, group), "input_zero": moved, "input_zeros": int(both)}


def _with_groups(a: Tensor, b: Tensor, group: int, given: Arguments) -> tuple[Tensor, Tensor]:
    """Both sides less their zero points, times scales of groups."""
    named = {name: _tensor(given[name]).cpu() for name in _OF_GROUPS if given.get(name) is not None}

    def every(name: str) -> Tensor:
        values = named[name].double()
        by_row = values if name == "input_group_scale" else values[:, : len(b)].T
        return by_row.repeat_interleave(group, 1)[:, : b.shape[1]]

    if "input_zero" in named:
        a = a - named["input_zero"][: len(a), None].double()
    if "group_zero" in named:
        b = b - every("group_zero")
    if "input_group_scale" in named:
        a = a * every("input_group_scale")[: len(a)]
    return a, b * every("group_scale")


def _reals(codes: np.ndarray, floats: bool) -> Tensor:
    found = torch.from_numpy(codes)
    return found.view(torch.float8_e4m3fn).float().double() if floats else found.double()


def _tensor(value: Argument) -> Tensor:
    assert isinstance(value, Tensor)
    return value
