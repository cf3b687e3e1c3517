"""Parts of a program: around a node, between two, of a module, of one kind of operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from qcompiler.errors import InputError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program


@dataclass(frozen=True)
class Selection:
    """What to show; conditions that are empty hold for every node, and all of them must hold.

    Args:
        around: name of a node, or a source module: its first operator.
        depth: how many operators away from it.
        first: name of a node: what depends on it.
        last: name of a node: what it depends on.
        module: patterns of source modules, `|` between them; a module contains those below it.
        op: patterns of operators, `|` between them: `aten.linear`, `linear`, `conv*`.
    """

    around: str = ""
    depth: int = 2
    first: str = ""
    last: str = ""
    module: str = ""
    op: str = ""

    def __bool__(self) -> bool:
        return any((self.around, self.first, self.last, self.module, self.op))


def selected(program: Program, selection: Selection) -> frozenset[str] | None:
    """Names of the inputs and operators that a selection holds, and of the parameters that they read; None for all.

    Raises:
        InputError: when a named node is missing, or nothing is left.
    """
    if not selection:
        return None
    nodes = {node for node in program.graph.nodes if node.op in ("placeholder", "call_function")}
    if selection.around:
        nodes &= _around(program, _anchor(program, selection.around), selection.depth)
    if selection.first:
        nodes &= _reached([program.node(selection.first.lstrip("%"))], lambda node: node.users)
    if selection.last:
        nodes &= _reached([program.node(selection.last.lstrip("%"))], lambda node: node.all_input_nodes)
    if selection.module:
        nodes = {node for node in nodes if matches_module(program.origin(node).module, selection.module)}
    if selection.op:
        nodes = {node for node in nodes if matches_op(program.op(node), selection.op)}
    nodes = {_whole(program, node) for node in nodes}
    if not nodes:
        mend = "`qcompiler dump --with provenance` prints modules and operators"
        raise InputError("the selection holds no node", where=f"program @{program.name}", mend=mend)
    read = {source for node in nodes for source in node.all_input_nodes if source.op == "get_attr"}
    return frozenset(node.name for node in nodes | read)


def matches_module(module: str, patterns: str) -> bool:
    """Whether a source module, or one above it, fits one of the patterns."""
    parts = module.split(".")
    paths = [".".join(parts[: count + 1]) for count in range(len(parts))]
    return any(fnmatchcase(path, pattern.strip()) for pattern in patterns.split("|") for path in paths)


def matches_op(op: str, patterns: str) -> bool:
    """Whether an operator fits one of the patterns, with or without its namespace and overload."""
    short = op.split(".")[1] if "." in op else op
    words = [pattern.strip() for pattern in patterns.split("|")]
    return bool(op) and any(fnmatchcase(op, word) or fnmatchcase(short, word) for word in words)


def _whole(program: Program, node: Node) -> Node:
    """The operator whose result a `getitem` picks; any other node itself."""
    return node.all_input_nodes[0] if program.op(node) == ops.GETITEM else node


def _anchor(program: Program, text: str) -> Node:
    """The node that a name says, or the first operator of a source module.

    Raises:
        InputError: when there is neither.
    """
    name = text.lstrip("%")
    if any(node.name == name for node in program.graph.nodes):
        return program.node(name)
    inside = (node for node in program.nodes if matches_module(program.origin(node).module, name))
    return next(inside, None) or program.node(name)


def _around(program: Program, start: Node, depth: int) -> set[Node]:
    found = ring = {start}
    for _ in range(depth):
        near = {other for node in ring for other in (*node.all_input_nodes, *node.users)}
        # Picking one of several results is no step of its own.
        near |= {other for node in near if program.op(node) == ops.GETITEM for other in node.all_input_nodes}
        near |= {user for node in near for user in node.users if program.op(user) == ops.GETITEM}
        ring = {node for node in near - found if node.op != "get_attr"}
        found = found | ring
    return found


def _reached(start: Iterable[Node], following: Callable[[Node], Iterable[Node]]) -> set[Node]:
    found, pending = set(start), list(start)
    while pending:
        for node in following(pending.pop()):
            if node not in found:
                found.add(node)
                pending.append(node)
    return found
