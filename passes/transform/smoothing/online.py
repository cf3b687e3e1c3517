"""A scale that nothing can absorb: one multiplication in front of the layers that want it."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from qcompiler.analysis.weights import TRANSPOSED
from qcompiler.certificate import hide
from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform.evaluate import Reader
from qcompiler.passes.transform.smoothing.method import Smoothing
from qcompiler.passes.transform.smoothing.sites import Seen


def put_online(program: Program, value: Seen, smoothing: Smoothing, step: str) -> None:
    """Lets layers read `(value - shift) / scale`, and undoes it in their weights and biases.

    Args:
        program: edited.
        value: and the layers; they are linears where there is a shift.
        smoothing: one coordinate per channel.
        step: name of the pass.
    """
    first = min(value.layers)
    builder = program.before(first, step)
    dtype = program.tensor_type(value.node).dtype
    shape = [1] * (program.tensor_type(value.node).rank - 1 - value.axis)
    moved = value.node

    def param(name: str, vector: Tensor) -> Node:
        node = builder.param(f"{value.node.name}.{name}", vector.reshape(-1, *shape).to(dtype))
        program.set_exact(node, vector.reshape(-1, *shape))
        return node

    if smoothing.shift is not None and bool(smoothing.shift.any()):
        moved = builder.call(
            "aten.sub.Tensor", moved, param("shift", smoothing.shift), name=f"{value.node.name}_centred"
        )
        for layer in value.layers:
            answer_shift(program, layer, smoothing.shift, step)
    inverse = 1 / smoothing.scale
    moved = builder.call("aten.mul.Tensor", moved, param("smoothing", inverse), name=f"{value.node.name}_smoothed")
    for layer in value.layers:
        _answer_scale(program, layer, inverse, step)
        program.redirect(layer, value.node, moved)
    hide(moved)


def _answer_scale(program: Program, layer: Node, multiplier: Tensor, step: str) -> None:
    bound = program.bind(layer)
    weight = program.own_param(layer, cast(Node, bound["weight"]), step)
    axis = 0 if program.op(layer) in TRANSPOSED else 1
    reader = Reader(program.exact(weight), axis=axis, groups=int(str(bound.get("groups", 1))))
    program.set_exact(weight, reader.transformed(multiplier))


def answer_shift(program: Program, layer: Node, shift: Tensor, step: str) -> None:
    """Adds what a layer makes of `shift` [channels] to its bias; it has neither groups nor padding."""
    bound = program.bind(layer)
    weight, bias = cast(Node, bound["weight"]), bound["bias"]
    exact = program.exact(weight)
    amount = exact.reshape(*exact.shape[:2], -1).sum(2) @ shift
    if isinstance(bias, Node):
        own = program.own_param(layer, bias, step)
        program.set_exact(own, program.exact(own) + amount)
        return
    added = program.before(layer, step).param(f"{layer.name}.bias", amount.to(program.tensor_type(weight).dtype))
    program.set_exact(added, amount)
    program.set_args(layer, (*layer.args[:2], added, *layer.args[3:]))
