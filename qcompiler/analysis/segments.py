"""Where a program can be cut: stretches of nodes between which a single value carries what the weights made.

A cut lies where at most one value is alive that depends on weights and is not carried past many of them. Masks, rotary
tables and other values that no weight has touched, and skip connections over a large part of the program, pass by cuts.
A residual block is thus one segment, and so is a lone layer with the activation behind it. Stretches that no such cut
divides, as two streams side by side make them, are cut where the fewest values are alive.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate, pairwise

from qcompiler.ir.program import Node, Program

_PASSES_BY = 8
"""A value that is carried past more sites than this passes by cuts."""
_LARGEST = 16
"""A stretch with more sites than this is cut even where several values are alive."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a program.

    Args:
        sites: its nodes out of those that were asked for, in order.
        start: its first node.
        stop: the first node behind it, None at the end of the program.
        results: its values that are read behind it, or returned.
    """

    sites: tuple[Node, ...]
    start: Node
    stop: Node | None
    results: tuple[Node, ...]


def segments(program: Program, sites: Collection[Node]) -> list[Segment]:
    """Cuts a program into as many segments as there can be with at least one of `sites` in each.

    Args:
        program: any stage.
        sites: operators with weights.

    Returns:
        segments in order; together they hold every site.
    """
    order = [node for node in program.graph.nodes if node.op != "output"]
    wanted = set(sites)
    passed = list(accumulate((node in wanted for node in order), initial=0))
    alive = _alive(program, order, passed)
    clean = [position for position in sorted(alive) if alive[position] <= 1]
    bounds = _with_sites([0, *clean, len(order)], passed)
    fine = [position for start, end in pairwise(bounds) for position in _divided(start, end, alive, passed)]
    return [_segment(order, start, end, wanted) for start, end in pairwise([*fine, len(order)])]


def _alive(program: Program, order: list[Node], passed: list[int]) -> dict[int, int]:
    """Positions just behind a value that weights made: how many such values are alive there and do not pass by."""
    index = {node: position for position, node in enumerate(program.graph.nodes)}
    weighted = _weighted(program, order)
    change = [0] * (len(order) + 2)
    for node in weighted:
        last = max((index[user] for user in node.users), default=index[node])
        if passed[min(last, len(order))] - passed[index[node] + 1] <= _PASSES_BY:
            change[index[node] + 1] += 1
            change[last + 1] -= 1
    totals = list(accumulate(change))
    return {index[node] + 1: totals[index[node] + 1] for node in weighted}


def _divided(start: int, end: int, alive: dict[int, int], passed: list[int]) -> list[int]:
    """Where the parts of a stretch begin: itself, or its halves where it is too large and can be cut."""
    inner = [position for position in alive if passed[start] < passed[position] < passed[end]]
    if passed[end] - passed[start] <= _LARGEST or not inner:
        return [start]
    middle = (passed[start] + passed[end]) / 2
    best = min(inner, key=lambda position: (alive[position], abs(passed[position] - middle), position))
    return [*_divided(start, best, alive, passed), *_divided(best, end, alive, passed)]


def _weighted(program: Program, order: list[Node]) -> set[Node]:
    """Nodes that depend on an input and on a parameter of at least two axes."""
    varying: set[Node] = set()
    weighted: set[Node] = set()
    for node in order:
        sources = node.all_input_nodes
        if node.op == "placeholder" or any(source in varying for source in sources):
            varying.add(node)
            heavy = any(_heavy(program, source) for source in sources if source not in varying)
            if heavy or any(source in weighted for source in sources):
                weighted.add(node)
    return weighted


def _heavy(program: Program, node: Node) -> bool:
    """Whether a constant is made of a parameter of at least two axes."""
    if node.op == "get_attr":
        return len(program.shape(node)) >= 2 and program.tensor_type(node).is_float
    return any(_heavy(program, source) for source in node.all_input_nodes)


def _with_sites(bounds: list[int], passed: list[int]) -> list[int]:
    """The bounds without those that would leave a segment without a site; what follows a site stays with it."""
    kept = [bounds[0]]
    for start, end in pairwise(bounds):
        if passed[end] > passed[start] > passed[kept[-1]]:
            kept.append(start)
    return [*kept, bounds[-1]]


def _segment(order: list[Node], start: int, end: int, sites: set[Node]) -> Segment:
    inside = order[start:end]
    members = set(inside)
    results = [node for node in inside if any(user not in members for user in node.users) and node.op != "get_attr"]
    stop = order[end] if end < len(order) else None
    return Segment(tuple(node for node in inside if node in sites), order[start], stop, tuple(results))
