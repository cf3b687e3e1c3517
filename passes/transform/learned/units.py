"""Stretches of a program that are learned at a time: residual blocks, joined where a transform reaches over several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.ir.program import Node
from qcompiler.ir.types import TensorType
from qcompiler.passes.transform.learned.bed import Bed


@dataclass(frozen=True)
class Unit:
    """A stretch with every transform that acts in it.

    Args:
        members: numbers of the transforms, in order.
        start: its first node.
        stop: the first node behind it, None at the end.
        results: its real values that are read behind it, or returned.
    """

    members: tuple[int, ...]
    start: Node
    stop: Node | None
    results: tuple[Node, ...]


def units_of(bed: Bed) -> list[Unit]:
    """The stretches of a bed, in order; those without a transform are left out."""
    reach = []
    for number, nodes in enumerate(bed.spans):
        places = [bed.segment[node] for node in nodes]
        if places:
            reach.append((min(places), max(places), number))
    return [_unit(bed, first, last, tuple(sorted(members))) for first, last, members in _joined(reach)]


def whole(bed: Bed) -> Unit:
    """The bed as one stretch."""
    return _unit(bed, 0, max(bed.segment.values()), tuple(range(len(bed.spans))))


def _joined(reach: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, list[int]]]:
    """Stretches of segments that overlap, as one."""
    found: list[tuple[int, int, list[int]]] = []
    for first, last, number in sorted(reach):
        if found and first <= found[-1][1]:
            before = found.pop()
            found.append((before[0], max(before[1], last), [*before[2], number]))
        else:
            found.append((first, last, [number]))
    return found


def _unit(bed: Bed, first: int, last: int, members: tuple[int, ...]) -> Unit:
    order = [node for node in bed.program.graph.nodes if node.op != "output"]
    inside = [node for node in order if first <= bed.segment[node] <= last]
    behind = next((node for node in order if bed.segment[node] > last), None)
    known = set(inside)
    results = tuple(node for node in inside if _is_real(node) and any(user not in known for user in node.users))
    return Unit(members, inside[0], behind, results)


def _is_real(node: Node) -> bool:
    type_ = node.meta["type"]
    return node.op == "call_function" and isinstance(type_, TensorType) and type_.is_float
