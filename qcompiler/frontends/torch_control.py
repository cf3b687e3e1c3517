"""Control flow of torch: `cond`, `while_loop`, `scan` and `map` become operators with regions.

Parameters that a subgraph takes as operands become parameters of its region, so that they are seen to be constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.fx.node import Node

from qcompiler.errors import UnsupportedError
from qcompiler.ir.program import Origin, Program, Signature
from qcompiler.ir.region import Region
from qcompiler.ir.types import TensorType, Type

_HIGHER = torch.ops.higher_order


class GraphImporter(Protocol):
    """What turns the nodes of an exported graph into nodes of a program."""

    program: Program
    values: dict[Node, Any]

    def add_call(self, node: Node) -> None:
        """Imports one operator node."""
        ...

    def type(self, value: object) -> Type:
        """The type of an example value."""
        ...

    def nested(self, program: Program) -> GraphImporter:
        """What imports a subgraph into a program of its own, under the same symbols."""
        ...


def is_control(target: object) -> bool:
    """Whether this front-end knows the control flow operator."""
    return target in _CONTROL


def add_control(importer: GraphImporter, node: Node, origin: Origin) -> Node:
    """Imports a control flow operator.

    Raises:
        UnsupportedError: for a subgraph that yields something else than tensors.
    """
    op, args, attributes = _CONTROL[node.target](importer, node)
    builder = importer.program.append(module=origin.module)
    return builder.call(op, *args, kwargs=attributes, name=node.name, type_=importer.type(node.meta["val"]))


Parts = tuple[str, Sequence[object], Mapping[str, object]]


def _cond(importer: GraphImporter, node: Node) -> Parts:
    pred, then, otherwise, operands = node.args
    given = _values(importer, operands)
    regions = {name: _region(importer, graph, [], given) for name, graph in (("then", then), ("otherwise", otherwise))}
    return "qc.cond", (importer.values[pred], _captures(given)), regions  # pyright: ignore[reportArgumentType, reportCallIssue]


def _while_loop(importer: GraphImporter, node: Node) -> Parts:
    test, body, carried, operands = node.args
    first, given = _values(importer, carried), _values(importer, operands)
    (begins,) = _inlined(importer, _graph(test), [*first, *given])
    region = _region(importer, body, first, given, test=_graph(test))
    return "qc.loop", (None, begins, first, _captures(given)), {"body": region}


def _scan(importer: GraphImporter, node: Node) -> Parts:
    body, states, sequences, operands = node.args
    return _scanned(importer, body, states, sequences, operands)


def _map(importer: GraphImporter, node: Node) -> Parts:
    body, sequences, operands = node.args
    return _scanned(importer, body, [], sequences, operands)


def _scanned(importer: GraphImporter, body: object, states: object, sequences: object, operands: object) -> Parts:
    first, cut, given = (_values(importer, values) for values in (states, sequences, operands))
    region = _region(importer, body, [*first, *cut], given)
    stacked = len(region) - len(first)
    attributes = {
        "body": region,
        "axes": [0] * len(cut),
        "reverse": [0] * len(cut),
        "result_axes": [0] * stacked,
        "result_reverse": [0] * stacked,
    }
    return "qc.scan", (first, cut, _captures(given)), attributes


_CONTROL: dict[object, Callable[[GraphImporter, Node], Parts]] = {
    _HIGHER.cond: _cond,
    _HIGHER.while_loop: _while_loop,
    _HIGHER.scan: _scan,
    _HIGHER.map_impl: _map,
}


def _values(importer: GraphImporter, operands: object) -> list[object]:
    """What operands became; constants are themselves."""
    listed = operands if isinstance(operands, list | tuple) else [operands]
    return [importer.values[operand] if isinstance(operand, Node) else operand for operand in listed]


def _captures(given: Sequence[object]) -> list[Node]:
    """The operands that a region takes as inputs."""
    return [value for value in given if isinstance(value, Node) and value.op != "get_attr"]


def _region(
    importer: GraphImporter,
    graph: object,
    own: Sequence[object],
    given: Sequence[object],
    test: torch.fx.GraphModule | None = None,
) -> Region:
    """A subgraph as a region.

    Args:
        importer: of the graph around it.
        graph: the node that holds the subgraph.
        own: values that are inputs whatever they are: carried ones and sequences.
        given: operands, which are captured.
        test: of a while loop; then the region also takes the number of the run and a truth value, and yields first
            whether to go on.
    """
    module = _graph(graph)
    around, inner = importer.program, importer.nested(Program(str(_node(graph).target), importer.program.stage))
    inner.program.dimensions = around.dimensions
    if test is not None:
        inner.program.add_input("number", TensorType(torch.int64, ()))
        inner.program.add_input("going", TensorType(torch.bool, ()))
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    inputs: list[object] = []
    for index, (placeholder, value) in enumerate(zip(placeholders, [*own, *given], strict=True)):
        if not isinstance(value, Node):
            inputs.append(value)
        elif index >= len(own) and value.op == "get_attr":
            name = str(value.target)
            inputs.append(inner.program.add_param(name, around.params[name], around.tensor_type(value)))
        else:
            inputs.append(inner.program.add_input(placeholder.name, importer.type(placeholder.meta["val"])))
    results = _inlined(inner, module, inputs)
    if test is not None:
        results = [*_inlined(inner, test, [*results, *inputs[len(own) :]]), *results]
    inner.program.set_outputs(results)
    inner.program.erase_dead()
    inner.program.signature = Signature.flat(len(inner.program.inputs), len(results))
    inner.program.edits = 0
    return Region(inner.program)


def _inlined(importer: GraphImporter, module: torch.fx.GraphModule, inputs: Sequence[object]) -> list[Node]:
    """Imports the nodes of a subgraph for these inputs; what it yields."""
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    importer.values.update(zip(placeholders, inputs, strict=True))
    for node in module.graph.nodes:
        if node.op == "call_function":
            importer.add_call(node)
    output = next(node for node in module.graph.nodes if node.op == "output")
    results = _values(importer, output.args[0])
    nodes = [result for result in results if isinstance(result, Node)]
    if len(nodes) < len(results):
        raise UnsupportedError(
            "a branch or loop body yields something else than tensors",
            where=str(output.args[0]),
            step="trace",
            mend="let it return tensors only",
        )
    return nodes


def _node(graph: object) -> Node:
    if not isinstance(graph, Node):
        raise UnsupportedError("a control flow operator has no subgraph", where=str(graph), step="trace")
    return graph


def _graph(graph: object) -> torch.fx.GraphModule:
    """The subgraph that a node of the exported graph holds."""
    node = _node(graph)
    owner = node.graph.owning_module
    found = owner.get_submodule(str(node.target)) if owner is not None else None
    if not isinstance(found, torch.fx.GraphModule):
        raise UnsupportedError("a control flow operator has no subgraph", where=node.name, step="trace")
    return found
