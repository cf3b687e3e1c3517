"""What fills the cost tables of an allocation problem: costs say what options take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from qcompiler.ir.program import Program
from qcompiler.passes.allocate.problem import Table, Unit
from qcompiler.pipeline import Context


@dataclass(frozen=True)
class Costs:
    """What one resource takes.

    Args:
        table: [unit][option].
        fixed: of everything that no unit decides.
        reference: of the whole float program, which a budget such as `4x` is relative to.
        pairs: [option of the left][option of the right] of two units by number, such as changes of format.
    """

    table: Table
    fixed: float = 0.0
    reference: float = 0.0
    pairs: Mapping[tuple[int, int], Table] = field(default_factory=dict)


class Cost(Protocol):
    """How much of one resource each option of each unit takes; a frozen dataclass."""

    resource: ClassVar[str]

    def measure(self, program: Program, units: Sequence[Unit], ctx: Context) -> Costs:
        """The costs.

        Args:
            program: at stage canonical; not to be changed.
            units: with their options.
            ctx: `target` is the device.
        """
        ...
