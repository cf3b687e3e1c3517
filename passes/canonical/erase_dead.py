"""Dead code: operators and parameters that no result depends on.

Formula   a node without readers goes, from the last to the first
Shapes    any
Promise   Structural
Needs     nothing
Source    own
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.pipeline import Context, Promise, Structural


@dataclass(frozen=True)
class EraseDead:
    """Removes what no result depends on."""

    name: ClassVar[str] = "erase_dead"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Structural()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program without dead nodes."""
        program.erase_dead()
        return program
