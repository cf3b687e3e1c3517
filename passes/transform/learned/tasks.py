"""What is to be learned, and where."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from qcompiler.analysis.groups import SymmetryGroup
from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform.factors import Factor
from qcompiler.passes.transform.learned.bases import Basis, Vector
from qcompiler.passes.transform.learned.sites import scale_groups, start_scale
from qcompiler.passes.transform.wanted import Reading
from qcompiler.stats import Stats

Kind = Literal["matrix", "scale", "shift"]
_MATRICES = 3


@dataclass(frozen=True, eq=False)
class Folded:
    """A transform of a symmetry group: it goes into the constants around it.

    Args:
        basis: what is learned.
        group: where.
        kind: `matrix` for the groups of a change of basis, `scale` and `shift` for those of the diagonal system.
    """

    basis: Basis
    group: SymmetryGroup
    kind: Kind

    @property
    def nodes(self) -> set[Node]:
        """The operators that it concerns."""
        return {site.node for site in self.group.sites} | {port.node for port in self.group.ports}


class Runnable(Basis, Protocol):
    """A basis that can also run with the model."""

    def factor(self) -> Factor:
        """The transform as a node would compute it."""
        ...


@dataclass(frozen=True, eq=False)
class Online:
    """A matrix that multiplies one value when the model runs, in front of the layers that read it.

    Args:
        basis: what is learned.
        layers: what they read, all the same axis of the same value.
    """

    basis: Runnable
    layers: tuple[Reading, ...]

    @property
    def nodes(self) -> set[Node]:
        """The operators that it concerns."""
        return {layer.node for layer in self.layers}


Task = Folded | Online


def nothing(task: Task) -> Tensor:
    """The transform that changes nothing, as `Basis.soft` would give it."""
    like = task.basis.exact()
    if like.dim() < _MATRICES:
        shift = isinstance(task, Folded) and task.kind == "shift"
        return torch.zeros(like.shape) if shift else torch.ones(like.shape)
    return torch.eye(like.shape[-1]).expand(2, *like.shape).clone()


def scale_tasks(program: Program, inside: Set[Node], stats: Stats, alpha: float, learning_rate: float) -> list[Task]:
    """A scale for every group whose readers learn nothing else.

    Args:
        program: prepared, at stage canonical.
        inside: layers that learn a matrix.
        stats: ranges of what layers read.
        alpha: how much of the start is the activations'.
        learning_rate: of the logarithms of scales.
    """
    return [
        Folded(Vector(start_scale(program, group, stats, alpha), learning_rate), group, "scale")
        for group in scale_groups(program)
        if not inside & {site.node for site in group.readers}
    ]
