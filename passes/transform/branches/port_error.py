"""What a change of weights is worth: the output errors of the layers at a port under their real number formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from qcompiler.passes.transform.branches.driver import BranchLayer, BranchPort
from qcompiler.passes.transform.evaluate import rounded, rounded_input


class PortError:
    """Squared output errors of a port's layers, rounded to nearest.

    Args:
        port: the layers.
        x: samples of what they read; None when there are none: then the inputs stay float and every weight counts
            alike.
    """

    def __init__(self, port: BranchPort, x: Tensor | None) -> None:
        self.port, self.x = port, x
        self._layers = port.layers if x is not None else tuple(_bare(layer) for layer in port.layers)
        self._inputs = [_impulses(layer) if x is None else x.float() for layer in self._layers]
        pairs = zip(self._layers, self._inputs, strict=True)
        self._wanted = [layer.product(read, layer.weight) for layer, read in pairs]

    @property
    def blind(self) -> bool:
        """Whether no format is known, so that there is no error to measure."""
        return all(layer.spec is None for layer in self.port.layers)

    @cached_property
    def moment(self) -> Tensor | None:
        """`x^T x` of what linears read, float64 [channels, channels]; None for convolutions and without samples."""
        if self.x is None or self.port.layers[0].window:
            return None
        return (self.x.T @ self.x).double()

    def plain(self) -> float:
        """The error of the weights as they are."""
        return self.error([layer.weight for layer in self.port.layers], lambda x: x)

    def error(
        self, held: Sequence[Tensor], move: Callable[[Tensor], Tensor], beside: Sequence[Tensor] | None = None
    ) -> float:
        """The error of other weights on other inputs.

        Args:
            held: what the codes of each layer hold: [out, in, *kernel].
            move: what the layers read, of the value of the port.
            beside: what is computed beside the codes of each layer, in float: as `held`.
        """
        total, moved = 0.0, self._moved(move)
        for index, layer in enumerate(self._layers):
            real, read = moved[index]
            result = layer.product(read, rounded(held[index].float(), layer.spec))
            if beside is not None:
                result = result + layer.product(real, beside[index])
            total += float((result - self._wanted[index]).double().square().sum())
        return total if math.isfinite(total) else math.inf

    def _moved(self, move: Callable[[Tensor], Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What each layer would read in float, and what it reads."""
        if self.x is None:
            return [(move(x), move(x)) for x in self._inputs]
        real = move(self._inputs[0])
        return [(real, rounded_input(real, self.port.spec))] * len(self._inputs)


def _impulses(layer: BranchLayer) -> Tensor:
    """Inputs on which a layer yields its weight, one number at a time."""
    shape = layer.weight.shape[1:]
    return torch.eye(math.prod(shape)).reshape(-1, *shape)


def _bare(layer: BranchLayer) -> BranchLayer:
    """The layer without strides and borders."""
    return replace(layer, window=(1, 0, 1)) if layer.window else layer
