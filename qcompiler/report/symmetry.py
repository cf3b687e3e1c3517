"""Where a change of basis costs nothing in a compiled model, and why not elsewhere, in short."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from qcompiler.analysis.describe import largest_action, refused_readers
from qcompiler.analysis.groups import SymmetryGroup
from qcompiler.analysis.symmetry import Symmetries, symmetries
from qcompiler.ir.program import Program

MOST_NODES = 20_000
"""Programs with more nodes are not looked at: a report must not take long."""
LARGEST = 5
FIXED = "its input comes from values that may not change"


@dataclass(frozen=True)
class GroupReport:
    """One symmetry group.

    Args:
        name: as `qcompiler dump --symmetries` gives it.
        action: the largest set of matrices that may act.
        size: coordinates per fibre.
        fibres: number of independent transforms.
        writers: how many constants write its values.
        readers: how many weights read them.
        where: name of the first operator of the group.
    """

    name: str
    action: str
    size: int
    fibres: int
    writers: int
    readers: int
    where: str


@dataclass(frozen=True)
class SymmetryReport:
    """The symmetries of a program.

    Args:
        rotations: number of groups on which rotations act, or all invertible matrices.
        permutations: number of groups on which only reorderings act.
        scales: number of groups on which a positive number per coordinate acts.
        largest: the groups with most coordinates, rotations first.
        refused: quantized layers whose input no rotation reaches for free, by the first reason.
    """

    rotations: int
    permutations: int
    scales: int
    largest: tuple[GroupReport, ...] = ()
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def words(self) -> str:
        """One line."""
        counts = [(self.rotations, "rotation"), (self.permutations, "permutation"), (self.scales, "scale")]
        text = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)
        layers = sum(len(names) for names in self.refused.values())
        return f"{text}; no rotation for free at {layers} quantized layers" if layers else text


def symmetry_report(program: Program, layers: Collection[str]) -> SymmetryReport | None:
    """Looks for the symmetries of a canonical program.

    Args:
        program: stage canonical; not changed.
        layers: names of the operators whose refusals are told.

    Returns:
        None when the program is too large to be looked at on the way.
    """
    if len(program.nodes) > MOST_NODES:
        return None
    found = symmetries(program)
    ordered = [*_by_size(found.orthogonal), *_by_size((*found.permutations, *found.scales))]
    return SymmetryReport(
        rotations=len(found.orthogonal),
        permutations=len(found.permutations),
        scales=len(found.scales),
        largest=tuple(map(group_report, ordered[:LARGEST])),
        refused=refused_layers(program, found, layers),
    )


def refused_layers(program: Program, found: Symmetries, layers: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Layers whose input no rotation reaches for free, by the first refusal."""
    reasons: dict[str, list[str]] = {}
    for node, blockers in refused_readers(program, found):
        if node.name in layers:
            reason = blockers[0].reason if blockers else FIXED
            reasons.setdefault(reason, []).append(node.name)
    return {reason: tuple(names) for reason, names in reasons.items()}


def group_report(group: SymmetryGroup) -> GroupReport:
    """A group in short."""
    return GroupReport(
        name=group.name,
        action=str(largest_action(group)),
        size=group.size,
        fibres=group.fibres,
        writers=len(group.writers),
        readers=len(group.readers),
        where=next((place.node.name for place in (*group.sites, *group.ports)), ""),
    )


def _by_size(groups: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    return sorted(groups, key=lambda group: -group.size * group.fibres)
