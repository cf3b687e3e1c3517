"""`qcompiler diff`: what a pass changed, or what differs between two programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from qcompiler.cli.dump import dump_job, programs_after
from qcompiler.cli.options import examples, model_options, print_json, print_table, shared
from qcompiler.cli.sources import Reading
from qcompiler.cli.steps import ALL, select_steps

if TYPE_CHECKING:
    from qcompiler.cli.diffing import Difference, Numbers
    from qcompiler.ir.program import Program
    from qcompiler.job import Job

WORST = 20
_MARKS = {"added": "+", "removed": "-", "changed": "~"}
_COLOURS = {"added": "green", "removed": "red", "changed": "yellow"}


@click.command(
    "diff",
    epilog=examples(
        "qcompiler diff model.onnx --pass fold_batch_norm          what one pass changed",
        "qcompiler diff model.onnx --recipe w8a8 --calibration samples.npz --pass apply_plan",
        "qcompiler diff dump/03-fold_constants.qir dump/04-fold_batch_norm.qir",
        "qcompiler diff artefact_a artefact_b --calibration samples.npz",
        "qcompiler diff model.onnx net.py:build                     the canonical programs of both",
    ),
)
@click.argument("model")
@click.argument("other", required=False)
@click.option("--pass", "step", metavar="NAME|N", help="Compare MODEL before and after this pass.")
@click.option("--recipe", help="Run this recipe's passes. Default: only the canonical ones.")
@click.option("--passes", metavar="TEXT", help="Run these passes instead: 'name{option=value},name'.")
@model_options
@shared
def diff_command(
    model: str,
    other: str | None,
    step: str | None,
    recipe: str | None,
    passes: str | None,
    calibration: Path | None,
    inputs: Path | None,
    target: str,
    plan: Path | None,
    seed: int,
    dynamic: Literal["auto", "none"],
    weights: Path | None,
    as_json: bool,
) -> None:
    """Show what differs between two programs: nodes by name, and values in decibels on one sample.

    Either MODEL and OTHER, each an ONNX file, module.py:function, a .qir file or the folder of an artefact; or
    MODEL before and after one pass. Without --calibration or --inputs the sample is made up (seeded), and the
    output says so.
    """
    from qcompiler.cli.diffing import difference

    if (other is None) == (step is None):
        raise click.UsageError("give a second program, or --pass NAME")
    reading = Reading(calibration, inputs, target, plan, seed, dynamic, weights)
    job = dump_job(model, reading, recipe, passes, "off")
    if step is not None:
        before, after = around_step(job, step)
    else:
        before, after = final(job), final(dump_job(str(other), reading, recipe, passes, "off"))
    made_up = not job.batches and job.example is None
    found = difference(before, after, job.sample, job.target.backend.meanings())
    if as_json:
        return print_json({**found.to_json(), "sample": "made up" if made_up else "real"})
    return print_difference(found, made_up)


def around_step(job: Job, step: str) -> tuple[Program, Program]:
    """The programs before and after the first step that `step` names.

    Raises:
        click.BadParameter: when there is no such step.
    """
    number = min(select_steps(step, job.passes))
    if step == ALL or number == 0:
        raise click.BadParameter("--pass takes the name or the number of one pass")
    (_, before), (_, after) = programs_after(job, {number - 1, number})
    return before, after


def final(job: Job) -> Program:
    """The program after the job's last pass."""
    return programs_after(job, {len(job.passes)})[-1][1]


def print_difference(found: Difference, made_up: bool) -> None:
    """Prints the changes as `+ - ~` lines, and the worst values."""
    for change in found.changes:
        mark = f"{_MARKS[change.kind]} %{change.name} = "
        text = change.after or change.before
        if change.kind == "changed":
            text = f"{change.before}\n{' ' * (len(mark) - 3)}-> {change.after}"
        click.secho(mark + text, fg=_COLOURS[change.kind])
    counts = {kind: sum(change.kind == kind for change in found.changes) for kind in _MARKS}
    click.echo(", ".join(f"{count} {kind}" for kind, count in counts.items()) + f", {found.unchanged} unchanged")
    if found.numbers is None:
        click.echo(f"no numbers: {found.no_numbers}")
        return
    _print_numbers(found.numbers, "a made-up sample" if made_up else "a real sample")


def _print_numbers(numbers: Numbers, sample: str) -> None:
    from qcompiler.report.words import db_text

    def decibels(value: float) -> str:
        text = db_text(value)
        return text if text.isalpha() else f"{text} dB"

    click.echo(f"\nresults on {sample}: {decibels(numbers.output_sqnr_db)}")
    exact = [name for name, value in numbers.values.items() if db_text(value) == "exact"]
    worst = sorted((value, name) for name, value in numbers.values.items() if name not in exact)
    click.echo(f"{len(numbers.values)} values in both programs, {len(exact)} exactly equal")
    if worst:
        title = f"the {WORST} worst of {len(worst)} that differ" if len(worst) > WORST else "those that differ"
        click.echo(f"{title}:")
        print_table(("value", "SQNR"), [(f"%{name}", decibels(value)) for value, name in worst[:WORST]])
