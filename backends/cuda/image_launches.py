"""Layers of int8 images: what their kernels read, and their launches.

Source: the meanings of the same names in `backends.reference`, whose numbers these are bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from qcompiler.backends.cuda.codes import filled, shift_of
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.images import codes_instance
from qcompiler.backends.cuda.kernels.integers import choose_conv_i8, choose_i8
from qcompiler.backends.cuda.kernels.tiles import Choice
from qcompiler.backends.cuda.layer import Argument, Element, Input, Launch, Output, Port, Rows, Weight
from qcompiler.backends.cuda.product import OUT_KINDS, split_arguments
from qcompiler.backends.cuda.reading import KINDS
from qcompiler.backends.cuda.settings import Compute
from qcompiler.backends.cuda.steps import Plan
from qcompiler.backends.reference.arithmetic import fused_multiply_add
from qcompiler.spec import QuantSpec

_PADDING = 16
_OUT_CODES = 3
_CODES = 256


@dataclass(frozen=True)
class Size:
    """Of an image.

    Args:
        channels: that count.
        height: in places.
        width: likewise.
    """

    channels: int
    height: int
    width: int

    @property
    def places(self) -> int:
        """How many."""
        return self.height * self.width

    @property
    def stored(self) -> Port:
        """Its codes: channels last, filled up."""
        shape = (self.height, self.width, filled(self.channels))
        return Port(width=prod(shape), element="int8", shape=shape)

    def reals(self, element: Element, channels_last: bool) -> Port:
        """Its reals; filled up like codes where channels are last."""
        places = (self.height, self.width)
        shape = (*places, filled(self.channels)) if channels_last else (self.channels, *places)
        return Port(width=prod(shape), element=element, shape=shape)


@dataclass(frozen=True)
class Window:
    """What a place of the result sees, [y, x] each."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def arguments(self, source: Size, result: Size) -> dict[str, Argument]:
        """Of kernels with windows."""
        found: dict[str, Argument] = {
            "image_height": source.height,
            "image_width": source.width,
            "out_height": result.height,
            "out_width": result.width,
            "window_width": self.size[1],
        }
        for name, pair in (("stride", self.stride), ("padding", self.padding), ("dilation", self.dilation)):
            found |= {f"{name}_y": pair[0], f"{name}_x": pair[1]}
        return found


@dataclass(frozen=True)
class Scaled:
    """Codes of one scale.

    Args:
        spec: of the codes.
        scale: float32, of no axes.
        zero_point: float32, of no axes; 0 when symmetric.
    """

    spec: QuantSpec
    scale: Tensor
    zero_point: Tensor

    @staticmethod
    def of(spec: QuantSpec, scale: Tensor, zero_point: Tensor | None) -> Scaled:
        """From tensors of one element."""
        zero = torch.zeros(()) if zero_point is None else zero_point.float().reshape(())
        return Scaled(spec, scale.float().reshape(()), zero)

    @property
    def shift(self) -> int:
        """What is stored less the code."""
        return shift_of(self.spec)

    @property
    def zero(self) -> int:
        """The zero point as it is stored."""
        return int(self.zero_point) + self.shift


@dataclass(frozen=True)
class Result:
    """Codes that a layer yields: their scale, and the least and the most of them, as the program counts."""

    codes: Scaled
    low: float
    high: float

    def limits(self, stored: bool) -> dict[str, Argument]:
        """Arguments of kernels that end in `clip(round(steps) + zero_point)`, on codes of the program or stored."""
        shift = self.codes.shift if stored else 0
        return {
            "zero_point": float(self.codes.zero_point) + shift,
            "least": self.low + shift,
            "most": self.high + shift,
        }


@dataclass(frozen=True)
class Convolution:
    """A convolution of codes; a linear layer is one of images of one place.

    Args:
        source: size of the image.
        out: of the result.
        window: of a place.
        codes: of the image.
        weight: whole numbers in floats [columns, channels of a group, height, width].
        spec: of these.
        scale: of the weight, float32 of one element or one for each column.
        bias: whole numbers in steps of both scales, [columns], or None.
        result: codes to yield; None for reals.
        compute: floats of these.
    """

    source: Size
    out: Size
    window: Window
    codes: Scaled
    weight: Tensor
    spec: QuantSpec
    scale: Tensor
    bias: Tensor | None
    result: Result | None
    compute: Compute

    @property
    def by_channel(self) -> bool:
        """Whether each channel has a window of its own."""
        return self.weight.shape[1] == 1 and self.source.channels > 1

    @property
    def pointwise(self) -> bool:
        """Whether it is a product of matrices: a place of the result sees that place of the image."""
        return self.window == Window((1, 1), (1, 1), (0, 0), self.window.dilation)

    def __str__(self) -> str:
        what = "depthwise" if self.by_channel else "conv"
        size = "x".join(map(str, self.weight.shape))
        return f"{what} {self.codes.spec.format.name} static x {self.spec.format.name} [{size}]"

    def tensors(self) -> dict[str, Tensor]:
        """What the kernel reads besides the image, by the names of `launch`."""
        columns = filled(self.out.channels)
        whole = self.weight.to(torch.int32)
        total = -self.codes.zero * whole.sum((1, 2, 3), dtype=torch.int32)
        if self.bias is not None:
            total = total + self.bias.reshape(-1).to(torch.int32)
        factor = self.codes.scale * self.scale.float().reshape(-1)
        if self.result is not None:
            factor = factor / self.result.codes.scale
        found = {
            "codes": self._taps() if self.by_channel else self._places(),
            "scale": _widened(factor.expand(self.out.channels), columns),
            "total_bias": _widened(total, columns),
        }
        if self.codes.zero and not self.pointwise:
            found["padding"] = torch.full((_PADDING,), self.codes.zero, dtype=torch.int8)
        return found

    def _places(self) -> Tensor:
        """[columns, window height, window width, channels] for `conv_i8`."""
        last = self.weight.permute(0, 2, 3, 1).to(torch.int8)
        out = torch.zeros(filled(self.out.channels), *last.shape[1:3], filled(self.source.channels), dtype=torch.int8)
        out[: len(last), :, :, : last.shape[3]] = last
        return out

    def _taps(self) -> Tensor:
        """[window height * window width, columns] for `depthwise_i8`."""
        taps = self.weight.flatten(1).t().to(torch.int8)
        return torch.nn.functional.pad(taps, (0, filled(self.out.channels) - self.out.channels))

    def launch(self, plan: Plan, tensors: Mapping[str, Tensor]) -> None:
        """Adds the launch that reads the layer's input and writes its result."""
        columns, channels = filled(self.out.channels), filled(self.source.channels)
        rows, taps = plan.rows * self.out.places, prod(self.window.size)
        arguments: dict[str, Argument] = {
            "input": Input(input=0),
            "weight": Weight(weight="codes"),
            "out": Output(output=0),
            "weight_scale": Weight(weight="scale"),
            "weight_scales": 1,
            "total_bias": Weight(weight="total_bias"),
            "rows": Rows(rows=self.out.places),
            "columns": columns,
            "depth": taps * channels,
            "out_kind": OUT_KINDS[self.compute] if self.result is None else _OUT_CODES,
            **({} if self.result is None else self.result.limits(stored=True)),
        }
        seen = {"channels": channels, **self.window.arguments(self.source, self.out)}
        if "padding" in tensors:
            seen["padding"] = Weight(weight="padding")
        if self.by_channel:
            choice = Choice("depthwise_i8", KERNELS["depthwise_i8"].instances[0].name)
            arguments |= seen | {"depth": taps, "splits": 1}
        elif self.pointwise:
            choice = choose_i8(rows, columns, channels, plan.architecture)
            arguments |= split_arguments(plan, choice)
        else:
            choice = choose_conv_i8(rows, columns, taps * channels, plan.architecture)
            arguments |= seen | split_arguments(plan, choice)
        plan.launches.append(Launch(kernel=choice.kernel, instance=choice.instance, arguments=arguments))


def launch_codes(plan: Plan, size: Size, codes: Scaled, compute: Compute) -> None:
    """Adds the launch that finds the codes of images of reals."""
    number = codes.spec.format
    arguments: dict[str, Argument] = {
        "input": Input(input=0),
        "out": Output(output=0),
        "rows": Rows(rows=size.places),
        "places": size.places,
        "channels": size.channels,
        "out_channels": filled(size.channels),
        "symmetric": int(codes.spec.symmetric),
        "lowest": float(number.lowest),
        "highest": float(number.highest),
        "shift": float(codes.shift),
        "fixed_scale": float(codes.scale),
        "fixed_zero": float(codes.zero_point),
    }
    _launch(plan, "image_codes", arguments, codes_instance(KINDS[compute]).name)


def launch_add(plan: Plan, width: int, left: Scaled, right: Scaled, result: Result) -> None:
    """Adds the launch that adds two images of `width` codes each."""
    a, b = left.scale / result.codes.scale, right.scale / result.codes.scale
    constant = result.codes.zero_point - fused_multiply_add(a, left.zero_point, b * right.zero_point)
    arguments: dict[str, Argument] = {
        "left": Input(input=0),
        "right": Input(input=1),
        "out": Output(output=0),
        "rows": Rows(rows=1),
        "width": width,
        "left_factor": float(a),
        "right_factor": float(b),
        "constant": float(constant),
        "left_shift": float(left.shift),
        "right_shift": float(right.shift),
        "out_shift": float(result.codes.shift),
        "least": result.low,
        "most": result.high,
    }
    _launch(plan, "image_add", arguments)


def table_of(codes: Scaled, result: Result, of: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of one code as bytes: of the least one as it is stored first, int8 [256].

    Args:
        codes: that go in.
        result: that come out.
        of: codes of the program for codes of the program, in floats.
    """
    least = -(_CODES // 2) - codes.shift
    found = of(torch.arange(least, least + _CODES, dtype=torch.float32))
    return (found + result.codes.shift).to(torch.int8)


def launch_table(plan: Plan, width: int) -> None:
    """Adds the launch that looks each of `width` codes of an image up in the weight `table`."""
    arguments: dict[str, Argument] = {
        "input": Input(input=0),
        "table": Weight(weight="table"),
        "out": Output(output=0),
        "rows": Rows(rows=1),
        "width": width,
    }
    _launch(plan, "image_table", arguments)


def launch_max(plan: Plan, source: Size, out: Size, window: Window) -> None:
    """Adds the launch that takes the largest codes of windows."""
    _launch(plan, "image_max", _pooled(source, out, window))


def launch_average(
    plan: Plan, source: Size, out: Size, window: Window, whole: bool, codes: Scaled, result: Result
) -> None:
    """Adds the launch that averages windows; with `whole` what lies around the image counts as zeros."""
    arguments = _pooled(source, out, window) | {
        "whole": int(whole),
        "zero": codes.zero,
        "scale": float(codes.scale),
        "out_scale": float(result.codes.scale),
        "shift": float(result.codes.shift),
        **result.limits(stored=False),
    }
    _launch(plan, "image_average", arguments)


def launch_mean(plan: Plan, source: Size, codes: Scaled, result: Result) -> None:
    """Adds the launch that averages whole images."""
    arguments: dict[str, Argument] = {
        "input": Input(input=0),
        "out": Output(output=0),
        "rows": Rows(rows=1),
        "places": source.places,
        "channels": filled(source.channels),
        "zero": codes.zero,
        "factor": float(codes.scale / (result.codes.scale * float(source.places))),
        **result.limits(stored=True),
    }
    _launch(plan, "image_mean", arguments)


def _pooled(source: Size, out: Size, window: Window) -> dict[str, Argument]:
    return {
        "input": Input(input=0),
        "out": Output(output=0),
        "rows": Rows(rows=out.places),
        "channels": filled(source.channels),
        "window_height": window.size[0],
        **window.arguments(source, out),
    }


def _launch(plan: Plan, kernel: str, arguments: dict[str, Argument], instance: str = "") -> None:
    plan.launches.append(
        Launch(kernel=kernel, instance=instance or KERNELS[kernel].instances[0].name, arguments=arguments)
    )


def _widened(values: Tensor, width: int) -> Tensor:
    """Filled up with zeros."""
    return torch.nn.functional.pad(values, (0, width - values.shape[0])).contiguous()


def pair(value: object, otherwise: tuple[int, int]) -> tuple[int, int]:
    """Two numbers of an operator of images that takes one, two or none."""
    found = [item for item in value if isinstance(item, int)] if isinstance(value, Sequence) else [value]
    numbers = [item for item in found if isinstance(item, int)]
    return (numbers[0], numbers[-1]) if numbers else otherwise
