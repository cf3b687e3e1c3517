"""Puts other weights into layers where that lowers their output error, for methods that change single weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

from torch import Tensor

from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform.evaluate import Reader, column_energies, rounded, rounded_input
from qcompiler.passes.transform.smoothing.sites import Seen, read_values, reader_of, sampled
from qcompiler.pipeline import Context
from qcompiler.stats import Request

Propose = Callable[[Seen, Reader], Sequence[Tensor]]
"""From a value and a layer that reads it to weights to try."""


def layers(program: Program) -> Iterator[tuple[Seen, Node]]:
    """Every layer that is quantized, with the value that it reads."""
    for values in read_values(program).values():
        for value in values:
            for layer in value.layers:
                yield replace(value, layers=(layer,)), layer


def sample_requests(program: Program, samples: int) -> list[Request]:
    """Samples of what the layers read."""
    return [Request(value.node.name, sampled(program, value, samples)) for value, _ in layers(program)]


def reweigh(program: Program, ctx: Context, step: str, samples: int, propose: Propose) -> int:
    """Changes the weights for which a proposal has less output error once it is quantized; returns how many.

    Raises:
        InputError: without calibration data.
    """
    found, changed = list(layers(program)), 0
    for number, (value, layer) in enumerate(found, 1):
        known = ctx.stats.get(value.node.name, sampled(program, value, samples)).float()
        reader = reader_of(program, layer)
        weight = best_weight(reader, propose(value, reader), known, value)
        if weight is not None:
            param = program.own_param(layer, cast(Node, program.bind(layer)["weight"]), step)
            program.set_exact(param, weight)
            changed += 1
        ctx.progress(number, len(found))
    ctx.log(f"{changed} of {len(found)} weights changed")
    return changed


def best_weight(layer: Reader, candidates: Sequence[Tensor], samples: Tensor, value: Seen) -> Tensor | None:
    """The candidate with the least error against the layer in float; None when the weight as it is has less."""
    axis = value.axis if layer.weight.dim() > 2 else -1
    wanted = layer.product(samples, layer.weight)
    read = rounded_input(samples, value.spec, column_energies([layer], [layer.weight]), axis)

    def error(weight: Tensor) -> float:
        return (layer.product(read, rounded(weight.float(), layer.spec)) - wanted).double().square().sum().item()

    best = min(candidates, key=error, default=None)
    return best if best is not None and error(best) < error(layer.weight) else None
