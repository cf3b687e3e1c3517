"""The losses of all units: one sensitivity for all, or one for each group of them.

Formula   see `sensitivity` for the tables and `decoupled` for groups
Shapes    tables [unit][option]
Promise   what was measured is kept by sample, so that tables of other samples cost nothing
Needs     what the sensitivities need
Source    groups after Zhao et al. 2024, "MixDQ"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.data import Batches
from qcompiler.passes.allocate.decoupled import decoupled, weightings
from qcompiler.passes.allocate.problem import Table, Unit
from qcompiler.passes.allocate.sensitivity import measure, read_terms
from qcompiler.passes.allocate.sensitivity.method import Subject
from qcompiler.passes.allocate.sensitivity.stability import Draw
from qcompiler.passes.allocate.sensitivity.table import Losses
from qcompiler.passes.allocate.uniform import kept_nodes
from qcompiler.stats import Batch


@dataclass(frozen=True)
class GroupLosses:
    """What was measured for each group.

    Args:
        measured: of each group, the first one for the units of no other.
        member: group of each unit.
    """

    measured: tuple[Losses, ...]
    member: tuple[int, ...]

    def tables(self, draw: Draw = torch.arange) -> list[Table]:
        """The loss table; with groups one for each of the weightings that are to be tried."""
        tables = [losses.table(draw) for losses in self.measured]
        if len(tables) == 1:
            return tables
        return [decoupled(tables, self.member, weights) for weights in weightings(len(tables))]


def measure_losses(
    subject: Subject, units: Sequence[Unit], sensitivity: str, groups: Sequence[tuple[str, str]] = (), folder: str = ""
) -> GroupLosses:
    """Measures all units; says in the log what was repaired.

    Args:
        subject: on what.
        units: with their options.
        sensitivity: of the units of no group.
        groups: pattern and sensitivity of each.
        folder: where losses are kept; empty keeps none.

    Raises:
        SpecError: for unknown words, or a pattern that matches nothing.
        InputError: when data is missing.
        UnsupportedError: for an operator that a sensitivity cannot judge.
    """
    kinds = [sensitivity, *(kind for _, kind in groups)]
    member = [0] * len(units)
    for group, (pattern, _) in enumerate(groups, 1):
        names = {node.name for node in kept_nodes(subject.program, pattern)}
        member = [group if names & set(unit.nodes) else own for unit, own in zip(units, member, strict=True)]
    found = {kind: measure(read_terms(kind), subject, units, folder) for kind in dict.fromkeys(kinds)}
    for kind, losses in found.items():
        if losses.repaired:
            subject.ctx.log(f"{kind}: {losses.repaired}")
    return GroupLosses(tuple(found[kind] for kind in kinds), tuple(member))


def labels_of(given: Sequence[Batch], used: Sequence[Batch]) -> tuple[Tensor | None, ...]:
    """The user's labels of the batches that are used, cut like them; None where there are none."""
    if not isinstance(given, Batches):
        return (None,) * len(used)
    labels = [given.labels(index) for index in range(len(used))]
    return tuple(None if own is None else own[: len(batch[0])] for own, batch in zip(labels, used, strict=True))
