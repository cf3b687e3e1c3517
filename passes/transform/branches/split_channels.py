"""Outlier channel splitting: a channel with an outlier becomes several that each carry a part of it.

Formula   sum_j w_j x_j with w_j = sum_i u_ij: the input channel j is read k times. Of weights: u_ij = w_j / k + o_i d,
          o_i = (2 i + 1 - k) / (2 k), d the step of the grid, so that the rounded parts add up to the rounded whole.
          Of activations: each copy is x_j / k, its weight w_j. The channel with the largest part is split next
Shapes    W [out, in, *kernel] -> [out, in + extra, *kernel]; extra = ceil(share * in)
Promise   Exact; ports where plain rounding measures better stay as they are
Needs     assigned formats; calibration data to split activations, and to measure outputs instead of weights
Source    Zhao et al. 2019, "Improving Neural Network Quantization without Retraining using Outlier Channel Splitting"
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.branches.driver import (
    BranchLayer,
    BranchPort,
    multiply,
    requests_of,
    sampled_ports,
    set_weight,
    source_now,
)
from qcompiler.passes.transform.branches.port_error import PortError
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.spec import QuantSpec, choose_qparams, effective_scale
from qcompiler.stats import Request

Side = Literal["weight", "activation"]


@dataclass(frozen=True)
class SplitChannels:
    """Splits input channels with outliers.

    Args:
        share: of the channels that are added.
        of: whose outliers are looked at: `weight` or `activation`.
    """

    share: float = 0.02
    of: Side = "weight"
    name: ClassVar[str] = "split_channels"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SpecError(
                f"a share of {self.share} more channels", mend="give a number above 0 up to 1; 0.02 is usual"
            )
        if self.of not in get_args(Side):
            raise SpecError(f"outliers of '{self.of}'", mend="weight or activation")

    def requests(self, program: Program) -> list[Request]:
        """Samples of what the layers read."""
        return requests_of(program)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with more channels in front of its layers."""
        found = [(port, self.best(PortError(port, x))) for port, x in sampled_ports(program, ctx)]
        for port, chosen in found:
            if chosen is not None:
                install(program, port, chosen, self.name)
        count = sum(len(port.layers) for port, chosen in found if chosen is not None)
        ctx.log(f"{count} layers read {self.share:.1%} more channels")
        return program

    def best(self, measured: PortError) -> Copies | None:
        """The copies at one port; None where plain rounding is at least as good."""
        port = measured.port
        size = channel_sizes(measured, self.of)
        if size is None:
            return None
        copies = split(size, math.ceil(self.share * port.channels), self.of)
        weights = [expanded(layer, copies) for layer in port.layers]
        error = measured.error(weights, lambda x: read(x, copies, port))
        return copies if measured.blind or error < measured.plain() else None


@dataclass(frozen=True, eq=False)
class Copies:
    """Which channels are read how often.

    Args:
        index: int64 [channels + extra]: the channel that each place reads; the first ones in order.
        parts: int64 [channels + extra]: into how many parts that channel is split.
        number: int64 [channels + extra]: which of the parts each place carries.
        of: whether the weight or the activation is divided.
    """

    index: Tensor
    parts: Tensor
    number: Tensor
    of: Side


def split(size: Tensor, extra: int, of: Side) -> Copies:
    """Splits the channel whose parts are the largest, `extra` times.

    Shapes: size [channels], not negative.
    """
    parts = [1] * len(size)
    heap = [(-float(value), channel) for channel, value in enumerate(size.tolist())]
    heapify(heap)
    for _ in range(extra):
        _, channel = heap[0]
        parts[channel] += 1
        heapreplace(heap, (-float(size[channel]) / parts[channel], channel))
    added = [(channel, number) for channel, count in enumerate(parts) for number in range(1, count)]
    index = torch.tensor([*range(len(parts)), *(channel for channel, _ in added)])
    number = torch.tensor([0] * len(parts) + [number for _, number in added])
    return Copies(index, torch.tensor(parts)[index], number, of)


def channel_sizes(measured: PortError, of: Side) -> Tensor | None:
    """The size of each channel, of weights in steps of their grids; None without samples to look at.

    The fourth moment stands for the largest: with a scale per row almost every channel is the largest of some row.
    """
    port = measured.port
    if of == "activation":
        return None if measured.x is None else measured.x.abs().movedim(port.axis, 0).flatten(1).amax(1)
    sizes = []
    for layer in port.layers:
        unit = step_sizes(layer.weight, layer.spec) if layer.spec else layer.weight.abs().max().clamp(min=1e-30)
        sizes.append((layer.weight / unit).movedim(1, 0).flatten(1).pow(4).mean(1).pow(0.25))
    return torch.stack(sizes).amax(0)


def step_sizes(weight: Tensor, spec: QuantSpec) -> Tensor:
    """The step of the grid at every element, ranges by the extremes; as the weight."""
    scale, _ = choose_qparams(weight, spec)
    return effective_scale(scale, spec, weight.shape).double()


def expanded(layer: BranchLayer, copies: Copies) -> Tensor:
    """The weight that reads the copies: [out, channels + extra, *kernel] float64."""
    shape = (-1, *[1] * (layer.weight.dim() - 2))
    weight = layer.weight[:, copies.index]
    if copies.of == "activation":
        return weight
    parts = copies.parts.double()
    weight = weight / parts.reshape(shape)
    if layer.spec is None or not layer.spec.format.is_integer or not _one_row(layer.spec):
        return weight
    offsets = (2 * copies.number + 1 - copies.parts) / (2 * parts)
    return weight + offsets.reshape(shape) * step_sizes(weight, layer.spec)


def read(x: Tensor, copies: Copies, port: BranchPort) -> Tensor:
    """What the layers read."""
    found = x.index_select(port.axis, copies.index)
    return found if copies.of == "weight" else found / port.along(copies.parts).to(x)


def install(program: Program, port: BranchPort, copies: Copies, step: str) -> None:
    """Selects the channels in front of the layers and gives these their wider weights."""
    source = source_now(program, port)
    builder, name = program.after(source, step), source.name
    index = builder.param(f"{name}.copies", copies.index)
    axis = program.tensor_type(source).rank + port.axis
    wide = builder.call("aten.index_select", source, axis, index, name=f"{name}_split")
    if copies.of == "activation":
        wide = multiply(program, port, wide, 1.0 / copies.parts.double(), f"{name}_shares", step)
    for layer in port.layers:
        set_weight(program, layer, expanded(layer, copies), step, wide)


def _one_row(spec: QuantSpec) -> bool:
    """Whether all input channels of an output have one scale, so that the parts of a channel share their step."""
    return all(extent == -1 for extent in spec.block[1:])
