"""The symmetries of a program: every group of matrices and of scales that its constants can absorb.

One walk over the graph labels the coordinates of every value (`labels`, `axis_rules*`) and notes what each operator
demands of them (`relations`): equal transforms, rows that must be mapped onto themselves, products whose scales add up,
and what is refused. Matrices and scales are then solved apart: `blocks` finds the sets of labels that one matrix may
mix, `scales` the null space of the linear system of exponents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from qcompiler.analysis.axis_rules import MOVEMENT, Rule, Walk
from qcompiler.analysis.axis_rules_elementwise import ELEMENTWISE
from qcompiler.analysis.axis_rules_layers import LAYERS
from qcompiler.analysis.blocks import Root, roots
from qcompiler.analysis.gains import settle_gains
from qcompiler.analysis.groups import Blocker, SymmetryGroup
from qcompiler.analysis.matrices import matrix_groups
from qcompiler.analysis.relations import EVERYTHING, SCALES, Relations, World
from qcompiler.analysis.scales import scale_groups
from qcompiler.ir.program import Node, Program

RULES: Mapping[str, Rule] = {**MOVEMENT, **LAYERS, **ELEMENTWISE}
"""What each operator demands; operators that are not here may not be crossed."""


@dataclass(frozen=True, eq=False)
class Symmetries:
    """All symmetries of a program.

    Args:
        orthogonal: groups on which rotations or all invertible matrices act: residual streams, values of each head, ...
        permutations: groups on which only reorderings act.
        scales: groups on which one positive number per coordinate acts, each with its own free vector.
        refusals: why a coordinate may not change, by label.
    """

    orthogonal: tuple[SymmetryGroup, ...]
    permutations: tuple[SymmetryGroup, ...]
    scales: tuple[SymmetryGroup, ...]
    refusals: Refusals

    @property
    def groups(self) -> tuple[SymmetryGroup, ...]:
        """All groups."""
        return (*self.orthogonal, *self.permutations, *self.scales)

    def reading(self, node: Node) -> tuple[SymmetryGroup, ...]:
        """Groups that an operator with a weight reads."""
        return tuple(group for group in self.groups if any(site.node is node for site in group.readers))

    def writing(self, node: Node) -> tuple[SymmetryGroup, ...]:
        """Groups that an operator writes."""
        return tuple(group for group in self.groups if any(site.node is node for site in group.writers))

    def blockers(self, node: Node, argument: str = "input") -> tuple[Blocker, ...]:
        """Why the input of an operator with a weight cannot be transformed for free; empty where nothing is refused."""
        return self.refusals.of(node) if argument == "input" else ()


@dataclass(frozen=True, eq=False)
class Refusals:
    """What was refused, to be looked up by the coordinates that an operator reads."""

    relations: Relations
    matrix: Root
    scale: Root

    def of(self, node: Node) -> tuple[Blocker, ...]:
        """Refusals on what `node` reads, in order of the program."""
        codes = self.relations.reads.get(node)
        if codes is None:
            return (Blocker(EVERYTHING, node.name, "its input comes from values that may not change"),)
        matrix, scale = self._in_matrices.meeting(codes), self._in_scales.meeting(codes)
        found: dict[Blocker, None] = {}
        for number in sorted({*matrix, *scale}):
            item = self.relations.restrictions[number]
            actions = frozenset(
                (item.actions - SCALES if number in matrix else frozenset())
                | (item.actions & SCALES if number in scale else frozenset())
            )
            if actions:
                found[Blocker(actions, item.node.name, item.reason)] = None
        return tuple(found)

    @cached_property
    def _in_matrices(self) -> _Lookup:
        return _Lookup(self.matrix.of, [item.codes for item in self.relations.restrictions])

    @cached_property
    def _in_scales(self) -> _Lookup:
        return _Lookup(self.scale.of, [item.codes for item in self.relations.restrictions])


class _Lookup:
    """Which of several sets of codes hold a root, for many questions.

    Args:
        of: root of each code.
        sets: codes of each set.
    """

    def __init__(self, of: torch.Tensor, sets: Sequence[torch.Tensor]) -> None:
        self._of = of
        held = [of[codes].unique() for codes in sets]
        roots_ = torch.cat([torch.empty(0, dtype=torch.int64), *held])
        numbers = torch.arange(len(sets)).repeat_interleave(torch.tensor([len(found) for found in held]))
        order = roots_.argsort(stable=True)
        self._roots, self._numbers = roots_[order], numbers[order]
        self._known: dict[bytes, frozenset[int]] = {}

    def meeting(self, codes: torch.Tensor) -> frozenset[int]:
        """Numbers of the sets that hold the root of one of the codes."""
        wanted = self._of[codes].unique()
        key = wanted.numpy().tobytes()
        if key not in self._known:
            start = torch.searchsorted(self._roots, wanted)
            counts = torch.searchsorted(self._roots, wanted, right=True) - start
            places = (start - counts.cumsum(0) + counts).repeat_interleave(counts) + torch.arange(int(counts.sum()))
            self._known[key] = frozenset(self._numbers[places].unique().tolist())
        return self._known[key]


def symmetries(program: Program) -> Symmetries:
    """Finds every symmetry of a program.

    Args:
        program: stage canonical. It is not changed; of its parameters only gains, indices and numbers are looked at.

    Returns:
        the groups in graph order, with their sites, and what was refused.
    """
    relations = Walk(program, RULES).run()
    folded = settle_gains(relations)
    matrix = roots(relations.count, _ties(relations, World.MATRIX))
    orthogonal, permutations = matrix_groups(relations, matrix, folded)
    scale, scales = scale_groups(relations, _ties(relations, World.SCALE))
    return Symmetries(orthogonal, permutations, scales, Refusals(relations, matrix, scale))


def _ties(relations: Relations, world: World) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [pair for worlds, pairs in relations.ties.items() if world in worlds for pair in pairs]
