"""Low-rank branches beside quantized layers, which their kernels can add before a result leaves registers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.backends.cuda.layer import Argument, Element, Input, Port, Weight
from qcompiler.ir.program import Node, Program

_RANKS = 16
"""Kernels multiply so many columns of a branch at once."""


@dataclass(frozen=True)
class Branch:
    """What is added to a layer: `low up^T`.

    Args:
        joined: the sum, which everybody reads.
        low: [..., rank], the narrow activations.
        up: [N, rank].
    """

    joined: Node
    low: Node
    up: Tensor

    def port(self, element: Element) -> Port:
        """The input that it needs."""
        return Port(width=self.up.shape[1], element=element)

    def weights(self, element: Element) -> dict[str, Tensor]:
        """What the kernel reads besides activations, by the names of its arguments."""
        return {"up": self.up.to(getattr(torch, element)).contiguous()}

    def arguments(self, port: int) -> dict[str, Argument]:
        """Of the kernel, beside those of any product; `low` is the layer's input of that number."""
        return {"low": Input(input=port), "up": Weight(weight="up"), "rank": self.up.shape[1]}


def branch_of(program: Program, node: Node) -> Branch | None:
    """The branch beside a layer, when its sum with the layer is all that anybody reads of them."""
    readers = list(node.users)
    if len(readers) != 1 or program.op(readers[0]) != "aten.add.Tensor":
        return None
    (joined,) = readers
    bound = program.bind(joined)
    beside = bound["other"] if bound["self"] is node else bound["self"]
    if not isinstance(beside, Node) or beside is node or bound["alpha"] != 1 or len(beside.users) != 1:
        return None
    if program.op(beside) != "aten.linear" or program.shape(beside) != program.shape(node):
        return None
    factors = program.bind(beside)
    low, up = factors["input"], _constant(program, factors["weight"])
    if factors["bias"] is not None or not isinstance(low, Node) or up is None or up.shape[1] % _RANKS:
        return None
    return Branch(joined, low, up)


def _constant(program: Program, value: object) -> Tensor | None:
    """A parameter, perhaps stored in fewer bits than it is used in."""
    copied = isinstance(value, Node) and program.op(value) == "aten._to_copy"
    found = program.constant(value.all_input_nodes[0] if copied and isinstance(value, Node) else value)
    return None if found is None else found.detach()
