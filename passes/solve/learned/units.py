"""What is reconstructed at a time: single layers, or segments between single-value cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.analysis.segments import segments
from qcompiler.analysis.weights import spatial_axes
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType
from qcompiler.passes.solve.front_to_back import Reader

_ACTIVATIONS = (
    "aten.relu",
    "aten.relu6",
    "aten.hardtanh",
    "aten.clamp",
    "aten.clamp_min",
    "aten.leaky_relu",
    "aten.gelu",
    "aten.silu",
    "aten.elu",
    "aten.hardswish",
    "aten.hardsigmoid",
    "aten.sigmoid",
    "aten.tanh",
)


@dataclass(frozen=True)
class Unit:
    """A stretch of a program whose weights are learned together.

    Args:
        readers: operators with weights in it, in order.
        start: its first node.
        stop: the first node behind it, None at the end.
        results: its real values that depend on these weights and are read behind it.
    """

    readers: tuple[Reader, ...]
    start: Node
    stop: Node | None
    results: tuple[Node, ...]


def learnable(program: Program, readers: Sequence[Reader]) -> list[Reader]:
    """The readers that multiply by their weight: linears and convolutions."""
    return [reader for reader in readers if _multiplies(program, reader)]


def _multiplies(program: Program, reader: Reader) -> bool:
    weight = program.bind(reader.node).get("weight")
    if spatial_axes(program, reader.node) is None or not isinstance(weight, Node):
        return False
    return weight.target is ops.dequantize and weight.all_input_nodes[0] in reader.site.quantizers


def layer_units(program: Program, readers: Sequence[Reader]) -> list[Unit]:
    """Each layer alone, from the quantization of its input where nobody else reads that, to its activation."""
    order = list(program.graph.nodes)
    index = {node: position for position, node in enumerate(order)}
    return [_layer_unit(program, reader, order, index, {other.node for other in readers}) for reader in readers]


def segment_units(program: Program, readers: Sequence[Reader]) -> list[Unit]:
    """Residual blocks and lone layers, as the analysis cuts them."""
    by_node = {reader.node: reader for reader in readers}
    found = []
    for segment in segments(program, list(by_node)):
        made = _made_of(segment.sites)
        results = tuple(node for node in segment.results if node in made and _is_real(program, node))
        found.append(Unit(tuple(by_node[site] for site in segment.sites), segment.start, segment.stop, results))
    return found


def _made_of(sites: Sequence[Node]) -> set[Node]:
    """Everything that depends on one of the sites, they included."""
    made, open_ends = set(sites), list(sites)
    while open_ends:
        fresh = [user for user in open_ends.pop().users if user not in made]
        made.update(fresh)
        open_ends += fresh
    return made


def _is_real(program: Program, node: Node) -> bool:
    type_ = program.type(node)
    return isinstance(type_, TensorType) and type_.is_float


def channel_axis(program: Program, unit: Unit) -> int:
    """Axis of the channels in the unit's results: that of its last layer."""
    return 1 if spatial_axes(program, unit.readers[-1].node) else -1


def _layer_unit(
    program: Program, reader: Reader, order: Sequence[Node], index: dict[Node, int], layers: set[Node]
) -> Unit:
    last = reader.node
    users = list(last.users)
    if len(users) == 1 and program.op(users[0]) in _ACTIVATIONS:
        between = order[index[last] + 1 : index[users[0]]]
        last = users[0] if not layers.intersection(between) else last
    stop = order[index[last] + 1]
    return Unit((reader,), _input_start(program, reader), None if stop.op == "output" else stop, (last,))


def _input_start(program: Program, reader: Reader) -> Node:
    source = program.bind(reader.node)["input"]
    if isinstance(source, Node) and source.target is ops.dequantize and len(source.users) == 1:
        codes = source.all_input_nodes[0]
        if codes.target is ops.quantize and len(codes.users) == 1:
            return codes
    return reader.node
