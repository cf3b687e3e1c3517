"""Coarser units: the layers of one segment of the network, or what makes the scores of one attention, decided at once.

Formula   segment: the operators between two cuts that a single value passes. block: the segments of one repeat of what
          the network repeats, alike in operators and weights' sizes: from each segment on, the period with the most
          segments in two repeats or more, of equals the shortest. attention: the nearest operators with options before
          the queries, keys and values, and the products of the attention themselves
Shapes    any
Promise   found by dataflow; operators without a common option stay apart
Needs     nothing
Source    blocks as units after "Layer-Wise Quantization" 2024 and Zhang et al. 2024, "SageAttention2"; the cuts and how
          blocks are found are own
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from qcompiler.analysis.segments import segments
from qcompiler.errors import SpecError
from qcompiler.ir.program import Node, Program

UnitKind = Literal["layer", "edge", "segment", "block", "attention"]
_ATTENTION = "aten.scaled_dot_product_attention"
_SOFTMAX = ("aten.softmax.int", "aten._softmax")
_PRODUCTS = ("aten.matmul", "aten.bmm")


def groups(program: Program, seeds: Sequence[Node], kind: UnitKind) -> list[list[Node]]:
    """The operators that are decided at once, beyond what must be.

    Args:
        program: at stage canonical.
        seeds: operators with options.
        kind: what makes a unit.

    Raises:
        SpecError: for an unknown kind.
    """
    match kind:
        case "layer" | "edge":
            return []
        case "segment":
            return [list(segment.sites) for segment in segments(program, seeds)]
        case "block":
            return _blocks(program, [segment.sites for segment in segments(program, seeds)])
        case "attention":
            return [found for node in program.nodes if (found := _attention(program, node, frozenset(seeds)))]
    raise SpecError(f"there is no unit '{kind}'", mend=f"units: {', '.join(get_args(UnitKind))}")


def _blocks(program: Program, parts: Sequence[Sequence[Node]]) -> list[list[Node]]:
    """Parts of the network joined to what it repeats."""
    marks = [[(program.op(node), _sizes(program, node)) for node in part] for part in parts]
    found: list[list[Node]] = []
    start = 0
    while start < len(parts):
        period, repeats = max(
            ((period, _repeats(marks, start, period)) for period in range(1, max((len(parts) - start) // 2, 1) + 1)),
            key=lambda item: (item[0] * item[1] if item[1] > 1 else 1, -item[0]),
        )
        period = period if repeats > 1 else 1
        for first in range(start, start + period * repeats, period):
            found.append([node for part in parts[first : first + period] for node in part])
        start += period * repeats
    return found


def _repeats(marks: Sequence[object], start: int, period: int) -> int:
    """How often a stretch stands in a row from its start on."""
    stretch, count = marks[start : start + period], 1
    while marks[start + count * period : start + (count + 1) * period] == stretch:
        count += 1
    return count


def _sizes(program: Program, node: Node) -> list[tuple[int, ...]]:
    """Of the parameters that an operator reads."""
    read = [source for source in node.all_input_nodes if source.op == "get_attr"]
    return [tuple(int(size) for size in program.shape(param)) for param in read]


def _attention(program: Program, node: Node, seeds: frozenset[Node]) -> list[Node]:
    """What one attention is made of, in program order; empty where `node` is none."""
    products = [node] if program.op(node) == _ATTENTION else _around_softmax(program, node)
    found = {product for product in products if product in seeds}
    for product in products:
        found |= _before(product, seeds - set(products))
    return [each for each in program.nodes if each in found] if products else []


def _around_softmax(program: Program, node: Node) -> list[Node]:
    """The products before and behind a softmax that is part of an attention; empty where there are not both."""
    if program.op(node) not in _SOFTMAX:
        return []
    before, value = None, node
    while before is None and value.all_input_nodes:
        value = value.all_input_nodes[0]
        before = value if program.op(value) in _PRODUCTS else None
    behind = [user for user in node.users if program.op(user) in _PRODUCTS]
    return [before, *behind] if before is not None and behind else []


def _before(node: Node, seeds: frozenset[Node]) -> set[Node]:
    """The nearest seeds that a node depends on."""
    found: set[Node] = set()
    seen: set[Node] = set()
    waiting = list(node.all_input_nodes)
    while waiting:
        value = waiting.pop()
        if value in seeds:
            found.add(value)
        elif value not in seen:
            seen.add(value)
            waiting += value.all_input_nodes
    return found
