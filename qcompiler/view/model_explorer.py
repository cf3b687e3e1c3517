"""A program as a graph collection of Google's Model Explorer, which opens it as a tree of modules.

Source    the `GraphCollection` of ai-edge-model-explorer: https://github.com/google-ai-edge/model-explorer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qcompiler.view.facts import NodeFacts


def model_explorer(name: str, graphs: Mapping[str, Sequence[NodeFacts]]) -> dict[str, object]:
    """One collection with a graph per program; `graphs` by label."""
    return {"label": name, "graphs": [{"id": label, "nodes": _nodes(nodes)} for label, nodes in graphs.items()]}


def _nodes(nodes: Sequence[NodeFacts]) -> list[dict[str, object]]:
    known = {node.name for node in nodes}
    return [_node(node, known) for node in nodes]


def _node(node: NodeFacts, known: set[str]) -> dict[str, object]:
    attributes = {"name": node.name, **node.attributes, **({"made by": node.step} if node.step else {})}
    for column, values in node.columns.items():
        attributes |= {f"{column}: {key}": str(value) for key, value in values.items()}
    return {
        "id": node.name,
        "label": node.op,
        "namespace": node.module.replace(".", "/"),
        "attrs": [{"key": key, "value": value} for key, value in attributes.items()],
        "incomingEdges": [
            {"sourceNodeId": edge.source, "sourceNodeOutputId": str(edge.output), "targetNodeInputId": str(index)}
            for index, edge in enumerate(node.edges)
            if edge.source in known
        ],
        "inputsMetadata": [
            {"id": str(index), "attrs": [{"key": "__tensor_tag", "value": edge.argument}]}
            for index, edge in enumerate(node.edges)
        ],
        "outputsMetadata": [
            {"id": str(index), "attrs": [{"key": "tensor_shape", "value": type_}]}
            for index, type_ in enumerate(node.types)
        ],
    }
