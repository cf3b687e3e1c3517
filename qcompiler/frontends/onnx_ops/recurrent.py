"""ONNX recurrent layers as torch's, with the gates put in torch's order; other forms are unrolled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qcompiler.errors import VerifyError
from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.frontends.onnx_ops.unrolled import Kind, unrolled, zero_state
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]


@dataclass(frozen=True)
class _Cell:
    kind: Kind
    op: str
    gates: tuple[int, ...]
    states: int
    activations: tuple[str, ...]


_LSTM = _Cell("LSTM", "aten.lstm.input", (0, 2, 3, 1), 2, ("Sigmoid", "Tanh", "Tanh"))
_GRU = _Cell("GRU", "aten.gru.input", (1, 0, 2), 1, ("Sigmoid", "Tanh"))
_TANH = _Cell("RNN", "aten.rnn_tanh.input", (0,), 1, ("Tanh",))
_RELU = _Cell("RNN", "aten.rnn_relu.input", (0,), 1, ("Relu",))


def lstm(ctx: OpContext) -> Result:
    """LSTM; ONNX orders its gates i, o, f, c, torch i, f, c, o."""
    return _recurrent(ctx, _LSTM, whole=not ctx.has(7) and not ctx.integer("input_forget", 0))


def gru(ctx: OpContext) -> Result:
    """GRU; ONNX orders its gates z, r, h, torch r, z, h. Torch has the reset gate after the product alone."""
    return _recurrent(ctx, _GRU, whole=bool(ctx.integer("linear_before_reset", 0)))


def rnn(ctx: OpContext) -> Result:
    """RNN."""
    attribute = ctx.attribute("activations")
    return _recurrent(ctx, _RELU if attribute and attribute.as_strings()[0] == "Relu" else _TANH, whole=True)


def _recurrent(ctx: OpContext, cell: _Cell, *, whole: bool) -> Result:
    batch_first, hidden = bool(ctx.integer("layout", 0)), ctx.integer("hidden_size")
    if ctx.rank(ctx.tensor(0)) != 3:
        raise VerifyError(f"{cell.kind} reads a tensor with {ctx.rank(ctx.tensor(0))} axes, and must read one with 3")
    x = _swapped(ctx, ctx.tensor(0), batch_first)
    directions = 2 if ctx.word("direction", "forward") == "bidirectional" else 1
    given = [ctx.optional(5 + index) for index in range(cell.states)]
    states = [
        zero_state(ctx, x, hidden, directions) if state is None else _swapped(ctx, state, batch_first)
        for state in given
    ]
    compute = _whole if whole and _is_plain(ctx, cell, x) else _stepwise
    output, *last = compute(ctx, cell, x, states, directions)
    if batch_first:
        output = ctx.call("aten.permute", output, [2, 0, 1, 3])
    return [output, *(_swapped(ctx, state, batch_first) for state in last)]


def _swapped(ctx: OpContext, node: Node, wanted: bool) -> Node:
    return ctx.call("aten.permute", node, [1, 0, 2]) if wanted else node


def _is_plain(ctx: OpContext, cell: _Cell, x: Node) -> bool:
    """Whether torch has this form: usual activations, no clipping, all sequences of full length."""
    attribute = ctx.attribute("activations")
    given = tuple(attribute.as_strings()) if attribute else cell.activations
    usual = given[: len(cell.activations)] == cell.activations and given[-len(cell.activations) :] == cell.activations
    lengths, time = ctx.known(4), ctx.shape(x)[0]
    full = lengths is not None and bool((lengths == (time if isinstance(time, int) else -1)).all())
    return usual and ctx.attribute("clip") is None and (full or not ctx.has(4))


def _stepwise(ctx: OpContext, cell: _Cell, x: Node, states: list[Node], directions: int) -> list[Node]:
    return unrolled(ctx, cell.kind, x, states, directions)


def _whole(ctx: OpContext, cell: _Cell, x: Node, states: list[Node], directions: int) -> list[Node]:
    backward = ctx.word("direction", "forward") == "reverse"
    hidden = ctx.integer("hidden_size")
    weights = [weight for side in range(directions) for weight in _weights(ctx, cell, side, hidden)]
    x = ctx.call("aten.flip", x, [0]) if backward else x
    state = states if cell.states == 2 else states[0]
    call = ctx.call(cell.op, x, state, weights, ctx.has(3), 1, 0.0, False, directions == 2, False)
    output, *last = ctx.items(call, 1 + cell.states)
    output = ctx.call("aten.flip", output, [0]) if backward else output
    if directions == 1:
        return [ctx.call("aten.unsqueeze", output, 1), *last]
    time, batch, _ = ctx.shape(output)
    apart = ctx.call("aten.reshape", output, [ctx.size(time), ctx.size(batch), 2, hidden])
    return [ctx.call("aten.permute", apart, [0, 2, 1, 3]), *last]


def _weights(ctx: OpContext, cell: _Cell, side: int, hidden: int) -> list[Node]:
    """Input weight, hidden weight, and the two biases of one direction."""
    rows = len(cell.gates) * hidden
    nodes = [_reordered(ctx, cell, 1, side, 0, "gates"), _reordered(ctx, cell, 2, side, 0, "gates")]
    if ctx.has(3):
        nodes += [_reordered(ctx, cell, 3, side, 0, "input"), _reordered(ctx, cell, 3, side, rows, "hidden")]
    return nodes


def _reordered(ctx: OpContext, cell: _Cell, index: int, side: int, start: int, variant: str) -> Node:
    """The rows from `start` on of one direction's weight or bias, gates in torch's order."""
    hidden = ctx.integer("hidden_size")
    rows = len(cell.gates) * hidden
    known = ctx.known(index)
    if known is not None:
        part = known[side][start : start + rows]
        blocks = part.reshape(len(cell.gates), hidden, *part.shape[1:])
        return ctx.reform(index, f"{variant}{side}", blocks[list(cell.gates)].reshape(part.shape).contiguous())
    whole = ctx.call("aten.select.int", ctx.tensor(index), 0, side)
    parts = [
        ctx.call("aten.slice.Tensor", whole, 0, start + gate * hidden, start + (gate + 1) * hidden, 1)
        for gate in cell.gates
    ]
    return parts[0] if len(parts) == 1 else ctx.call("aten.cat", parts, 0)


RECURRENT: dict[str, Operator] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
