"""A program as a DOT graph: one box per operator, a frame per source module."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from qcompiler.view.facts import NodeFacts

_COLOURS = {"input": "#d5e8d4", "param": "#eeeeee"}
_LOW_BIT = "#dae8fc"


@dataclass
class _Frame:
    nodes: list[NodeFacts] = field(default_factory=list)
    inside: dict[str, _Frame] = field(default_factory=dict)


def dot(name: str, nodes: Sequence[NodeFacts], weights: bool = False) -> str:
    """DOT text.

    Args:
        name: of the program.
        nodes: what to show.
        weights: whether parameters get boxes of their own.
    """
    shown = [node for node in nodes if weights or node.op != "param"]
    top = _Frame()
    for node in shown:
        frame = top
        for part in node.module.split(".") if node.module else ():
            frame = frame.inside.setdefault(part, _Frame())
        frame.nodes.append(node)
    lines = [f"digraph {_quoted(name)} {{", "  rankdir=TB;", '  node [shape=box, style="rounded,filled", fontsize=10];']
    lines += _frame_lines(top, "", "  ")
    known = {node.name for node in shown}
    for node in shown:
        edges = [edge for edge in node.edges if edge.source in known]
        lines += [
            f"  {_quoted(edge.source)} -> {_quoted(node.name)} [label={_quoted(edge.argument)}, fontsize=8];"
            for edge in edges
        ]
    return "\n".join([*lines, "}"]) + "\n"


def _frame_lines(frame: _Frame, path: str, indent: str) -> list[str]:
    lines = [
        f"{indent}{_quoted(node.name)} [label={_label(node)}, fillcolor={_quoted(_colour(node))}];"
        for node in frame.nodes
    ]
    for part, inner in frame.inside.items():
        full = f"{path}.{part}" if path else part
        lines += [f"{indent}subgraph {_quoted(f'cluster_{full}')} {{", f"{indent}  label={_quoted(full)};"]
        lines += [*_frame_lines(inner, full, f"{indent}  "), f"{indent}}}"]
    return lines


def _label(node: NodeFacts) -> str:
    rows = [f"%{node.name}", node.op, ", ".join(node.types)]
    rows += [f"{key}: {value}" for values in node.columns.values() for key, value in values.items()]
    return _quoted("\n".join(rows))


def _colour(node: NodeFacts) -> str:
    return _COLOURS.get(node.op, _LOW_BIT if node.op.startswith("qc.") else "#ffffff")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
