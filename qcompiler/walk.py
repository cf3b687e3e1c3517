"""Calibration batches on their way through a program: the float and the quantized stream of activations, in step.

Solvers that work from front to back stop the walk before an operator, look at what it will read in either stream, and
settle its weight; from then on the quantized stream sees that weight. Every operator is evaluated once per batch and
stream, and only values that somebody still reads are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import get_args

import torch
from torch import Tensor

from qcompiler.errors import InputError
from qcompiler.ir.interp import check_inputs, compute
from qcompiler.ir.program import Node, Program
from qcompiler.layout import channels_last
from qcompiler.stats import Batch, Stream, check_finite


class Walk:
    """A front that moves through a program at stage quantized.

    Args:
        program: must not change while the walk goes on.
        batches: flat inputs, one sequence per batch.
        streams: which activations to carry along.

    Raises:
        InputError: when there are no batches, or they do not fit the program.
    """

    def __init__(self, program: Program, batches: Sequence[Batch], streams: Sequence[Stream]) -> None:
        self.program = program
        self.streams = tuple(streams)
        self._order = [node for node in program.graph.nodes if node.op != "output"]
        self._index = {node: index for index, node in enumerate(program.graph.nodes)}
        self._constant = _constant_nodes(self._order)
        self._last: dict[Node, int] = {}
        for node in reversed(self._order):
            # A constant is computed when it is read, so that what it is made of must last as long as itself.
            uses = (self._last[user] if user in self._constant else self._index[user] for user in node.users)
            self._last[node] = max(uses, default=-1)
        self._front = 0
        self._settled: dict[Node, Tensor] = {}
        self._constants: dict[Stream, dict[Node, object]] = {stream: {} for stream in get_args(Stream)}
        self._batches: dict[Stream, list[dict[Node, object]]] = {stream: [] for stream in self.streams}
        for batch in batches:
            check_inputs(program, batch)
            fed = dict(zip(program.inputs, channels_last(batch), strict=True))
            for stream in self.streams:
                self._batches[stream].append(dict(fed))
        if not self._batches[self.streams[0]]:
            raise InputError(
                "weights are to be solved on real activations, and there is no calibration data",
                mend="pass calibration=... (real samples), or a recipe with the solver `nearest`, which needs none",
            )

    def to(self, stop: Node | None) -> None:
        """Evaluates every node that stands before `stop` in the program, all of them for None."""
        end = len(self._order) if stop is None else self._index[stop]
        chunk = self._between(stop)
        self._front = max(self._front, end)
        with torch.no_grad():
            for stream in self.streams:
                for values in self._batches[stream]:
                    self._run(chunk, values, stream)
            for constants in self._constants.values():
                for node in [node for node in constants if self._last[node] < self._front]:
                    del constants[node]
        for node in [node for node in self._settled if self._last[node] < self._front]:
            del self._settled[node]

    def live(self, batch: int, stream: Stream) -> dict[Node, object]:
        """The values of one batch that stand before the front and are read behind it, without the constant ones."""
        return dict(self._batches[stream][batch])

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return len(self._batches[self.streams[0]])

    def ahead(
        self,
        stop: Node | None,
        live: Mapping[Node, object],
        stream: Stream,
        given: Mapping[Node, Tensor] | None = None,
    ) -> dict[Node, object]:
        """Evaluates the nodes between the front and `stop` on values of the caller's and moves nothing.

        Args:
            stop: first node that is not evaluated, None for the end.
            live: as `live` gave them, or changed.
            stream: whether quantize and dequantize nodes act; also one that is not carried along.
            given: values that stand in for nodes, such as weights under training; gradients flow through.

        Returns:
            what is live before `stop`.
        """
        values = dict(live)
        self._run(self._between(stop), values, stream, given or {})
        return values

    def pending(self, stop: Node | None) -> list[Node]:
        """The nodes that `ahead` would evaluate up to `stop`, in order; constant ones are not among them."""
        return self._between(stop)

    def values(self, node: Node, stream: Stream) -> list[Tensor]:
        """What a value is in each batch; it must stand before the front and still have a reader behind it.

        Raises:
            InputError: when it holds NaN or infinity.
        """
        found = [self._read(node, values, stream) for values in self._batches[stream]]
        tensors = [value for value in found if isinstance(value, Tensor)]
        for value in tensors:
            if value.is_floating_point():
                check_finite(value, node.name)
        return tensors

    def settle(self, node: Node, value: Tensor) -> None:
        """Gives a node, such as a dequantized weight that was just solved, its value in the quantized stream."""
        self._settled[node] = value
        self._constants.get("quantized", {}).pop(node, None)

    def _between(self, stop: Node | None) -> list[Node]:
        end = len(self._order) if stop is None else self._index[stop]
        ahead = self._order[self._front : end]
        return [node for node in ahead if node.op != "placeholder" and node not in self._constant]

    def _run(
        self,
        nodes: Sequence[Node],
        values: dict[Node, object],
        stream: Stream,
        given: Mapping[Node, Tensor] = MappingProxyType({}),
    ) -> None:
        for node in nodes:
            values[node] = self._value(node, values, stream, given)
            for source in node.all_input_nodes:
                if self._last[source] <= self._index[node]:
                    values.pop(source, None)

    def _value(self, node: Node, values: Mapping[Node, object], stream: Stream, given: Mapping[Node, Tensor]) -> object:
        if stream == "quantized" and node in self._settled:
            return self._settled[node]
        sources = {source: self._read(source, values, stream, given) for source in node.all_input_nodes}
        return compute(self.program, node, sources, bypass_quantization=stream == "float")

    def _read(
        self,
        node: Node,
        values: Mapping[Node, object],
        stream: Stream,
        given: Mapping[Node, Tensor] = MappingProxyType({}),
    ) -> object:
        if node in given:
            return given[node]
        if node not in self._constant:
            return values[node]
        constants = self._constants[stream]
        if node not in constants:
            constants[node] = self._value(node, constants, stream, {})
        return constants[node]


def _constant_nodes(order: Sequence[Node]) -> set[Node]:
    """Nodes that depend on no input: computed when somebody reads them, once for all batches."""
    constant: set[Node] = set()
    for node in order:
        if node.op != "placeholder" and all(source in constant for source in node.all_input_nodes):
            constant.add(node)
    return constant
