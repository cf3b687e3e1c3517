"""Recurrent layers: the products with the inputs of all times at once, then one time after the other in a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from qcompiler.backends.c.emit.dense import rows_of
from qcompiler.backends.c.emit.nest import block, declared, looped, moved, nested
from qcompiler.backends.c.emit.products import rows_product
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.packing import blocked
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call
from qcompiler.ir.program import Node


@dataclass(frozen=True)
class Cell:
    """What a time step does: `A(n)` is gate n of the products with the inputs, `B(n)` with the state, biases included.

    Args:
        gates: of the cell.
        states: 1, or 2 with a memory beside the state.
        body: C statements that leave the new state in `next`.
    """

    gates: int
    states: int
    body: tuple[str, ...]


LSTM = Cell(
    4,
    2,
    (
        "const float gate = qc_sigmoid(A(0) + B(0)) * qc_tanh(A(2) + B(2));",
        "memory[k] = fmaf(qc_sigmoid(A(1) + B(1)), memory[k], gate);",
        "const float next = qc_sigmoid(A(3) + B(3)) * qc_tanh(memory[k]);",
    ),
)
GRU = Cell(
    3,
    1,
    (
        "const float fresh = qc_tanh(fmaf(qc_sigmoid(A(0) + B(0)), B(2), A(2)));",
        "const float next = fmaf(qc_sigmoid(A(1) + B(1)), state[k] - fresh, fresh);",
    ),
)
TANH = Cell(1, 1, ("const float next = qc_tanh(A(0) + B(0));",))
RELU = Cell(1, 1, ("const float next = qc_relu(A(0) + B(0));",))


@dataclass(frozen=True)
class _Side:
    """One direction of one layer: its weights, states, and where in the result it writes."""

    weights: Sequence[Node]
    states: Sequence[Value]
    out: Value
    backwards: bool


def recurrent(cell: Cell, generator: Generator, call: Call) -> Emitted:
    """Layers one after the other; the two directions of a layer side by side in its result."""
    layers, sides = call.integer("num_layers"), 2 if call.flag("bidirectional") else 1
    weights = [node for node in call.nodes("params") if node is not None]
    each = len(weights) // (layers * sides)
    if each != (4 if call.flag("has_biases") else 2):
        raise call.unsupported("projected states")
    value = generator.settled(generator.operand(call.node_at("input")))
    if len(value.shape) != 3:
        raise call.unsupported("a sequence without a batch axis", "add a batch axis of size 1")
    value = value.permuted((1, 0, 2)) if call.flag("batch_first") else value
    given = call.nodes("hx") if cell.states > 1 else [call.node_at("hx")]
    starts = [generator.operand(node) for node in given if node is not None]
    lasts = [generator.new(start.shape, "float") for start in starts]
    for last, start in zip(lasts, starts, strict=True):
        generator.loop(last, start)
    time, batch, hidden = *value.shape[:2], lasts[0].shape[-1]
    for layer in range(layers):
        out = generator.new((time, batch, sides * hidden), "float")
        for side in range(sides):
            number = layer * sides + side
            own = weights[number * each : (number + 1) * each]
            states = [last.sliced(0, number, 1) for last in lasts]
            part = _Side(own, states, out.sliced(2, side * hidden, hidden), backwards=side == 1)
            _run(generator, call, cell, value, part)
        value = out
    return [value.permuted((1, 0, 2)) if call.flag("batch_first") else value, *lasts]


def _run(generator: Generator, call: Call, cell: Cell, value: Value, side: _Side) -> None:
    time, batch, hidden = *value.shape[:2], side.out.shape[-1]
    width = cell.gates * hidden
    source = rows_of(generator, value)
    ahead, back = generator.new((time * batch, width), "float"), generator.new((batch, width), "float")
    biases = [generator.contiguous(generator.operand(node)) for node in side.weights[2:]] or [None, None]
    panels = [_packed(generator, call, node) for node in side.weights[:2]]
    rows_product(generator, source, panels[0], biases[0], ahead, time * batch, width)
    state = side.states[0].reshaped((batch, hidden)) or side.states[0]
    at = f"({time - 1} - t)" if side.backwards else "t"
    with looped(generator, [("t", time)]):
        rows_product(generator, state, panels[1], biases[1], back, batch, width)
        names = {"state": state} | ({"memory": side.states[1]} if cell.states > 1 else {})
        lines = [
            *declared(generator, side.out, {"b": back}),
            f"const float *a = {moved(generator, ahead, f'{at} * {batch * width}')};",
            *[f"float *{name} = {generator.pointer(value)};" for name, value in names.items()],
        ]
        body = [
            f"const ptrdiff_t k = i * {hidden} + j;",
            *[_indexed(line, width, hidden) for line in cell.body],
            "state[k] = next;",
            f"out[{at} * {side.out.strides[0]} + i * {side.out.strides[1]} + j] = next;",
        ]
        block(generator, [*lines, *nested([("i", batch), ("j", hidden)], body)])


def _indexed(line: str, width: int, hidden: int) -> str:
    for gate in range(width // hidden):
        place = f"[i * {width} + {gate * hidden} + j]"
        line = line.replace(f"A({gate})", f"a{place}").replace(f"B({gate})", f"b{place}")
    return line


def _packed(generator: Generator, call: Call, node: Node) -> Value:
    known = generator.program.constant(node)
    if known is None:
        raise call.unsupported("a weight that is not constant")
    matrix = known.detach().numpy().astype(np.float32)[:, None]
    return generator.constant(blocked(matrix, generator.layout("gemm_f32")), "float")


EMITTERS: dict[str, Emitter] = {
    "aten.lstm.input": partial(recurrent, LSTM),
    "aten.gru.input": partial(recurrent, GRU),
    "aten.rnn_tanh.input": partial(recurrent, TANH),
    "aten.rnn_relu.input": partial(recurrent, RELU),
}
