"""`qcompiler dump`: the program after any pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from qcompiler.cli.options import examples, model_options, print_json, shared
from qcompiler.cli.sources import Reading, make_job
from qcompiler.cli.steps import headline, print_program, select_steps, step_json

if TYPE_CHECKING:
    from qcompiler.ir.program import Program
    from qcompiler.job import Job
    from qcompiler.pipeline import Check, Step


@click.command(
    "dump",
    epilog=examples(
        "qcompiler dump model.onnx                          the canonical program",
        "qcompiler dump model.onnx --after 0                as the front-end read it",
        "qcompiler dump model.onnx --after all              after every pass",
        "qcompiler dump model.onnx --recipe w8a8 --calibration samples.npz --after apply_plan",
        "qcompiler dump net.py:build --inputs example.npz",
        "qcompiler dump program.qir --passes 'assign{scheme=w4a16g32},apply_plan'",
        "qcompiler dump artefact/                           the program that an artefact holds",
        "qcompiler dump model.onnx --symmetries             where a change of basis costs nothing, and why not",
    ),
)
@click.argument("model")
@click.option("--after", metavar="NAME|N|all", help="Which step's program to print. Default: the last one's.")
@click.option("--recipe", help="Run this recipe's passes. Default: only the canonical ones.")
@click.option("--passes", metavar="TEXT", help="Run these passes instead: 'name{option=value},name'.")
@click.option(
    "--check",
    type=click.Choice(["each", "stretch", "off"]),
    default="stretch",
    show_default=True,
    help="How often promises to keep the function are checked.",
)
@click.option("--symmetries", is_flag=True, help="Print the symmetries of the program instead of its text.")
@model_options
@shared
def dump_command(
    model: str,
    after: str | None,
    recipe: str | None,
    passes: str | None,
    check: Check,
    symmetries: bool,
    calibration: Path | None,
    inputs: Path | None,
    target: str,
    plan: Path | None,
    seed: int,
    dynamic: Literal["auto", "none"],
    weights: Path | None,
    as_json: bool,
) -> None:
    """Print the program of MODEL after any pass, as `.qir` text.

    MODEL is an ONNX file, module.py:function, a .qir file, or the folder of an artefact.
    """
    if recipe is not None and passes is not None:
        raise click.UsageError("give --recipe or --passes, not both")
    job = dump_job(model, Reading(calibration, inputs, target, plan, seed, dynamic, weights), recipe, passes, check)
    shown = programs_after(job, select_steps(after or str(len(job.passes)), job.passes))
    if symmetries:
        return print_symmetries([program for _, program in shown], as_json)
    if as_json:
        return print_json([step_json(step, program) for step, program in shown])
    for step, program in shown:
        print_program(headline(step) if step.number else "as read", program)
    return None


def print_symmetries(programs: Sequence[Program], as_json: bool) -> None:
    """Prints the symmetries of programs at stage canonical.

    Raises:
        InputError: when a program is at another stage.
    """
    from qcompiler.analysis.describe import as_json as symmetries_json
    from qcompiler.analysis.describe import describe
    from qcompiler.analysis.symmetry import symmetries
    from qcompiler.errors import InputError
    from qcompiler.ir.program import Stage

    for program in programs:
        if program.stage != Stage.CANONICAL:
            mend = "choose a step between the canonical passes and apply_plan with --after"
            raise InputError(f"symmetries are those of a canonical program, this one is {program.stage}", mend=mend)
    if as_json:
        return print_json([symmetries_json(program, symmetries(program)) for program in programs])
    for program in programs:
        click.echo(describe(program, symmetries(program)))
    return None


def dump_job(model: str, reading: Reading, recipe: str | None, passes: str | None, check: Check) -> Job:
    """The job behind a dump: without recipe and passes, the canonical ones for a traced model, else none."""
    from qcompiler.ir.program import Stage
    from qcompiler.passes.recipes import Recipe
    from qcompiler.pipeline import Options

    job = make_job(model, reading, recipe or Recipe("canonical", ()), passes, Options(check=check))
    alone = recipe is None and passes is None
    return replace(job, passes=()) if alone and job.program.stage != Stage.TRACED else job


def programs_after(job: Job, numbers: set[int]) -> list[tuple[Step, Program]]:
    """Runs a job as far as needed; the chosen steps with the programs after them, step 0 being the start."""
    from qcompiler.job import run_job
    from qcompiler.pipeline import Step, peak_bytes

    found: list[tuple[Step, Program]] = []
    if 0 in numbers:
        found.append((Step(0, "start", 0, 0.0, peak_bytes()), job.program))

    def keep(step: Step, program: Program) -> None:
        if step.number in numbers:
            found.append((step, program))

    run_job(replace(job, options=replace(job.options, show=keep, stop_after=max(numbers))))
    return found
