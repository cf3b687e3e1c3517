"""What follows a layer and its kernel does before a result leaves registers: a low-rank branch, an activation, a
residual, a clamp, in this order and each where it is there.

It is found by dataflow: every value between the layer and the end of the chain has one reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from qcompiler.backends.cuda.branches import branch_of
from qcompiler.backends.cuda.fronts import QUANTIZERS
from qcompiler.backends.cuda.layer import Argument, Element, Input, Port
from qcompiler.ir.program import Node, Program

_ACTIVATIONS = {"relu": 1, "silu": 2, "gelu": 3, "gelu by tanh": 4}
"""The numbers that the argument `activation` takes."""
_MOST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Taking:
    """What the kernel of a layer can take in.

    Args:
        factors: element of the factors of a low-rank branch; None where it takes none.
        clamps: whether it has limits behind a residual.
    """

    factors: Element | None
    clamps: bool


@dataclass(frozen=True)
class Beside:
    """What a layer does beside its product.

    Args:
        end: the node whose value the layer yields.
        sources: that it reads.
        ports: for them.
        weights: by name.
        arguments: of its kernel.
        meaning: for people.
    """

    end: Node
    sources: Sequence[Node] = ()
    ports: tuple[Port, ...] = ()
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    meaning: str = ""


def beside(program: Program, node: Node, taking: Taking, compute: Element, port: int) -> Beside:
    """What the kernel of a layer does beside its product.

    Args:
        program: lowered.
        node: the layer's call; of one that yields codes nothing that follows is taken.
        taking: what its kernel can.
        compute: element of reals between layers.
        port: the first of the layer's inputs that is free.
    """
    if program.tensor_type(node).spec is not None:
        return Beside(node)
    found = Beside(node) if taking.factors is None else _branch(program, Beside(node), taking.factors, port)
    found = _activation(program, found)
    found = _residual(program, found, compute, port + len(found.ports))
    return _clamp(program, found) if taking.clamps else found


def _branch(program: Program, before: Beside, element: Element, port: int) -> Beside:
    branch = branch_of(program, before.end)
    if branch is None:
        return before
    ports, weights = (branch.port(element),), branch.weights(element)
    return Beside(branch.joined, [branch.low], ports, weights, branch.arguments(port), f" + rank {ports[0].width}")


def _activation(program: Program, before: Beside) -> Beside:
    """Behind an activation that the kernel has, but of a gate of codes: the kernel that finds those takes it."""
    reader = _reader(program, before.end)
    name = "" if reader is None else _name(program, reader)
    if reader is None or not name or _gates_codes(program, reader):
        return before
    return _longer(before, reader, {"activation": _ACTIVATIONS[name]}, f", {name}")


def _residual(program: Program, before: Beside, compute: Element, port: int) -> Beside:
    """Behind a sum with another tensor of the same shape."""
    reader = _reader(program, before.end)
    if reader is None or program.op(reader) != "aten.add.Tensor":
        return before
    bound = program.bind(reader)
    other = bound["other"] if bound["self"] is before.end else bound["self"]
    if not isinstance(other, Node) or other is before.end or bound["alpha"] != 1:
        return before
    if program.type(other) != program.type(before.end):
        return before
    width = program.shape(other)[-1]
    if not isinstance(width, int):
        return before
    longer = _longer(before, reader, {"residual": Input(input=port)}, " + residual")
    ports = (*before.ports, Port(width=width, element=compute))
    return replace(longer, sources=[*before.sources, other], ports=ports)


def _clamp(program: Program, before: Beside) -> Beside:
    """Behind limits that are numbers."""
    reader = _reader(program, before.end)
    op = "" if reader is None else program.op(reader)
    if reader is None or op not in ("aten.relu", "aten.clamp"):
        return before
    bound = program.bind(reader)
    low, high = (0.0, None) if op == "aten.relu" else (bound["min"], bound["max"])
    if not isinstance(low, int | float | None) or not isinstance(high, int | float | None):
        return before
    least, most = -_MOST if low is None else float(low), _MOST if high is None else float(high)
    name = "relu" if op == "aten.relu" else f"between {least:g} and {most:g}"
    return _longer(before, reader, {"clamped": 1, "least": least, "most": most}, f", {name}")


def _longer(before: Beside, end: Node, arguments: Mapping[str, Argument], meaning: str) -> Beside:
    return replace(before, end=end, arguments={**before.arguments, **arguments}, meaning=before.meaning + meaning)


def _reader(program: Program, node: Node) -> Node | None:
    """The only reader of a value, when it makes one of the same type from it."""
    readers = list(node.users)
    if len(readers) != 1 or readers[0].op != "call_function":
        return None
    return readers[0] if program.type(readers[0]) == program.type(node) else None


def _name(program: Program, node: Node) -> str:
    """The activation that a node is; empty when kernels have none like it."""
    op = program.op(node)
    if op == "aten.gelu":
        return "gelu by tanh" if program.bind(node)["approximate"] == "tanh" else "gelu"
    return op.removeprefix("aten.") if op in ("aten.relu", "aten.silu") else ""


def _gates_codes(program: Program, node: Node) -> bool:
    """Whether an activation is multiplied by something else, and the product is quantized at once."""
    (product, *others) = list(node.users) or [node]
    quantized = all(user.target in QUANTIZERS for user in product.users)
    return not others and quantized and program.op(product) == "aten.mul.Tensor"
