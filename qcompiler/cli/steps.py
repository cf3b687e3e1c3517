"""Choosing steps by name or number, and printing what they made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qcompiler.ir.program import Program
    from qcompiler.pipeline import Step

ALL = "all"


def select_steps(wanted: str, passes: Sequence[str]) -> set[int]:
    """Numbers of the steps that `wanted` names: a pass, a number (0 is the start) or `all`; `passes` by name.

    Raises:
        click.BadParameter: when no step has that name or number.
    """
    numbers = range(len(passes) + 1)
    if wanted == ALL:
        return set(numbers)
    found = {number for number, name in enumerate(passes, 1) if name == wanted}
    if wanted.isdecimal() and int(wanted) in numbers:
        found.add(int(wanted))
    if not found:
        names = ", ".join(f"{number} {name}" for number, name in enumerate(passes, 1))
        raise click.BadParameter(f"no step is called '{wanted}'; the steps are 0 (the start), {names}, and all")
    return found


def headline(step: Step) -> str:
    """One line about a finished step."""
    error = "" if step.error is None else f", largest difference {step.error:.2g}"
    return f"after {step.number} {step.text}: {step.edits} edits, {step.seconds:.3f} s{error}"


def step_json(step: Step, program: str | None = None) -> dict[str, object]:
    """A finished step as plain data, with the text of the program after it when given."""
    data: dict[str, object] = {
        "number": step.number,
        "pass": step.text,
        "edits": step.edits,
        "seconds": step.seconds,
        "peak_bytes": step.peak_bytes,
        "error": step.error,
    }
    return data if program is None else {**data, "program": program}


def printing(numbers: set[int], to_stderr: bool = False) -> Callable[[Step, Program], None]:
    """A `show` function that prints the program after each of the chosen steps."""

    def show(step: Step, program: Program) -> None:
        if step.number in numbers:
            print_program(headline(step), program, to_stderr)

    return show


def print_program(head: str, program: Program, to_stderr: bool = False) -> None:
    """Prints a program under a comment line; the output parses as `.qir`."""
    click.echo(f"# {head}", err=to_stderr)
    click.echo(str(program), err=to_stderr)
