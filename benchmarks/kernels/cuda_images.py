"""Cases of what stands between convolutions of int8 images, and of convolutions channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.kernels.cuda_common import Arguments, Call, Case, Place
from qcompiler.backends.cuda.image_launches import (
    Convolution,
    Result,
    Scaled,
    Size,
    Window,
    launch_add,
    launch_average,
    launch_codes,
    launch_max,
    launch_mean,
    launch_table,
    table_of,
)
from qcompiler.backends.cuda.layer import Input, Output, Rows, Weight
from qcompiler.backends.cuda.reading import KINDS
from qcompiler.backends.cuda.settings import DTYPES, Compute
from qcompiler.backends.cuda.steps import Plan, Step
from qcompiler.backends.reference import dense, moving, pointwise, pooling
from qcompiler.spec import QuantSpec, quantize

_SPEC = QuantSpec.parse("uint8 asym block=(-1,-1,-1,-1) scale=f32")
_WEIGHT = QuantSpec.parse("int8 sym block=(1,-1,-1,-1) scale=f32")
_GRID, _OTHER = (Scaled.of(_SPEC, torch.tensor(scale), torch.tensor(zero)) for scale, zero in ((0.021, 7), (0.033, 90)))
_END = Result(_OTHER, 0, 255)
_PARTS = [_OTHER.scale, _OTHER.zero_point]
_ONE = (1, 1)
Meaning = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Wanted:
    """What a kernel is started with, and what its result means.

    Args:
        step: of the launch.
        out: the result, an image of the call in each row.
        meaning: of codes [1, channels, height, width] of the program; reals for the kernel that finds codes.
        tensors: weights by name.
        peers: others that do the same.
    """

    step: Step
    out: Size
    meaning: Meaning
    tensors: Mapping[str, Tensor]
    peers: Mapping[str, Callable[[], Call]]


def _parts(codes: Tensor) -> list[Tensor | None]:
    return [codes, _GRID.scale, _GRID.zero_point]


def case(place: Place, kernel: str, images: int, size: Size, compute: Compute = "float16") -> Case:
    """A kernel on some images; equal to its meaning bit for bit on the first one."""
    kinds = _reals if kernel == "image_codes" else _codes
    given = kinds(images, size, compute)
    wanted = _WANTED[kernel](place, images, size, compute)
    plan = Plan(images, place.architecture, bounded=True)
    wanted.step(plan)
    (launch,) = plan.launches
    port = wanted.out.stored
    tensors = {name: value.to(place.device) for name, value in wanted.tensors.items()}
    read, out = given.to(place.device), torch.full((images, *port.shape), 99, dtype=torch.int8, device=place.device)
    arguments: Arguments = {}
    for name, value in launch.arguments.items():
        match value:
            case Rows():
                arguments[name] = value.rows * images
            case Input():
                arguments[name] = read
            case Output():
                arguments[name] = out
            case Weight():
                arguments[name] = tensors[value.weight]
            case int() | float():
                arguments[name] = value
    shape = f"{images}x{size.height}x{size.width}x{size.channels}"
    shape += f" {KINDS[compute]}" if kernel == "image_codes" else ""
    reads = 2 if kernel == "image_add" else 1
    moved = reads * read.nbytes + out.nbytes
    name = "left" if kernel == "image_add" else "input"
    wrong = partial(_wrong, wanted, name)
    peers = {"copy": partial(_copy, place, moved), **wanted.peers}
    return Case(kernel, launch.instance, shape, arguments, wrong, moved, 0, peers, (name, "out"))


def timed(place: Place) -> Iterator[Case]:
    """The cases that are timed; small ones where devices are emulated."""
    images, side, channels = (1, 6, 20) if place.emulated else (32, 56, 256)
    for kernel in _WANTED:
        yield case(place, kernel, images, Size(channels, side, side))
    if not place.emulated:
        yield case(place, "image_codes", images, Size(3, 224, 224))


def every_instance(place: Place, kernel: str, instance: str, seed: int) -> Case:
    """A small ragged case for one instance."""
    size = Size(3 + seed % 50, 4 + seed % 9, 5 + seed % 7)
    computes: dict[str, Compute] = {f"image_codes_{KINDS[compute]}": compute for compute in DTYPES}
    return case(place, kernel, 1 + seed % 2, size, computes.get(instance.removeprefix("qc_"), "float32"))


def _codes(images: int, size: Size, compute: Compute) -> Tensor:
    return torch.randint(-128, 128, (images, *size.stored.shape), dtype=torch.int8)


def _reals(images: int, size: Size, compute: Compute) -> Tensor:
    return (3 * torch.randn(images, size.channels, size.height, size.width)).to(DTYPES[compute])


def _found(place: Place, images: int, size: Size, compute: Compute) -> Wanted:
    scale, zero = (value.reshape(1, 1, 1, 1) for value in (_OTHER.scale, _OTHER.zero_point))
    step = partial(launch_codes, size=size, codes=_OTHER, compute=compute)
    return Wanted(step, size, lambda part: quantize(part.float(), scale, zero, _SPEC), {}, {})


def _added(place: Place, images: int, size: Size, compute: Compute) -> Wanted:
    def meaning(codes: Tensor) -> Tensor:
        return pointwise.add(_parts(codes), _parts(codes), op="", result=_PARTS, low=0, high=255)

    step = partial(launch_add, width=size.stored.width, left=_GRID, right=_GRID, result=_END)
    return Wanted(step, size, meaning, {}, {})


def _looked_up(place: Place, images: int, size: Size, compute: Compute) -> Wanted:
    def meaning(codes: Tensor) -> Tensor:
        return pointwise.table(_parts(codes), op="aten.silu", result=_PARTS, low=0, high=255)

    tensors = {"table": table_of(_GRID, _END, meaning)}
    return Wanted(partial(launch_table, width=size.stored.width), size, meaning, tensors, {})


def _largest(place: Place, images: int, size: Size, compute: Compute) -> Wanted:
    out = Size(size.channels, (size.height - 1) // 2 + 1, (size.width - 1) // 2 + 1)
    window = Window((3, 3), (2, 2), _ONE, _ONE)

    def meaning(codes: Tensor) -> Tensor:
        given = (window.size, window.stride, window.padding, window.dilation, False)
        return moving.carry(_parts(codes), *given, op="aten.max_pool2d", result=_PARTS, low=0, high=255)

    return Wanted(partial(launch_max, source=size, out=out, window=window), out, meaning, {}, {})


def _averaged(place: Place, images: int, size: Size, compute: Compute) -> Wanted:
    out = Size(size.channels, size.height // 2, size.width // 2)
    window = Window((2, 2), (2, 2), (0, 0), _ONE)

    def meaning(codes: Tensor) -> Tensor:
        given = (window.size, window.stride, window.padding, False, True, None)
        return pooling.average(_parts(codes), *given, op="aten.avg_pool2d", result=_PARTS, low=0, high=255)

    step = partial(launch_average, source=size, out=out, window=window, whole=True, codes=_GRID, result=_END)
    return Wanted(step, out, meaning, {}, {})


def _mean(place: Place, images: int, size: Size, compute: Compute) -> Wanted:
    def meaning(codes: Tensor) -> Tensor:
        return pooling.global_mean(_parts(codes), [2, 3], True, op="", result=_PARTS, low=0, high=255)

    step = partial(launch_mean, source=size, codes=_GRID, result=_END)
    return Wanted(step, Size(size.channels, 1, 1), meaning, {}, {})


def _alone(place: Place, images: int, size: Size, compute: Compute) -> Wanted:
    weight = torch.randint(-127, 128, (size.channels, 1, 3, 3)).float()
    scale, bias = torch.rand(size.channels) * 1e-3 + 1e-3, torch.randint(-900, 900, (size.channels,)).float()
    window = Window((3, 3), _ONE, _ONE, _ONE)
    called = Convolution(size, size, window, _GRID, weight, _WEIGHT, scale, bias, _END, compute)
    tensors = called.tensors()

    def meaning(codes: Tensor) -> Tensor:
        parts, window = ([weight, scale, None], [bias, scale, None]), ([1, 1], [1, 1], [1, 1], size.channels)
        return dense.conv(_parts(codes), *parts, *window, op="aten.conv2d", result=_PARTS, low=0, high=255)

    peers = {"f16": partial(_float_convolution, place.device, images, size)}
    return Wanted(partial(called.launch, tensors=tensors), size, meaning, tensors, peers)


_WANTED: Mapping[str, Callable[[Place, int, Size, Compute], Wanted]] = {
    "image_codes": _found,
    "image_add": _added,
    "image_table": _looked_up,
    "image_mean": _mean,
    "image_max": _largest,
    "image_average": _averaged,
    "depthwise_i8": _alone,
}


def _float_convolution(device: torch.device, images: int, size: Size) -> Call:
    x = torch.randn(images, size.channels, size.height, size.width, device=device, dtype=torch.float16)
    w = torch.randn(size.channels, 1, 3, 3, device=device, dtype=torch.float16)
    x = x.to(memory_format=torch.channels_last)
    return lambda: torch.nn.functional.conv2d(x, w, None, 1, 1, 1, size.channels)


def _copy(place: Place, moved: int) -> Call:
    source, target = (torch.empty(moved // 2, dtype=torch.uint8, device=place.device) for _ in range(2))
    return lambda: target.copy_(source)


def _wrong(wanted: Wanted, name: str, given: Arguments) -> str:
    """Exact, on the first image."""
    read, out = given[name], given["out"]
    assert isinstance(read, Tensor)
    assert isinstance(out, Tensor)
    first, found = read[:1].cpu(), out[:1, ..., : wanted.out.channels].cpu().permute(0, 3, 1, 2).float()
    channels = wanted.out.channels
    codes = first if name == "input" and first.is_floating_point() else _program(first[..., :channels])
    expected = wanted.meaning(codes) + _OTHER.shift
    return "" if torch.equal(found, expected) else f"{int((found != expected).sum())} of {found.numel()} codes differ"


def _program(stored: Tensor) -> Tensor:
    """Codes of the program from bytes, channels last."""
    return stored.permute(0, 3, 1, 2).float() - _GRID.shift
