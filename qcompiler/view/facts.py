"""What is known of each node of a program, as plain data: the base of every format but the text."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from qcompiler.ir import ops
from qcompiler.ir.nodes import all_nodes
from qcompiler.ir.program import Node, Program
from qcompiler.ir.region import Region
from qcompiler.ir.text import print_fill, print_literal, print_type
from qcompiler.ir.types import TupleType
from qcompiler.spec import QuantSpec

Columns = Mapping[str, Mapping[str, Mapping[str, object]]]
"""Node name to column to what it says."""


@dataclass(frozen=True)
class Edge:
    """Where an operand comes from.

    Args:
        source: name of the node.
        output: which of its results.
        argument: the name under which the operator takes it.
    """

    source: str
    output: int
    argument: str


@dataclass(frozen=True)
class NodeFacts:
    """One input, parameter or operator.

    Args:
        name: of the node.
        op: the operator, `input` or `param`.
        types: of its results.
        module: source module.
        step: the pass that made it.
        edges: its operands.
        attributes: its other arguments as text; the value of a parameter.
        columns: what was asked for beyond that, by column.
    """

    name: str
    op: str
    types: tuple[str, ...]
    module: str
    step: str
    edges: tuple[Edge, ...]
    attributes: Mapping[str, str]
    columns: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        data: dict[str, object] = {
            "name": self.name,
            "op": self.op,
            "types": list(self.types),
            "module": self.module,
            "step": self.step,
            "operands": [{"argument": e.argument, "node": e.source, "output": e.output} for e in self.edges],
            "attributes": dict(self.attributes),
        }
        return {**data, **{name: dict(values) for name, values in self.columns.items()}}


def facts(program: Program, only: Collection[str] | None = None, columns: Columns | None = None) -> list[NodeFacts]:
    """The facts of all nodes, or of some, in order; results that are picked from a tuple belong to its operator."""
    columns = columns or {}
    return [
        _facts(program, node, columns.get(node.name, {}))
        for node in program.graph.nodes
        if node.op != "output" and program.op(node) != ops.GETITEM and (only is None or node.name in only)
    ]


def _facts(program: Program, node: Node, columns: Mapping[str, Mapping[str, object]]) -> NodeFacts:
    type_ = program.type(node)
    types = tuple(map(print_type, type_.items if isinstance(type_, TupleType) else (type_,)))
    origin = program.origin(node)
    if node.op == "placeholder":
        return NodeFacts(
            node.name, "input", types, origin.module, origin.step, (), {"label": str(node.target)}, columns
        )
    if node.op == "get_attr":
        attributes = {"label": str(node.target), "value": print_fill(program.rounded(node))}
        return NodeFacts(node.name, "param", types, origin.module, origin.step, (), attributes, columns)
    edges: list[Edge] = []
    attributes: dict[str, str] = {}
    for argument, value in _arguments(program, node).items():
        read = list(all_nodes(value))
        edges += [_edge(program, source, argument) for source in read]
        if not read and value is not None and value != []:
            attributes[argument] = _text(value)
    return NodeFacts(node.name, program.op(node), types, origin.module, origin.step, tuple(edges), attributes, columns)


def _arguments(program: Program, node: Node) -> Mapping[str, object]:
    if program.op(node) == "qc.kernel":
        return {**{str(index): value for index, value in enumerate(node.args)}, **node.kwargs}
    return program.bind(node)


def _edge(program: Program, source: Node, argument: str) -> Edge:
    if program.op(source) == ops.GETITEM:
        index = source.args[1]
        return Edge(source.all_input_nodes[0].name, index if isinstance(index, int) else 0, argument)
    return Edge(source.name, 0, argument)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, Region):
        return f"@{value.program.name}"
    return str(value) if isinstance(value, QuantSpec) else print_literal(value)
