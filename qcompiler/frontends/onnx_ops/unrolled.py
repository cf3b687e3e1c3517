"""Recurrent layers in forms that torch lacks, one time step after the other.

Peepholes, clipping, other activations, coupled gates, a reset gate before the product, sequences of different lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from qcompiler.frontends.onnx_ops.context import OpContext
from qcompiler.ir.program import Node

LONGEST = 1024
Kind = Literal["LSTM", "GRU", "RNN"]
_GATES: dict[Kind, int] = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS: dict[Kind, tuple[str, ...]] = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
_PLAIN = {"Relu": "relu", "Sigmoid": "sigmoid", "Softplus": "softplus", "Tanh": "tanh"}


@dataclass(frozen=True)
class Direction:
    """One direction of a layer.

    Args:
        ctx: the node.
        kind: of cell.
        projected: inputs times input weights plus all biases that may be added there, `[time, batch, gates * hidden]`.
        recurrent: hidden weights of each gate, `[hidden, hidden]`, ready to stand right of the state.
        hidden_bias: of a GRU's last gate where the reset gate multiplies it, else None.
        peepholes: of the gates i, o, f, None without.
        activations: of the gates.
    """

    ctx: OpContext
    kind: Kind
    projected: Node
    recurrent: list[Node]
    hidden_bias: Node | None
    peepholes: list[Node] | None
    activations: Sequence[Callable[[Node], Node]]

    def step(self, time: int, hidden: Node, cell: Node | None) -> tuple[Node, Node | None]:
        """The next state."""
        ctx = self.ctx
        row = ctx.call("aten.select.int", self.projected, 0, time)
        size = ctx.static(ctx.shape(row)[1], "the gates") // _GATES[self.kind]
        parts = [
            ctx.call("aten.slice.Tensor", row, 1, gate * size, (gate + 1) * size, 1)
            for gate in range(_GATES[self.kind])
        ]
        if self.kind == "LSTM" and cell is not None:
            return self._lstm(parts, hidden, cell)
        return (self._gru if self.kind == "GRU" else self._rnn)(parts, hidden), None

    def _sum(self, part: Node, state: Node, gate: int, peephole: Node | None = None, cell: Node | None = None) -> Node:
        ctx = self.ctx
        total = ctx.call("aten.add.Tensor", part, ctx.call("aten.matmul", state, self.recurrent[gate]))
        if peephole is not None and cell is not None:
            total = ctx.call("aten.add.Tensor", total, ctx.call("aten.mul.Tensor", peephole, cell))
        return self._clipped(total)

    def _clipped(self, total: Node) -> Node:
        limit = self.ctx.attribute("clip")
        return self.ctx.call("aten.clamp", total, -limit.as_float(), limit.as_float()) if limit else total

    def _lstm(self, parts: list[Node], hidden: Node, cell: Node) -> tuple[Node, Node]:
        ctx = self.ctx
        squash, candidate, out = self.activations
        holes: Sequence[Node | None] = self.peepholes or [None, None, None]
        enter = squash(self._sum(parts[0], hidden, 0, holes[0], cell))
        if ctx.integer("input_forget", 0):
            forget = ctx.call("aten.add.Tensor", ctx.call("aten.neg", enter), 1.0)
        else:
            forget = squash(self._sum(parts[2], hidden, 2, holes[2], cell))
        new = candidate(self._sum(parts[3], hidden, 3))
        kept, added = ctx.call("aten.mul.Tensor", forget, cell), ctx.call("aten.mul.Tensor", enter, new)
        state = ctx.call("aten.add.Tensor", kept, added)
        leave = squash(self._sum(parts[1], hidden, 1, holes[1], state))
        return ctx.call("aten.mul.Tensor", leave, out(state)), state

    def _gru(self, parts: list[Node], hidden: Node) -> Node:
        ctx = self.ctx
        squash, candidate = self.activations
        update, reset = squash(self._sum(parts[0], hidden, 0)), squash(self._sum(parts[1], hidden, 1))
        if ctx.integer("linear_before_reset", 0):
            product = ctx.call("aten.matmul", hidden, self.recurrent[2])
            if self.hidden_bias is not None:
                product = ctx.call("aten.add.Tensor", product, self.hidden_bias)
            total = ctx.call("aten.add.Tensor", parts[2], ctx.call("aten.mul.Tensor", reset, product))
            new = candidate(self._clipped(total))
        else:
            new = candidate(self._sum(parts[2], ctx.call("aten.mul.Tensor", reset, hidden), 2))
        # (1 - z) * new + z * old
        change = ctx.call("aten.mul.Tensor", update, ctx.call("aten.sub.Tensor", hidden, new))
        return ctx.call("aten.add.Tensor", new, change)

    def _rnn(self, parts: list[Node], hidden: Node) -> Node:
        return self.activations[0](self._sum(parts[0], hidden, 0))


def unrolled(ctx: OpContext, kind: Kind, x: Node, states: list[Node], directions: int) -> list[Node]:
    """Outputs `[time, directions, batch, hidden]` and the last states `[directions, batch, hidden]`.

    Args:
        ctx: the node.
        kind: of cell.
        x: `[time, batch, inputs]`.
        states: initial hidden (and cell) state, `[directions, batch, hidden]`.
        directions: 1 or 2.

    Raises:
        UnsupportedError: for a time axis that is symbolic or longer than 1024.
    """
    time = ctx.static(ctx.shape(x)[0], "the time axis of a recurrent layer in this form")
    if time > LONGEST:
        raise ctx.refuse(f"{time} steps of a recurrent layer in this form are too many")
    backward = ctx.word("direction", "forward") == "reverse"
    outputs, last = [], []
    for side in range(directions):
        order = range(time - 1, -1, -1) if side == 1 or backward else range(time)
        sequence, final = _run(
            ctx, _direction(ctx, kind, x, side), order, [_side(ctx, state, side) for state in states]
        )
        outputs.append(ctx.call("aten.unsqueeze", ctx.call("aten.cat", sequence, 0), 1))
        last.append([ctx.call("aten.unsqueeze", state, 0) for state in final])
    joined = outputs[0] if directions == 1 else ctx.call("aten.cat", outputs, 1)
    ends = [list(parts) for parts in zip(*last, strict=True)]
    return [joined, *(parts[0] if directions == 1 else ctx.call("aten.cat", parts, 0) for parts in ends)]


def _run(ctx: OpContext, direction: Direction, order: range, start: list[Node]) -> tuple[list[Node], list[Node]]:
    state = start
    lengths = ctx.optional(4)
    outputs: dict[int, Node] = {}
    for time in order:
        hidden, cell = direction.step(time, state[0], state[1] if len(state) > 1 else None)
        new = [hidden] if cell is None else [hidden, cell]
        shown = hidden
        if lengths is not None:
            alive = ctx.call("aten.unsqueeze", ctx.call("aten.gt.Scalar", lengths, time), 1)
            new = [ctx.call("aten.where.self", alive, after, before) for after, before in zip(new, state, strict=True)]
            shown = ctx.cast(ctx.call("aten.where.ScalarOther", alive, hidden, 0.0), ctx.dtype(hidden))
        state = new
        outputs[time] = ctx.call("aten.unsqueeze", shown, 0)
    return [outputs[time] for time in sorted(outputs)], state


def _side(ctx: OpContext, node: Node, side: int) -> Node:
    return ctx.call("aten.select.int", node, 0, side)


def _direction(ctx: OpContext, kind: Kind, x: Node, side: int) -> Direction:
    hidden = ctx.integer("hidden_size")
    count = _GATES[kind]
    weight = ctx.call("aten.permute", _side(ctx, ctx.tensor(1), side), [1, 0])
    projected = ctx.call("aten.matmul", x, weight)
    recurrent = _side(ctx, ctx.tensor(2), side)
    blocks = [
        ctx.call(
            "aten.permute", ctx.call("aten.slice.Tensor", recurrent, 0, gate * hidden, (gate + 1) * hidden, 1), [1, 0]
        )
        for gate in range(count)
    ]
    hidden_bias: Node | None = None
    if ctx.has(3):
        both = _side(ctx, ctx.tensor(3), side)
        first = ctx.call("aten.slice.Tensor", both, 0, 0, count * hidden, 1)
        second = ctx.call("aten.slice.Tensor", both, 0, count * hidden, 2 * count * hidden, 1)
        if kind == "GRU" and ctx.integer("linear_before_reset", 0):
            hidden_bias = ctx.call("aten.slice.Tensor", second, 0, 2 * hidden, 3 * hidden, 1)
            head = ctx.call("aten.slice.Tensor", second, 0, 0, 2 * hidden, 1)
            second = ctx.call("aten.constant_pad_nd", head, [0, hidden], 0.0)
        projected = ctx.call("aten.add.Tensor", projected, ctx.call("aten.add.Tensor", first, second))
    holes: list[Node] | None = None
    if kind == "LSTM" and ctx.has(7):
        row = _side(ctx, ctx.tensor(7), side)
        holes = [ctx.call("aten.slice.Tensor", row, 0, gate * hidden, (gate + 1) * hidden, 1) for gate in range(3)]
    return Direction(ctx, kind, projected, blocks, hidden_bias, holes, _activations(ctx, kind, side))


def _activations(ctx: OpContext, kind: Kind, side: int) -> list[Callable[[Node], Node]]:
    defaults = _DEFAULTS[kind]
    attribute = ctx.attribute("activations")
    given = list(attribute.as_strings()) if attribute else []
    names = given[side * len(defaults) : (side + 1) * len(defaults)] or list(defaults)
    if ctx.reals("activation_alpha") or ctx.reals("activation_beta"):
        raise ctx.refuse("activations with parameters are not supported")
    unknown = [name for name in names if name not in _PLAIN]
    if unknown:
        raise ctx.refuse(f"the activation {unknown[0]} is not supported")

    def applied(name: str) -> Callable[[Node], Node]:
        return lambda node: ctx.call(f"aten.{_PLAIN[name]}", node)

    return [applied(name) for name in names]


def zero_state(ctx: OpContext, x: Node, hidden: int, directions: int) -> Node:
    """The state before the first step when none is given: `[directions, batch, hidden]`."""
    batch = ctx.shape(x)[1]
    if isinstance(batch, int):
        zeros = torch.zeros(directions, batch, hidden, dtype=ctx.dtype(x))
        return ctx.fixed(f"{ctx.name}_state", zeros)
    sizes = [directions, ctx.size(batch), hidden]
    return ctx.call("aten.full", sizes, 0.0, kwargs={"dtype": ctx.dtype(x)})
