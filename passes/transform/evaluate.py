"""What a change of basis is worth: the output error of the layers that read a value, under their real number formats.

Formula   error = sum |Q((x - b) T) Q(W T^-T)^T - (x - b) W^T|^2 / sum |x W^T|^2 over all readers; the shift b goes
          into biases, which stay exact
Shapes    x of any rank with channels on one axis; T [channels] as a diagonal, or [channels, channels]
Source    own; the measure that SmoothQuant, AWQ, SVDQuant and others search by
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from qcompiler.spec import QuantSpec, block_reduce, fake_quantize, nearest, qparams_from_range

_MATRIX = 2
# Shares of the range, as a calibrator that searches would clip a heavy tail.
_SHARES = tuple(2 ** (-step / 3) for step in range(13))


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads a value.

    Args:
        weight: floating, its input channels on `axis`.
        spec: of the weight, of its rank; None when it stays float.
        product: input and weight to output, without a bias.
        axis: of the weight; 1 for a linear or a convolution, 0 for a transposed convolution.
        groups: of a convolution; its input channels are the groups' shares one after the other.
    """

    weight: Tensor
    spec: QuantSpec | None = None
    product: Callable[[Tensor, Tensor], Tensor] = functional.linear
    axis: int = 1
    groups: int = 1

    @property
    def columns(self) -> Tensor:
        """The weight with one row per input channel: [channels, everything it multiplies]."""
        if self.axis == 0:
            return self.weight.flatten(1)
        grouped = self.weight.unflatten(0, (self.groups, -1)).transpose(1, 2)
        return grouped.flatten(0, 1).flatten(1)

    def transformed(self, transform: Tensor) -> Tensor:
        """The weight that undoes a transform of its input: `weight T^-T` on the input channels.

        Shapes: transform [channels], or [channels, channels] for a layer without groups -> as the weight.
        """
        if transform.dim() < _MATRIX:
            shares = transform.to(self.weight).reshape(1 if self.axis == 0 else self.groups, -1)
            if self.axis == 0:
                return self.weight / shares.reshape(-1, *[1] * (self.weight.dim() - 1))
            each = shares.repeat_interleave(self.weight.shape[0] // self.groups, 0)
            return self.weight / each.reshape(*each.shape, *[1] * (self.weight.dim() - 2))
        inverse = torch.linalg.inv(transform.double()).mT.to(self.weight)
        return torch.movedim(torch.movedim(self.weight, self.axis, -1) @ inverse, -1, self.axis)


def layer_error(
    x: Tensor,
    weight: Tensor,
    input_spec: QuantSpec | None,
    weight_spec: QuantSpec | None,
    transform: Tensor | None = None,
    shift: Tensor | None = None,
) -> float:
    """Squared output error of a linear layer relative to its output, with nearest rounding.

    Shapes: x [..., channels]; weight [out, channels]; transform T (the layer reads `x T`) [channels] as a diagonal or
    [channels, channels], invertible; shift [channels], taken off before the transform. Specs of None stay float.
    """
    return reading_error(x, [Reader(weight, weight_spec)], input_spec, transform, shift)


def reading_error(
    x: Tensor,
    readers: Sequence[Reader],
    input_spec: QuantSpec | None,
    transform: Tensor | None = None,
    shift: Tensor | None = None,
    axis: int = -1,
) -> float:
    """`layer_error` over all layers that read one value, which share its transform.

    Args:
        x: samples of the value, of the spec's rank, or [rows, channels].
        readers: the layers.
        input_spec: of the value; None when it stays float. A static range is searched on the samples.
        transform: see `layer_error`.
        shift: see `layer_error`.
        axis: of the channels in `x`.

    Returns:
        0 when there is no error, infinity when only the output is zero or something is not finite.
    """
    centred = x if shift is None else x - _along(shift.to(x), x, axis)
    moved = centred if transform is None else _moved(centred, transform, axis)
    weights = [reader.weight if transform is None else reader.transformed(transform) for reader in readers]
    read = rounded_input(moved, input_spec, column_energies(readers, weights), axis)
    error, energy = 0.0, 0.0
    for reader, weight in zip(readers, weights, strict=True):
        whole = reader.product(x, reader.weight.to(read))
        wanted = whole if shift is None else reader.product(centred, reader.weight.to(read))
        result = reader.product(read, rounded(weight, reader.spec).to(read))
        error += (result - wanted).double().square().sum().item()
        energy += whole.double().square().sum().item()
    if not math.isfinite(error):
        return math.inf
    return error / energy if energy else (math.inf if error else 0.0)


def column_energies(readers: Sequence[Reader], weights: Sequence[Tensor]) -> Tensor:
    """Sum over layers of the squares of the weights that multiply each channel, for weights in place of their own.

    Shapes: weights as the readers' -> [channels] float64.
    """
    squares = (
        replace(reader, weight=weight).columns.double().square().sum(1)
        for reader, weight in zip(readers, weights, strict=True)
    )
    return torch.stack(list(squares)).sum(0)


def rounded(value: Tensor, spec: QuantSpec | None) -> Tensor:
    """A tensor on its nearest grid values, with ranges from its smallest and largest elements."""
    return value if spec is None else nearest(value, spec)


def rounded_input(x: Tensor, spec: QuantSpec | None, energies: Tensor | None = None, axis: int = -1) -> Tensor:
    """Samples of an activation as it would be quantized: found at run time, or with the best static range.

    Args:
        x: of the spec's rank; rows [rows, channels] stand for a spec of any rank.
        spec: of the value; None when it stays float.
        energies: how much a squared error in each channel weighs, [channels]; None for all alike.
        axis: of the channels in `x`.
    """
    if spec is None:
        return x
    fitting = spec if x.dim() == spec.rank else row_spec(spec)
    if fitting.dynamic:
        return rounded(x, fitting)
    low, high = _extremes(x, fitting)
    weights = None if energies is None else _along(energies.to(x), x, axis)

    def loss(candidate: Tensor) -> float:
        squares = (candidate - x).square()
        return (squares if weights is None else squares * weights).sum().item()

    return min((_fake(x, low * share, high * share, fitting) for share in _SHARES), key=loss)


def row_spec(spec: QuantSpec, axis: int = -1) -> QuantSpec:
    """The same numbers for rows of channels: rank 2. `axis` is that of the channels in the spec's tensor."""

    def rows(block: tuple[int, ...]) -> tuple[int, int]:
        others = [extent for place, extent in enumerate(block) if place != axis % len(block)]
        return (-1 if all(extent == -1 for extent in others) else 1, block[axis])

    return replace(spec, levels=tuple(replace(level, block=rows(level.block)) for level in spec.levels))


def _extremes(x: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    plain = x.detach().float()
    return block_reduce(plain, spec.block, "amin"), block_reduce(plain, spec.block, "amax")


def _fake(x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    return fake_quantize(x, *qparams_from_range(low, high, spec), spec)


def _moved(x: Tensor, transform: Tensor, axis: int) -> Tensor:
    if transform.dim() < _MATRIX:
        return x * _along(transform.to(x), x, axis)
    return torch.movedim(torch.movedim(x, axis, -1) @ transform.to(x), -1, axis)


def _along(vector: Tensor, x: Tensor, axis: int) -> Tensor:
    shape = [1] * x.dim()
    shape[axis] = -1
    return vector.reshape(shape)
