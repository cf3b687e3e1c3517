"""What builds the variants of a layer: launches for one number of rows at a time, gathered where they are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qcompiler.backends.cuda.arch import Architecture
from qcompiler.backends.cuda.layer import Launch, Part, Scratch, Variant

STEP = "assemble"
"""Named by errors and by nodes that are made on the way to a library."""
_ROWS = (*range(1, 9), 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
"""For which kernels are chosen; a choice holds from the number before on."""


@dataclass
class Plan:
    """A variant while it is built.

    Args:
        rows: for which kernels are chosen.
        architecture: likewise.
        bounded: whether no call has more rows, so that workspaces may have the size that these need.
        launches: so far.
        parts: of the workspace.
        counters: so far.
    """

    rows: int
    architecture: Architecture
    bounded: bool
    launches: list[Launch] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    counters: int = 0

    def take(self, per_row: int, fixed: int = 0) -> Scratch:
        """A new part of the workspace, in bytes."""
        self.parts.append(Part(per_row=per_row, fixed=fixed))
        return Scratch(scratch=len(self.parts) - 1)


Step = Callable[[Plan], None]
"""Adds launches."""


def variants_of(steps: Sequence[Step], architecture: Architecture) -> tuple[Variant, ...]:
    """The variants of a layer that takes these steps, in order of rows."""
    found: list[Variant] = []
    for rows in (*_ROWS, None):
        plan = Plan(rows or _ROWS[-1], architecture, rows is not None)
        for step in steps:
            step(plan)
        made = Variant(most=rows, launches=tuple(plan.launches), workspace=tuple(plan.parts), counters=plan.counters)
        if found and found[-1].model_copy(update={"most": rows}) == made:
            found[-1] = made
        else:
            found.append(made)
    return tuple(found)
