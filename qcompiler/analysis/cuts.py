"""Where an online transform is placed: one node for as many readers as can share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.analysis.axis_rules import Walk
from qcompiler.analysis.gains import PASSING, same_row
from qcompiler.analysis.relations import Relations
from qcompiler.analysis.symmetry import RULES
from qcompiler.ir.program import Node, Program


@dataclass(frozen=True)
class Cut:
    """A value to transform on the way to some readers.

    Args:
        node: whose value it is; between it and the readers elements are only moved, and whole channels stay together.
        readers: operators with weights.
    """

    node: Node
    readers: tuple[Node, ...]


def cut_points(program: Program, readers: Sequence[Node]) -> list[Cut]:
    """The nearest values through which all that readers take in passes, for as many readers together as there are.

    Args:
        program: stage canonical.
        readers: linear layers and convolutions.

    Returns:
        cuts in graph order; every reader is in exactly one.
    """
    relations = Walk(program, RULES).run()
    order = {node: position for position, node in enumerate(program.graph.nodes)}
    chains = {reader: _chain(relations, reader) for reader in readers}
    together: dict[Node, list[Node]] = {}
    for reader in sorted(readers, key=order.__getitem__):
        together.setdefault(chains[reader][-1], []).append(reader)
    cuts = [Cut(_nearest([chains[reader] for reader in group]), tuple(group)) for group in together.values()]
    return sorted(cuts, key=lambda cut: order[cut.node])


def _chain(relations: Relations, reader: Node) -> list[Node]:
    """What a reader takes in, and before it the values that hold the same channels in the same order."""
    source = relations.program.bind(reader)["input"]
    chain = [source] if isinstance(source, Node) else []
    read = relations.reads.get(reader)
    while chain and read is not None and relations.program.op(chain[-1]) in PASSING:
        before = [item for item in chain[-1].all_input_nodes if item in relations.values]
        if len(before) != 1 or not same_row(relations.values[before[0]], read):
            break
        chain.append(before[0])
    return chain


def _nearest(chains: Sequence[Sequence[Node]]) -> Node:
    """The first value of the first chain that is on all others."""
    return next(node for node in chains[0] if all(node in chain for chain in chains))
