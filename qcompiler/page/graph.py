"""A program as small plain data: names, operators, modules and edges, with each repeated word stored once."""

from __future__ import annotations

from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.text import print_type

MOST_NODES = 20_000


def graph_data(program: Program) -> dict[str, object]:
    """The graph for the page.

    Returns:
        `words`: operators, modules, passes and types; `nodes`: one list per node with its name, the places of its
        operator, module, pass and type in `words`, and the places of what it reads in `nodes`; `cut`: how many nodes
        at the end were left out. Results picked from a tuple belong to the operator that gives it.
    """
    words: dict[str, int] = {}
    places: dict[Node, int] = {}
    nodes: list[list[object]] = []
    every = [node for node in program.graph.nodes if node.op != "output" and program.op(node) != ops.GETITEM]
    for node in every[:MOST_NODES]:
        places[node] = len(nodes)
        origin = program.origin(node)
        told = (_kind(program, node), origin.module, origin.step, print_type(program.type(node)))
        numbers = [words.setdefault(word, len(words)) for word in told]
        sources = dict.fromkeys(places[_whole(program, source)] for source in node.all_input_nodes)
        nodes.append([node.name, *numbers, list(sources)])
    return {"words": list(words), "nodes": nodes, "cut": max(len(every) - MOST_NODES, 0)}


def _kind(program: Program, node: Node) -> str:
    return {"placeholder": "input", "get_attr": "param"}.get(node.op) or program.op(node)


def _whole(program: Program, node: Node) -> Node:
    """The operator whose tuple a result was picked from."""
    while program.op(node) == ops.GETITEM:
        node = node.all_input_nodes[0]
    return node
