"""ONNX recurrent layers as torch's, with the gates put in torch's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]


@dataclass(frozen=True)
class _Cell:
    op: str
    gates: tuple[int, ...]
    states: int
    activations: tuple[str, ...]


_LSTM = _Cell("aten.lstm.input", (0, 2, 3, 1), 2, ("Sigmoid", "Tanh", "Tanh"))
_GRU = _Cell("aten.gru.input", (1, 0, 2), 1, ("Sigmoid", "Tanh"))
_TANH = _Cell("aten.rnn_tanh.input", (0,), 1, ("Tanh",))
_RELU = _Cell("aten.rnn_relu.input", (0,), 1, ("Relu",))


def lstm(ctx: OpContext) -> Result:
    """LSTM without peepholes; ONNX orders its gates i, o, f, c, torch i, f, c, o."""
    if ctx.has(7) or ctx.integer("input_forget", 0):
        raise ctx.refuse("peepholes and coupled gates are not supported")
    return _recurrent(ctx, _LSTM)


def gru(ctx: OpContext) -> Result:
    """GRU with the reset gate after the product; ONNX orders its gates z, r, h, torch r, z, h."""
    if not ctx.integer("linear_before_reset", 0):
        raise ctx.refuse("linear_before_reset=0 is not supported", mend="export a torch.nn.GRU, which sets it")
    return _recurrent(ctx, _GRU)


def rnn(ctx: OpContext) -> Result:
    """RNN with tanh or relu."""
    attribute = ctx.attribute("activations")
    return _recurrent(ctx, _RELU if attribute and attribute.as_strings()[0] == "Relu" else _TANH)


def _recurrent(ctx: OpContext, cell: _Cell) -> Result:
    _check(ctx, cell)
    x, hidden = ctx.tensor(0), ctx.integer("hidden_size")
    direction = ctx.word("direction", "forward")
    both, backward = direction == "bidirectional", direction == "reverse"
    weights = [weight for side in range(2 if both else 1) for weight in _weights(ctx, cell, side, hidden)]
    states = [_state(ctx, 5 + index, x, hidden, 2 if both else 1) for index in range(cell.states)]
    x = ctx.call("aten.flip", x, [0]) if backward else x
    state = states if cell.states == 2 else states[0]
    call = ctx.call(cell.op, x, state, weights, ctx.has(3), 1, 0.0, False, both, False)
    output, *last = ctx.items(call, 1 + cell.states)
    output = ctx.call("aten.flip", output, [0]) if backward else output
    if not both:
        return [ctx.call("aten.unsqueeze", output, 1), *last]
    time, batch, _ = ctx.shape(output)
    apart = ctx.call("aten.reshape", output, [ctx.size(time), ctx.size(batch), 2, hidden])
    return [ctx.call("aten.permute", apart, [0, 2, 1, 3]), *last]


def _check(ctx: OpContext, cell: _Cell) -> None:
    attribute = ctx.attribute("activations")
    given = attribute.as_strings() if attribute else cell.activations
    lengths = ctx.known(4)
    time = ctx.shape(ctx.tensor(0))[0]
    if any(name not in cell.activations for name in given) or ctx.attribute("clip") or ctx.integer("layout", 0):
        raise ctx.refuse("other activations, clipping and the batch-first layout are not supported")
    if ctx.has(4) and (lengths is None or not bool((lengths == (time if isinstance(time, int) else -1)).all())):
        raise ctx.refuse(
            "sequence lengths that differ are not supported", mend="export the model without sequence_lens"
        )


def _weights(ctx: OpContext, cell: _Cell, side: int, hidden: int) -> list[Node]:
    """Input weight, hidden weight, and the two biases of one direction."""

    def reordered(index: int, part: slice, variant: str) -> Node:
        tensor = ctx.constant(index, "a recurrent weight")[side][part]
        blocks = tensor.reshape(len(cell.gates), hidden, *tensor.shape[1:])
        value = blocks[list(cell.gates)].reshape(tensor.shape).contiguous()
        return ctx.reform(index, f"{variant}{side}", value)

    whole, rows = slice(None), len(cell.gates) * hidden
    nodes = [reordered(1, whole, "gates"), reordered(2, whole, "gates")]
    if ctx.has(3):
        nodes += [reordered(3, slice(0, rows), "input"), reordered(3, slice(rows, None), "hidden")]
    return nodes


def _state(ctx: OpContext, index: int, x: Node, hidden: int, directions: int) -> Node:
    given = ctx.optional(index)
    if given is not None:
        return given
    sizes: list[object] = [directions, ctx.size(ctx.shape(x)[1]), hidden]
    if all(isinstance(size, int) for size in sizes):
        return ctx.fixed(f"{ctx.name}_state", torch.zeros([int(str(size)) for size in sizes], dtype=ctx.dtype(x)))
    return ctx.call("aten.full", sizes, 0.0, kwargs={"dtype": ctx.dtype(x)})


RECURRENT: dict[str, Operator] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
