"""Gains of norms that can be folded into all of their readers, or into their writer."""

from __future__ import annotations

import torch

from qcompiler.analysis import labels as lb
from qcompiler.analysis.axis_rules import MOVEMENT
from qcompiler.analysis.relations import ROTATIONS, Norm, Relations
from qcompiler.analysis.weights import TRANSPOSED, spatial_axes
from qcompiler.ir.program import Node

_MIXING = frozenset({"aten.cat", "aten.constant_pad_nd"})
PASSING = frozenset(MOVEMENT) - _MIXING
"""Operators that only move coordinates about, so that a gain can move through them."""
CROSSING = PASSING | {"aten.mean.dim", "aten.cat"}
"""Operators through which a gain and a shift can move to the readers: also means over other axes, and values put behind
one another if all of them have that gain."""


def settle_gains(relations: Relations) -> list[Norm]:
    """Refuses rotations where a gain cannot be folded; returns those that can, and norms without gain."""
    folded = []
    for norm in relations.norms:
        obstacle = _obstacle(relations, norm) if norm.gain else None
        if obstacle is not None and norm.multiplies and _writer(relations, norm.node) is not None:
            obstacle = None
        if obstacle is None:
            folded.append(norm)
        else:
            reason = f"its gain cannot be folded: %{obstacle.name} reads it"
            relations.restrict(norm.taken, ROTATIONS, norm.node, reason)
    return folded


def _obstacle(relations: Relations, norm: Norm) -> Node | None:
    """The first user that is no reader with a weight."""
    waiting = list(norm.node.users)
    while waiting:
        user = waiting.pop(0)
        if relations.program.op(user) in CROSSING and not _mixed(relations, norm, user):
            waiting.extend(user.users)
        elif not _takes_gain(relations, norm, user):
            return user
    return None


def _mixed(relations: Relations, norm: Norm, user: Node) -> bool:
    """Whether something else is put beside the result of a norm."""
    return relations.program.op(user) == "aten.cat" and not same_row(relations.values[user], norm.taken)


def same_row(codes: torch.Tensor, row: torch.Tensor) -> bool:
    """Whether a value holds nothing but the labels of `row`, in order, along one axis."""
    return len(lb.varying(codes)) == 1 and torch.equal(lb.core(codes).reshape(-1), row)


def _takes_gain(relations: Relations, norm: Norm, user: Node) -> bool:
    read = relations.reads.get(user)
    if read is None or not torch.equal(read, norm.taken):
        return False
    spatial = spatial_axes(relations.program, user)
    if not norm.shift or not spatial:
        return spatial is not None
    if relations.program.op(user) in TRANSPOSED:
        return False
    padding = relations.bind(user)["padding"]
    return isinstance(padding, list | tuple) and not any(padding)


def _writer(relations: Relations, node: Node) -> Node | None:
    """The layer whose result goes only into the product `node`."""
    program = relations.program
    sources = [source for source in node.all_input_nodes if source in relations.values]
    source = sources[0]
    taken = lb.core(relations.values[source]).reshape(-1)
    while len(source.users) == 1:
        if spatial_axes(program, source) is not None:
            return source if torch.equal(lb.core(relations.values[source]).reshape(-1), taken) else None
        if program.op(source) not in PASSING or source.all_input_nodes[0] not in relations.values:
            return None
        source = source.all_input_nodes[0]
    return None
