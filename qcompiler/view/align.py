"""Which nodes of two programs are the same one: by name, then by provenance, so that renamed nodes are found again."""

from __future__ import annotations

import hashlib
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from qcompiler.ir.nodes import all_nodes
from qcompiler.ir.ops import GETITEM
from qcompiler.ir.program import Node, Program
from qcompiler.ir.region import Region
from qcompiler.ir.text import print_fill, print_literal, print_type
from qcompiler.spec import QuantSpec


@dataclass
class Alignment:
    """Pairs of nodes.

    Args:
        before: the first program.
        after: the second one.
        pairs: name in the second program to name in the first.
    """

    before: Program
    after: Program
    pairs: dict[str, str] = field(default_factory=dict)

    def rename(self, node: Node) -> str:
        """What the first program calls a node of the second one; its own name where the first lacks it."""
        return self.pairs.get(node.name, node.name)


def align(before: Program, after: Program) -> Alignment:
    """Pairs the nodes of two programs.

    Nodes of one name and operator belong together. What is left is paired by source module and operator: where the
    operands are paired too, then in order. Parameters go by their label, then by who reads them. At last, what has one
    name is paired whatever it does.
    """
    found = Alignment(before, after)
    old, new = named_nodes(before), named_nodes(after)
    for name, node in new.items():
        if name in old and _kind(before, old[name]) == _kind(after, node):
            found.pairs[name] = name
    _pair_labels(found, old, new)
    _pair_operators(found, old, new)
    _pair_operands(found, old, new)
    taken = set(found.pairs.values())
    for name, node in new.items():
        if name not in found.pairs and name in old and name not in taken and old[name].op == node.op:
            found.pairs[name] = name
    return found


def named_nodes(program: Program) -> dict[str, Node]:
    """Inputs, parameters and operators by name; a result picked from a tuple is none of its own."""
    return {node.name: node for node in program.graph.nodes if node.op != "output" and program.op(node) != GETITEM}


def describe(program: Program, node: Node, rename: Callable[[Node], str] = lambda node: node.name) -> str:
    """What a node is, without its name: operator, arguments, type and value, spelled out so that texts compare."""
    type_ = print_type(program.type(node))
    if node.op == "placeholder":
        return f"input : {type_}"
    if node.op == "get_attr":
        return f"param : {type_} = {print_fill(program.rounded(node))}"
    return f"{call_text(program, node, rename)} : {type_}"


def call_text(program: Program, node: Node, rename: Callable[[Node], str]) -> str:
    """Operator and arguments of a call."""
    parts = [_argument(arg, rename) for arg in node.args]
    parts += [f"{key}={_argument(value, rename)}" for key, value in sorted(node.kwargs.items())]
    return f"{program.op(node)} {', '.join(parts)}"


def _argument(value: object, rename: Callable[[Node], str]) -> str:
    if isinstance(value, Node):
        if value.target is not operator.getitem:
            return f"%{rename(value)}"
        return f"{_argument(value.args[0], rename)}.{value.args[1]}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_argument(item, rename) for item in value)}]"
    if isinstance(value, Region):
        digest = hashlib.sha256(str(value.program).encode()).hexdigest()[:8]
        return f"@{value.program.name}({digest})"
    return str(value) if isinstance(value, QuantSpec) else print_literal(value)


def _kind(program: Program, node: Node) -> str:
    return program.op(node) or node.op


def _left(found: Alignment, old: Mapping[str, Node], new: Mapping[str, Node]) -> tuple[list[Node], list[Node]]:
    """The nodes of both that have no partner yet."""
    taken = set(found.pairs.values())
    return [n for name, n in old.items() if name not in taken], [
        n for name, n in new.items() if name not in found.pairs
    ]


def _pair_labels(found: Alignment, old: Mapping[str, Node], new: Mapping[str, Node]) -> None:
    """Inputs and parameters under the same label, then the inputs that are left, in order."""
    before, after = _left(found, old, new)
    labels = {(node.op, str(node.target)): node for node in before if node.op != "call_function"}
    for node in after:
        other = labels.pop((node.op, str(node.target)), None) if node.op != "call_function" else None
        if other is not None:
            found.pairs[node.name] = other.name
    before, after = _left(found, old, new)
    inputs = [[node for node in nodes if node.op == "placeholder"] for nodes in (before, after)]
    found.pairs |= {b.name: a.name for a, b in zip(*inputs, strict=False)}


def _pair_operators(found: Alignment, old: Mapping[str, Node], new: Mapping[str, Node]) -> None:
    before, after = _left(found, old, new)
    groups: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in before:
        if node.op == "call_function":
            groups[found.before.origin(node).module, found.before.op(node)].append(node)
    texts = {node: call_text(found.before, node, lambda n: n.name) for group in groups.values() for node in group}
    waiting: list[Node] = []
    for node in after:
        group = groups[_place(found.after, node)] if node.op == "call_function" else []
        wanted = call_text(found.after, node, found.rename) if group else ""
        same = next((other for other in group if texts[other] == wanted), None)
        if same is not None:
            group.remove(same)
            found.pairs[node.name] = same.name
        elif group:
            waiting.append(node)
    for node in waiting:
        group = groups[_place(found.after, node)]
        if group:
            found.pairs[node.name] = group.pop(0).name


def _place(program: Program, node: Node) -> tuple[str, str]:
    return program.origin(node).module, program.op(node)


def _pair_operands(found: Alignment, old: Mapping[str, Node], new: Mapping[str, Node]) -> None:
    """Parameters that paired operators take at the same place."""
    before, _ = _left(found, old, new)
    free = {node for node in before if node.op == "get_attr"}
    for name, other in list(found.pairs.items()):
        if not free or new[name].op != "call_function":
            continue
        operands: Sequence[tuple[Node, Node]] = list(
            zip(all_nodes(old[other].args), all_nodes(new[name].args), strict=False)
        )
        for was, now in operands:
            if was in free and now.op == "get_attr" and now.name not in found.pairs:
                found.pairs[now.name] = was.name
                free.discard(was)
