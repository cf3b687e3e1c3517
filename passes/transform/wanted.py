"""Which inputs will be quantized, and who reads them with which weights."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from torch import Tensor

from qcompiler.analysis.weights import TRANSPOSED, spatial_axes
from qcompiler.ir.fill import is_absent
from qcompiler.ir.program import Node, Program
from qcompiler.plan import Assignment
from qcompiler.spec import QuantSpec


@dataclass(frozen=True, eq=False)
class Reading:
    """A layer with a constant weight and the value that it reads.

    Args:
        node: the layer.
        source: the value.
        axis: of the value: its channels.
        weight_axis: of the weight: the channels that it reads.
        groups: of a convolution: the layer reads its channels in that many shares, each with rows of its own.
        input_spec: of the value; None when it stays float.
        weight_spec: of the weight; None when it stays float.
    """

    node: Node
    source: Node
    axis: int
    weight_axis: int
    groups: int
    input_spec: QuantSpec | None
    weight_spec: QuantSpec | None

    @property
    def key(self) -> tuple[Node, int]:
        """The axis that it reads."""
        return self.source, self.axis


def readings(program: Program) -> list[Reading]:
    """Every linear layer and convolution with a constant weight, in execution order, whatever it is assigned."""
    found = [reading_of(program, node) for node in program.nodes]
    return [reading for reading in found if reading is not None]


def wanted(program: Program) -> list[Reading]:
    """The layers whose input will be quantized; all of them when no operator of the program has an assignment."""
    found = readings(program)
    if not any(isinstance(node.meta.get("assignment"), Assignment) for node in program.nodes):
        return found
    return [reading for reading in found if reading.input_spec is not None]


def by_source(found: list[Reading]) -> list[list[Reading]]:
    """Layers that read the same axis of the same value together, in order of first reading."""
    shared: dict[tuple[Node, int], list[Reading]] = defaultdict(list)
    for reading in found:
        shared[reading.key].append(reading)
    return list(shared.values())


def reading_of(program: Program, node: Node) -> Reading | None:
    """What a layer reads; None for any other operator, and for computed weights."""
    spatial = spatial_axes(program, node)
    if spatial is None:
        return None
    bound = program.bind(node)
    source, weight, groups = bound["input"], bound["weight"], bound.get("groups", 1)
    if not isinstance(source, Node) or not isinstance(weight, Node) or weight.op != "get_attr":
        return None
    axis = program.tensor_type(source).rank - 1 - spatial
    weight_axis = 0 if program.op(node) in TRANSPOSED else 1
    assigned = node.meta.get("assignment")
    specs = assigned.inputs if isinstance(assigned, Assignment) else {}
    count = groups if isinstance(groups, int) else 1
    return Reading(node, source, axis, weight_axis, count, specs.get("input"), specs.get("weight"))


def weightless(program: Program) -> bool:
    """Whether the program was traced without its weights, so that there is nothing to fold into."""
    return any(is_absent(value) for value in program.params.values())


def weight_of(program: Program, reading: Reading) -> Tensor:
    """The weight in float64."""
    weight = program.bind(reading.node)["weight"]
    return program.exact(weight)  # pyright: ignore[reportArgumentType]


def channels(program: Program, reading: Reading) -> int | None:
    """How many channels the layer reads; None where their number is free."""
    size = program.shape(reading.source)[reading.axis]
    return size if isinstance(size, int) else None


def offset(weight: Tensor, layer: Reading, bias: Tensor) -> Tensor:
    """What a linear layer or a convolution without padding makes of one vector everywhere: [channels] -> [outputs]."""
    parts = weight.unflatten(0, (layer.groups, -1)).movedim(2, -1)
    return (parts * bias.reshape(layer.groups, *[1] * (parts.dim() - 2), -1)).flatten(2).sum(-1).flatten()
