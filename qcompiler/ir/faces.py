"""What a Program offers that is made on higher floors: its text, its value, its rules, and its looks in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from qcompiler.notebook import MOST_ROWS, Shown, table

if TYPE_CHECKING:
    from qcompiler.ir.program import Program


class Faces:
    """Methods of Program, which is the only class below."""

    def __str__(self) -> str:
        from qcompiler.ir.text import print_program  # the printer stands one floor above

        return print_program(_whole(self))

    def run(self, *args: object, **kwargs: object) -> object:
        """Runs the program as its model is called; see `interp.run`."""
        from qcompiler.ir.interp import run  # evaluation stands above

        return run(_whole(self), *args, **kwargs)

    def verify(self) -> None:
        """Checks the rules of its stage; raises VerifyError. See `ir.verify`."""
        from qcompiler.ir.verify import verify  # the rules stand above

        verify(_whole(self))

    def show(self) -> Shown:
        """The program as a page to look at: its modules, operators and flow of data.

        In a notebook the last line `program.show()` of a cell shows it; elsewhere `.open()` does, or `.save(path)`.
        """
        from qcompiler.page import program_page  # pages show programs

        return Shown(program_page(_whole(self)))

    def _repr_html_(self) -> str:
        from qcompiler.ir.text import print_type

        program = _whole(self)
        nodes = program.nodes
        rows = [
            (f"%{node.name}", program.op(node), print_type(program.type(node)), program.origin(node).module)
            for node in nodes[:MOST_ROWS]
        ]
        params = f"{len(program.inputs)} inputs, {len(program.param_nodes)} parameters"
        caption = f"@{program.name}, {program.stage}: {len(nodes)} operators, {params}"
        return table(caption, ("node", "operator", "type", "module"), rows, len(nodes), "program.show() draws it")


def _whole(program: Faces) -> Program:
    return cast("Program", program)
