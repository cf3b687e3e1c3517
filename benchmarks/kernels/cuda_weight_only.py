"""Cases of kernels that multiply half-precision activations by packed weights of few bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernels.cuda_common import Argument, Arguments, Call, Case, Place
from benchmarks.kernels.cuda_products import HOPPER, float_product
from qcompiler.backends.cuda.kernels.hopper_weight_only import WIDE_CODES, choose_wgmma_wn
from qcompiler.backends.cuda.kernels.tiles import Choice
from qcompiler.backends.cuda.kernels.weight_only import CODES, Kind, choose_wn
from qcompiler.backends.cuda.weight_only_packing import group_count, group_shift, pack_codes, pack_scales, tensor_scale
from qcompiler.formats import FP4_E2M1, FP8_E4M3

_BITS = {"w2": 2, "w3": 3, "w4": 4, "w8": 8, "e2m1": 4, "e4m3": 8, "table16": 4, "table8": 3, "table4": 2}
_TYPES: dict[Kind, torch.dtype] = {"f16": torch.float16, "bf16": torch.bfloat16}
_ROUNDING: dict[Kind, float] = {"f16": 2.0**-10, "bf16": 2.0**-7}
_CHECKED = 64
_RANK = 32
_TINYGEMM_GROUP = 128


def product(
    place: Place,
    name: str,
    kind: Kind,
    rows: int,
    columns: int,
    depth: int,
    group: int,
    low_rank: bool = False,
    given: str = "",
) -> Case:
    """A product with weights of a code.

    Args:
        place: where.
        name: of the code, the end of the kernel's name.
        kind: of activations and results.
        rows: of the result.
        columns: of the result.
        depth: inputs.
        group: inputs that share a scale; `depth` for one per column.
        low_rank: whether a branch of rank 32 is added.
        given: the instance; chosen by size where it is empty.
    """
    codes, packed, table = _weights(name, columns, depth)
    scale = (np.random.default_rng().uniform(0.5, 1.5, (columns, -(-depth // group))) / np.sqrt(depth)).astype(
        np.float32
    )
    choice = _choice(place, name, kind, rows, columns, depth, group, given)
    dtype = _TYPES[kind]
    arguments: Arguments = {
        "input": torch.randn(rows, depth).to(dtype),
        "weight": packed,
        "scale": torch.from_numpy(pack_scales(scale, name, kind, depth, group).view(np.int16)),
        "table": None if table is None else table.to(dtype),
        "out": torch.full((rows, columns), torch.nan, dtype=dtype),
        "tensor_scale": tensor_scale(scale),
        "rows": rows,
        "columns": columns,
        "depth": depth,
        "groups": group_count(depth, group),
        "group_shift": group_shift(depth, group),
        "splits": choice.splits,
    }
    if choice.splits > 1:
        arguments |= {
            "workspace": torch.empty(choice.workspace, dtype=torch.uint8),
            "counters": torch.zeros(choice.counters, dtype=torch.int32),
        }
    if low_rank:
        low, up = (torch.randn(size, _RANK).to(dtype) for size in (rows, columns))
        arguments |= {"low": low, "up": up, "rank": _RANK}
    there: Arguments = {
        key: value.to(place.device) if isinstance(value, Tensor) else value for key, value in arguments.items()
    }
    size = sum(value.nbytes for key, value in there.items() if isinstance(value, Tensor) and key in _MOVED)
    span = f"g{group}" if group < depth else "per channel"
    shape = f"{rows}x{columns}x{depth} {name} {kind} {span}{' + rank 32' if low_rank else ''}"
    peers: dict[str, Callable[[], Call]] = {
        kind: partial(float_product, place.device, dtype, rows, columns, depth),
    }
    if name == "w4" and kind == "bf16" and group == _TINYGEMM_GROUP:
        peers["torch int4pack"] = partial(_tinygemm, place.device, rows, columns, depth)
    wrong = partial(_wrong, codes, scale, group, name, kind)
    return Case(choice.kernel, choice.instance, shape, there, wrong, size, 2 * rows * columns * depth, peers, _MOVED)


_MOVED = ("input", "weight", "scale", "out")


def timed(place: Place) -> Iterator[Case]:
    """The cases that are timed; small ones where devices are emulated."""
    if place.emulated:
        for name in CODES:
            yield product(place, name, "f16", 2, 48, 192, 64)
        yield product(place, "w4", "bf16", 20, 40, 256, 128)
        yield product(place, "w4", "f16", 20, 40, 256, 128, low_rank=True)
        return
    for name in CODES:
        yield product(place, name, "f16", 1, 14336, 4096, 128)
    for columns, depth in ((4096, 4096), (14336, 4096), (8192, 28672)):
        for rows in (1, 4, 8):
            yield product(place, "w4", "f16", rows, columns, depth, 128)
    for group in (32, 64, 4096):
        yield product(place, "w4", "f16", 1, 14336, 4096, group)
    for rows in (16, 32, 64, 128, 1024, 4096):
        yield product(place, "w4", "f16", rows, 14336, 4096, 128)
    for rows in (1, 16, 64):
        yield product(place, "w4", "bf16", rows, 14336, 4096, 128)
        yield product(place, "w8", "f16", rows, 14336, 4096, 128)
    for rows in (16, 64, 1024):
        yield product(place, "w4", "f16", rows, 4096, 4096, 128)
        yield product(place, "w4", "f16", rows, 4096, 4096, 128, low_rank=True)
    yield from _by_warpgroups(place)


def _by_warpgroups(place: Place) -> Iterator[Case]:
    if place.architecture.capability != HOPPER:
        return
    allowed = replace(place, architecture=replace(place.architecture, wgmma=True))
    for rows in (64, 128, 1024, 4096):
        yield from (product(allowed, name, "f16", rows, 14336, 4096, 128) for name in WIDE_CODES)
    yield product(allowed, "w4", "bf16", 4096, 4096, 4096, 128, low_rank=True)


def every_instance(place: Place, kernel: str, instance: str, seed: int) -> Case:
    """A small ragged case for one instance."""
    name = kernel.removeprefix("gemm_").removeprefix("wgmma_")
    kind: Kind = "bf16" if "_bf16_" in instance else "f16"
    group = (64, 128)[seed % 2]
    rows, columns, depth = 1 + seed % 9, 33 + seed % 140, 8 * (17 + seed % 60)
    most = int(instance.split("_")[-2 if instance.endswith("post") else -1].split("x")[0])
    rows = min(rows, most) if most <= 8 else most + rows
    return product(place, name, kind, rows, columns, depth, group, given=instance)


def _choice(place: Place, name: str, kind: Kind, rows: int, columns: int, depth: int, group: int, given: str) -> Choice:
    if given:
        return Choice(given.removeprefix("qc_").partition(f"_{name}_")[0] + f"_{name}", given)
    target = place.architecture
    choice = choose_wgmma_wn(name, kind, rows, columns, depth, target)
    return choice or choose_wn(name, kind, rows, columns, depth, group, target)


@cache
def _weights(name: str, columns: int, depth: int) -> tuple[np.ndarray, Tensor, Tensor | None]:
    """Unsigned codes, the same packed, and the table where codes are its indices; drawn once in a run."""
    rng = np.random.default_rng()
    if name.startswith("codebook"):
        bits, dimension = map(int, name.removeprefix("codebook").partition("x")[0].split("d"))
        codes = rng.integers(0, 1 << bits, (columns, depth // dimension * _summands(name)), dtype=np.uint32)
        table = torch.from_numpy(rng.normal(size=(_summands(name) << bits, dimension))).float()
    else:
        codes = rng.integers(0, 1 << _BITS[name], (columns, depth), dtype=np.uint32)
        table = torch.from_numpy(rng.normal(size=1 << _BITS[name])).float() if name.startswith("table") else None
    if name == "e4m3":
        codes = np.where(codes & 0x7F == 0x7F, codes & 0x80, codes).astype(np.uint32)
    return codes, torch.from_numpy(pack_codes(codes, name).view(np.int32)), table


def _summands(name: str) -> int:
    """Tables of which vectors are sums."""
    return int(name.partition("x")[2] or "1")


def _decoded(codes: np.ndarray, name: str, table: Argument) -> Tensor:
    """Values of codes before their scales, float64 [columns, depth]."""
    numbers = torch.from_numpy(codes.astype(np.int64))
    if isinstance(table, Tensor):
        count = _summands(name)
        places = numbers.reshape(len(codes), -1, count) + len(table) // count * torch.arange(count)
        return table.cpu().double()[places].sum(2).reshape(len(codes), -1)
    if name in ("e2m1", "e4m3"):
        return (FP4_E2M1 if name == "e2m1" else FP8_E4M3).decode(numbers).double()
    return (numbers - (1 << (_BITS[name] - 1))).double()


def _wrong(codes: np.ndarray, scale: np.ndarray, group: int, name: str, kind: Kind, given: Arguments) -> str:
    """Within the roundings of scales and weights to the kind, and of sums."""
    x, out, low, up = (given.get(key) for key in ("input", "out", "low", "up"))
    assert isinstance(x, Tensor)
    assert isinstance(out, Tensor)
    outer = tensor_scale(scale)
    steps = (torch.from_numpy(scale) / outer).to(_TYPES[kind]).double().repeat_interleave(group, 1) * outer
    weight = _decoded(codes, name, given.get("table"))
    weight = weight * steps[:, : weight.shape[1]]
    a = x[:_CHECKED].cpu().double()
    real, sizes = a @ weight.T, a.abs() @ weight.abs().T
    if isinstance(low, Tensor) and isinstance(up, Tensor):
        branch = low[:_CHECKED].cpu().double(), up.cpu().double()
        real, sizes = real + branch[0] @ branch[1].T, sizes + branch[0].abs() @ branch[1].abs().T
    off = (out[:_CHECKED].cpu().double() - real).abs() > _ROUNDING[kind] * (real.abs() + sizes)
    return f"{int(off.sum())} of {off.numel()} results are off" if off.any() else ""


def _tinygemm(device: torch.device, rows: int, columns: int, depth: int) -> Call:
    """The kernel behind torchao's weight-only int4 on GPUs."""
    x = torch.randn(rows, depth, device=device, dtype=torch.bfloat16)
    codes = torch.randint(0, 256, (columns, depth // 2), device=device, dtype=torch.uint8)
    packed = torch.ops.aten._convert_weight_to_int4pack(codes, 8)
    scales = torch.rand(depth // _TINYGEMM_GROUP, columns, 2, device=device, dtype=torch.bfloat16)
    return lambda: torch.ops.aten._weight_int4pack_mm(x, packed, _TINYGEMM_GROUP, scales)
