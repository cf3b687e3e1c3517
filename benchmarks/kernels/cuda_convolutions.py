"""Cases of convolutions of int8 images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.kernels.cuda_common import Arguments, Call, Case, Place
from qcompiler.backends.cuda.kernels.integers import choose_conv_i8
from qcompiler.backends.cuda.kernels.tiles import Choice

_F16 = 1


def convolution(
    place: Place, images: int, size: int, channels: tuple[int, int], window: int, stride: int, given: str = ""
) -> Case:
    """A convolution of square images, padded to keep their size over the stride, float16 results.

    Args:
        place: where.
        images: how many.
        size: height and width.
        channels: of the input, a multiple of 16, and of the result.
        window: height and width.
        stride: likewise.
        given: the instance; chosen by size where it is empty.
    """
    x = torch.randint(-128, 128, (images, size, size, channels[0]), dtype=torch.int8)
    w = torch.randint(-128, 128, (channels[1], window, window, channels[0]), dtype=torch.int8)
    padding = window // 2
    out = (size + 2 * padding - window) // stride + 1
    rows, depth = images * out * out, w[0].numel()
    choice = Choice("conv_i8", given) if given else choose_conv_i8(rows, channels[1], depth, place.architecture)
    arguments: Arguments = {
        "input": x,
        "weight": w,
        "out": torch.full((rows, channels[1]), torch.nan, dtype=torch.float16),
        "weight_scale": torch.rand(channels[1]) * 1e-4,
        "weight_scales": 1,
        "rows": rows,
        "columns": channels[1],
        "depth": depth,
        "splits": choice.splits,
        "out_kind": _F16,
        "image_height": size,
        "image_width": size,
        "channels": channels[0],
        "window_width": window,
        "out_height": out,
        "out_width": out,
    }
    for axis in "yx":
        arguments |= {f"stride_{axis}": stride, f"padding_{axis}": padding, f"dilation_{axis}": 1}
    if choice.splits > 1:
        arguments |= {
            "workspace": torch.empty(choice.workspace, dtype=torch.uint8),
            "counters": torch.zeros(choice.counters, dtype=torch.int32),
        }
    there: Arguments = {
        name: value.to(place.device) if isinstance(value, Tensor) else value for name, value in arguments.items()
    }
    moved = sum(value.nbytes for name, value in there.items() if isinstance(value, Tensor) and name in _MOVED)
    shape = f"{images}x{size}x{size}x{channels[0]} -> {channels[1]}, {window}x{window} stride {stride}"
    peers = {"f16": partial(_float_convolution, place.device, images, size, channels, window, stride)}
    wrong = partial(_wrong, x, w, stride)
    work = 2 * rows * channels[1] * depth
    return Case(choice.kernel, choice.instance, shape, there, wrong, moved, work, peers, _MOVED)


_MOVED = ("input", "weight", "out")


def timed(place: Place) -> Iterator[Case]:
    """The cases that are timed; a small one where devices are emulated."""
    if place.emulated:
        yield convolution(place, 1, 7, (32, 40), 3, 2)
        return
    for size, channels, window, stride in ((56, 64, 3, 1), (28, 128, 3, 1), (14, 256, 3, 1), (56, 256, 1, 1)):
        yield convolution(place, 32, size, (channels, channels), window, stride)


def every_instance(place: Place, kernel: str, instance: str, seed: int) -> Case:
    """A small ragged case for one instance."""
    return convolution(
        place, 1 + seed % 2, 5 + seed % 9, (16 * (1 + seed % 3), 9 + seed % 90), 3, 1 + seed % 2, instance
    )


def _float_convolution(
    device: torch.device, images: int, size: int, channels: tuple[int, int], window: int, stride: int
) -> Call:
    x = torch.randn(images, channels[0], size, size, device=device, dtype=torch.float16)
    w = torch.randn(channels[1], channels[0], window, window, device=device, dtype=torch.float16)
    last = (tensor.to(memory_format=torch.channels_last) for tensor in (x, w))
    x, w = last
    return lambda: torch.nn.functional.conv2d(x, w, None, stride, window // 2)


def _wrong(x: Tensor, w: Tensor, stride: int, given: Arguments) -> str:
    """Exact, on the first image."""
    out, scale = given["out"], given["weight_scale"]
    assert isinstance(out, Tensor)
    assert isinstance(scale, Tensor)
    planes, kernels = x[:1].permute(0, 3, 1, 2).double(), w.permute(0, 3, 1, 2).double()
    total = torch.nn.functional.conv2d(planes, kernels, None, stride, w.shape[1] // 2).permute(0, 2, 3, 1)
    expected = (total.float() * scale.cpu()).half().reshape(-1, len(w))
    found = out[: len(expected)].cpu()
    return "" if torch.equal(found, expected) else f"{int((found != expected).sum())} of {found.numel()} results differ"
