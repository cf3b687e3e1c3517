"""`qcompiler diff`: what a pass changed, or what differs between two programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from qcompiler.cli.history import History, history
from qcompiler.cli.options import examples, model_options, print_json, print_table, shared
from qcompiler.cli.sources import Reading
from qcompiler.cli.steps import ALL, select_steps

if TYPE_CHECKING:
    from qcompiler.cli.diffing import Change, Difference, Latency, Numbers
    from qcompiler.ir.program import Program
    from qcompiler.stats import Batch

WORST = 20
_MARKS = {"added": "+", "removed": "-", "changed": "~", "renamed": "="}
_COLOURS = {"added": "green", "removed": "red", "changed": "yellow", "renamed": "cyan"}


@click.command(
    "diff",
    epilog=examples(
        "qcompiler diff model.onnx --pass fold_batch_norm          what one pass changed",
        "qcompiler diff model.onnx --recipe w8a8 --calibration samples.npz --pass apply_plan",
        "qcompiler diff dump/03-fold_constants.qir dump/04-fold_batch_norm.qir",
        "qcompiler diff run --steps start..nearest                  two passes of one run",
        "qcompiler diff run_a run_b                                 where two runs ended",
        "qcompiler diff artefact_a artefact_b --calibration samples.npz",
        "qcompiler diff model.onnx net.py:build                     the canonical programs of both",
    ),
)
@click.argument("model")
@click.argument("other", required=False)
@click.option("--pass", "step", metavar="NAME|N", help="Compare MODEL before and after this pass.")
@click.option("--steps", metavar="FROM..TO", help="Compare MODEL after two of its passes, each a name, N or `start`.")
@click.option("--recipe", help="Run this recipe's passes. Default: only the canonical ones.")
@click.option("--passes", metavar="TEXT", help="Run these passes instead: 'name{option=value},name'.")
@model_options
@shared
def diff_command(
    model: str,
    other: str | None,
    step: str | None,
    steps: str | None,
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
    """Show what differs between two programs: nodes paired by provenance, and values in decibels on one sample.

    Either MODEL and OTHER, each an ONNX file, module.py:function, a .qir file, the folder of an artefact or of a run;
    or MODEL before and after one pass, or after two of them. Two artefacts are timed as well. Without --calibration or
    --inputs the sample is that of the run, or made up (seeded), and the output says so.
    """
    from dataclasses import replace

    from qcompiler.cli.diffing import difference

    if sum(given is not None for given in (other, step, steps)) != 1:
        raise click.UsageError("give a second program, or --pass NAME, or --steps FROM..TO")
    reading = Reading(calibration, inputs, target, plan, seed, dynamic, weights)
    found = history(model, reading, recipe, passes)
    if other is None:
        before, after = around_step(found, step) if step is not None else between(found, str(steps))
    else:
        before, after = final(found), final(history(other, reading, recipe, passes))
    sample = found.sample()
    made = difference(before, after, sample, found.target().backend.meanings())
    made = replace(made, latency=artefact_latency(model, other, sample))
    if as_json:
        return print_json({**made.to_json(), "sample": "real" if found.real else "made up"})
    return print_difference(made, found.sample_text)


def around_step(found: History, step: str) -> tuple[Program, Program]:
    """The programs before and after the first step that `step` names.

    Raises:
        click.BadParameter: when there is no such step.
    """
    number = min(select_steps(step, found.names))
    if step == ALL or number == 0:
        raise click.BadParameter("--pass takes the name or the number of one pass")
    return two(found, number - 1, number)


def between(found: History, steps: str) -> tuple[Program, Program]:
    """The programs after two steps, written `FROM..TO`; the last step of a name counts.

    Raises:
        click.BadParameter: when there is no such step.
    """
    first, dots, last = steps.partition("..")
    if not dots or ALL in (first, last):
        raise click.BadParameter("--steps takes two steps, such as start..nearest or 3..7")
    numbers = [max(select_steps("0" if name == "start" else name, found.names)) for name in (first, last)]
    return two(found, *numbers)


def two(found: History, first: int, last: int) -> tuple[Program, Program]:
    """The programs after two steps."""
    programs = {step.number: program for step, program in found.programs({first, last})}
    return programs[first], programs[last]


def final(found: History) -> Program:
    """The program after the last pass."""
    return found.program(len(found.texts))


def artefact_latency(model: str, other: str | None, sample: Batch) -> Latency | None:
    """How long a call of either takes, where both are artefacts that take the sample."""
    from qcompiler.cli.diffing import latency
    from qcompiler.compiler import load
    from qcompiler.errors import QCompilerError
    from qcompiler.manifest import MANIFEST_FILE

    folders = [Path(model), Path(other or "")]
    if other is None or not all((folder / MANIFEST_FILE).is_file() for folder in folders):
        return None
    try:
        before, after = (load(folder).runner for folder in folders)
        return latency(before, after, sample)
    except QCompilerError:
        return None


def print_difference(found: Difference, sample: str) -> None:
    """Prints the changes as `+ - ~ =` lines, and the worst values."""
    for change in found.changes:
        click.secho(change_text(change), fg=_COLOURS[change.kind])
    counts = {kind: sum(change.kind == kind for change in found.changes) for kind in _MARKS}
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count or kind != "renamed")
    click.echo(f"{told}, {found.unchanged} unchanged")
    if found.latency is not None:
        before, after = found.latency.before, found.latency.after
        click.echo(f"one call: {before * 1e3:.3f} ms -> {after * 1e3:.3f} ms ({after / before:.2f}x)")
    if found.numbers is None:
        click.echo(f"no numbers: {found.no_numbers}")
        return
    _print_numbers(found.numbers, sample)


def change_text(change: Change) -> str:
    """One change as text."""
    mark = f"{_MARKS[change.kind]} %{change.old_name or change.name} = "
    if change.kind == "renamed":
        return f"{_MARKS[change.kind]} %{change.old_name} -> %{change.name}"
    if change.kind != "changed":
        return mark + (change.after or change.before)
    name = f"%{change.name} = " if change.old_name else ""
    told = "" if change.weight_change is None else f"  (changed by {change.weight_change:.3g} of its norm)"
    return f"{mark}{change.before}\n{' ' * (len(mark) - 3)}-> {name}{change.after}{told}"


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
