"""The last canonical step: the program may hold nothing that two runs would compute differently; the stage changes.

Formula   the program itself
Shapes    any
Promise   Structural
Needs     all other canonical passes
Source    own
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import UnsupportedError
from qcompiler.ir.program import Program, Stage
from qcompiler.ir.region import map_regions, nested_programs
from qcompiler.passes.canonical.site import is_random
from qcompiler.pipeline import Context, Promise, Structural


@dataclass(frozen=True)
class Canonicalize:
    """Declares the program canonical."""

    name: ClassVar[str] = "canonicalize"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Structural()

    def run(self, program: Program, ctx: Context) -> Program:
        """The same program at stage canonical.

        Raises:
            UnsupportedError: for an operator that draws random numbers.
        """
        for _, each in nested_programs(program):
            self.check(each)
        map_regions(program, _declared)
        return program

    def check(self, program: Program) -> None:
        """Refuses operators that draw random numbers."""
        for node in program.nodes:
            if is_random(node):
                raise UnsupportedError(
                    f"%{node.name} = {program.op(node)} draws random numbers",
                    where=f"module {program.origin(node).module or '(top)'}",
                    mend="put the model in eval mode; pass noise that the model needs as an input",
                )


def _declared(region: Program) -> Program:
    region = region.copy()
    region.stage = Stage.CANONICAL
    map_regions(region, _declared)
    return region
