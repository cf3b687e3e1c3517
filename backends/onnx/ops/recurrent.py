"""Recurrent layers, one ONNX node per layer, with the gates put in the order of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Attribute, Context, Emitted, Emitter
from qcompiler.ir.program import Node


@dataclass(frozen=True)
class _Cell:
    """ONNX name, where each ONNX gate stands among torch's, number of states, attributes."""

    kind: str
    gates: tuple[int, ...]
    states: int
    attributes: tuple[tuple[str, Attribute], ...] = ()


_CELLS = {
    "aten.lstm.input": _Cell("LSTM", (0, 3, 1, 2), 2),  # torch i, f, c, o
    "aten.gru.input": _Cell("GRU", (1, 0, 2), 1, (("linear_before_reset", 1),)),  # torch r, z, h
    "aten.rnn_tanh.input": _Cell("RNN", (0,), 1, (("activations", ("Tanh",)),)),
    "aten.rnn_relu.input": _Cell("RNN", (0,), 1, (("activations", ("Relu",)),)),
}


def _recurrent(cell: _Cell) -> Emitter:
    def emit(context: Context, call: Call) -> Emitted:
        if call.number("dropout", 0) and call.flag("train"):
            raise call.unsupported("dropout between layers", "put the model in eval mode")
        layers, directions = call.integer("num_layers"), 2 if call.flag("bidirectional") else 1
        if len(call.shape("input")) != 3:
            raise call.unsupported("a sequence without a batch axis", "add a batch axis of size 1")
        value = context.value(call.node_at("input"))
        if call.flag("batch_first"):
            value = context.op("Transpose", [value], {"perm": [1, 0, 2]})
        start = [context.value(node) for node in _states(call, cell)]
        weights = [context.value(node) for node in call.nodes("params") if node is not None]
        each = len(weights) // (layers * directions)
        ends: list[list[ir.Value]] = []
        for layer in range(layers):
            own = weights[layer * directions * each : (layer + 1) * directions * each]
            rows = (layer * directions, (layer + 1) * directions)
            states = [state if layers == 1 else _rows(context, state, *rows) for state in start]
            sides = [own[side * each : (side + 1) * each] for side in range(directions)]
            value, *last = _layer(context, call, cell, value, states, sides)
            ends.append(last)
        if call.flag("batch_first"):
            value = context.op("Transpose", [value], {"perm": [1, 0, 2]})
        return [value, *(_joined(context, list(parts), 0) for parts in zip(*ends, strict=True))]

    return emit


def _states(call: Call, cell: _Cell) -> list[Node]:
    if cell.states == 1:
        return [call.node_at("hx")]
    return [node for node in call.nodes("hx") if node is not None]


def _layer(
    context: Context, call: Call, cell: _Cell, value: ir.Value, states: list[ir.Value], sides: Sequence[list[ir.Value]]
) -> list[ir.Value]:
    """`[time, batch, directions * hidden]` and the last states of one layer."""
    zero = context.ints([0])
    parts = [[_gates(context, cell, weight) for weight in side] for side in sides]
    weight, recurrent = (
        _joined(context, [context.op("Unsqueeze", [part[index], zero]) for part in parts], 0) for index in (0, 1)
    )
    bias: ir.Value | None = None
    if len(sides[0]) >= 4:
        both = [context.op("Concat", [part[2], part[3]], {"axis": 0}) for part in parts]
        bias = _joined(context, [context.op("Unsqueeze", [row, zero]) for row in both], 0)
    hidden = call.types[1]
    width = hidden.shape[-1] if hidden is not None else None
    if not isinstance(width, int):
        raise call.unsupported("a symbolic number of hidden units")
    attributes: dict[str, Attribute] = {"hidden_size": width, **_repeated(cell, len(sides))}
    attributes["direction"] = "bidirectional" if len(sides) == 2 else "forward"
    output, *last = context.ops(
        cell.kind, [value, weight, recurrent, bias, None, *states], attributes, outputs=1 + cell.states
    )
    if len(sides) == 1:
        return [context.op("Squeeze", [output, context.ints([1])]), *last]
    apart = context.op("Transpose", [output], {"perm": [0, 2, 1, 3]})
    return [context.op("Reshape", [apart, context.ints([0, 0, 2 * width])]), *last]


def _repeated(cell: _Cell, directions: int) -> dict[str, Attribute]:
    """Attributes of the cell; lists are given once per direction."""
    return {
        name: [str(item) for item in value] * directions if isinstance(value, tuple) else value
        for name, value in cell.attributes
    }


def _gates(context: Context, cell: _Cell, weight: ir.Value) -> ir.Value:
    """The rows of a weight or bias, gates in the order of ONNX."""
    if len(cell.gates) == 1:
        return weight
    parts = context.ops("Split", [weight], {"axis": 0, "num_outputs": len(cell.gates)}, outputs=len(cell.gates))
    return context.op("Concat", [parts[gate] for gate in cell.gates], {"axis": 0})


def _rows(context: Context, state: ir.Value, start: int, end: int) -> ir.Value:
    return context.op("Slice", [state, context.ints([start]), context.ints([end]), context.ints([0])])


def _joined(context: Context, parts: list[ir.Value], axis: int) -> ir.Value:
    return parts[0] if len(parts) == 1 else context.op("Concat", parts, {"axis": axis})


EMITTERS: dict[str, Emitter] = {name: _recurrent(cell) for name, cell in _CELLS.items()}
