"""Statistics of values, requested by passes and answered for all of them in one streaming sweep.

A pass names a node and a reducer. The runner evaluates the calibration batches once and feeds each value to its
reducers as it is computed; nothing else is kept, so memory does not grow with the number of samples.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from qcompiler.errors import InputError
from qcompiler.ir.fill import digest_of
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node, Program
from qcompiler.layout import channels_last

Batch = Sequence[torch.Tensor]
Stream = Literal["float", "quantized"]


class Accumulator(Protocol):
    """The running state of one reducer for one value."""

    def update(self, value: torch.Tensor) -> None:
        """Takes in the value of one batch."""
        ...

    def result(self) -> torch.Tensor:
        """What the reducer found."""
        ...


class Reducer(Protocol):
    """What a pass wants to know of a value: a hashable description that starts accumulators."""

    def start(self) -> Accumulator:
        """A fresh accumulator."""
        ...


@dataclass(frozen=True)
class Request:
    """One wish.

    Args:
        node: name of the value's node.
        reducer: what to compute of it.
        stream: `float` evaluates with quantize/dequantize switched off, `quantized` with them on.
    """

    node: str
    reducer: Reducer
    stream: Stream = "float"


@dataclass(frozen=True)
class Stats:
    """Answers by request."""

    answers: Mapping[Request, torch.Tensor] = field(default_factory=dict)
    samples: int = 0

    def get(self, node: str, reducer: Reducer, stream: Stream = "float") -> torch.Tensor:
        """The answer to a request.

        Raises:
            InputError: when no calibration data was given.
        """
        request = Request(node, reducer, stream)
        if request not in self.answers:
            raise InputError(
                f"the range of '%{node}' must be known ahead of time, and there is no calibration data for it",
                mend="pass calibration=... (real samples), or a recipe with dynamic activations such as w8a8_dynamic",
            )
        return self.answers[request]

    def digest(self) -> str:
        """First 16 hex digits of a SHA-256 over all answers; empty when nothing was asked."""
        if not self.answers:
            return ""
        found = [f"{request} {digest_of(answer)}" for request, answer in self.answers.items()]
        return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]


def collect(
    program: Program,
    requests: Iterable[Request],
    batches: Iterable[Batch],
    advance: Callable[[int], None] = lambda samples: None,
) -> Stats:
    """Answers all requests in one sweep over the batches.

    Args:
        program: any stage before lowered.
        requests: what to compute; requests for nodes that the program lacks are an error of the pass.
        batches: flat inputs of the program, one sequence per batch.
        advance: told the number of batches done after each.

    Raises:
        InputError: when a value holds NaN or infinity (names the node).
    """
    wanted = list(dict.fromkeys(requests))
    if not wanted:
        return Stats()
    by_stream: dict[Stream, dict[str, list[tuple[Request, Accumulator]]]] = {}
    for request in wanted:
        per_node = by_stream.setdefault(request.stream, defaultdict(list))
        per_node[request.node].append((request, request.reducer.start()))
    count = 0
    with torch.no_grad():
        for count, batch in enumerate(batches, 1):
            for stream, per_node in by_stream.items():
                _sweep(program, stream, per_node, batch)
            advance(count)
    if not count:
        return Stats()
    found = {
        request: accumulator.result()
        for per_node in by_stream.values()
        for pairs in per_node.values()
        for request, accumulator in pairs
    }
    return Stats(found, count)


def _sweep(
    program: Program, stream: Stream, per_node: Mapping[str, list[tuple[Request, Accumulator]]], batch: Batch
) -> None:
    def observe(node: Node, value: torch.Tensor) -> None:
        check_finite(value, node.name)
        for _, accumulator in per_node[node.name]:
            accumulator.update(value)

    evaluate(
        program,
        channels_last(batch),
        observe=observe,
        observed=frozenset(per_node),
        bypass_quantization=stream == "float",
    )


def check_finite(value: torch.Tensor, node: str) -> None:
    """Refuses NaN and infinity, which would poison every statistic.

    Raises:
        InputError: naming the node.
    """
    # One sum settles almost every case: it is finite only if all its terms are.
    if not (bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all())):
        raise InputError(
            f"the value of '%{node}' holds NaN or infinity on the calibration data",
            mend="look for broken samples or an overflow in the model; `qcompiler dump` shows the node",
        )
