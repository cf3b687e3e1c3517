"""`qcompiler why`: what a pass left alone, and what would make it act."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from qcompiler.cli.history import History, history
from qcompiler.cli.options import examples, model_options, print_json, shared
from qcompiler.cli.sources import Reading
from qcompiler.cli.steps import ALL, select_steps

if TYPE_CHECKING:
    from qcompiler.ir.pattern import Refusal
    from qcompiler.reasons import Answer

MOST = 20


@click.command(
    "why",
    epilog=examples(
        "qcompiler why run assign                        what stays in float, and why",
        "qcompiler why run assign layers.3.fc            why one layer does",
        "qcompiler why run rotate 'layers.*.q_proj'      what blocks a change of basis there",
        "qcompiler why model.onnx fold_batch_norm        which norms could not be folded",
        "qcompiler why artefact assign                   the refusals of the artefact's plan",
    ),
)
@click.argument("model")
@click.argument("pass_name", metavar="PASS")
@click.argument("site", required=False)
@click.option("--all", "everything", is_flag=True, help=f"Print all refusals, not the nearest {MOST}.")
@click.option("--recipe", help="Run this recipe's passes. Default: only the canonical ones.")
@click.option("--passes", metavar="TEXT", help="Run these passes instead: 'name{option=value},name'.")
@model_options
@shared
def why_command(
    model: str,
    pass_name: str,
    site: str | None,
    everything: bool,
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
    """Say what PASS left alone in MODEL and why, or why it left SITE alone.

    MODEL is the folder of a run, or anything that `dump` takes; of an artefact, the plan says what its allocation
    refused. SITE is the name of a node, a source module, or a pattern of either.
    """
    reading = Reading(calibration, inputs, target, plan, seed, dynamic, weights)
    answers = (
        answers_of_plan(Path(model), pass_name, site)
        if recipe is None and passes is None and is_artefact(Path(model))
        else answers_of(history(model, reading, recipe, passes), pass_name, site)
    )
    if as_json:
        return print_json([answer.to_json() for answer in answers])
    if not answers:
        return click.echo(f"{pass_name} refused nothing{f' at {site}' if site else ''}")
    shown = answers if everything or site else answers[:MOST]
    for answer in shown:
        print_answer(answer)
    if len(shown) < len(answers):
        click.echo(f"{len(answers) - len(shown)} more; --all prints them")
    return None


def answers_of(found: History, pass_name: str, site: str | None) -> list[Answer]:
    """The refusals of a pass, the nearest first; of a site, whatever is known of it.

    Raises:
        click.BadParameter: when there is no such pass.
        InputError: when no node fits the site.
    """
    from qcompiler.errors import InputError
    from qcompiler.reasons import site_answers, with_places

    numbers = select_steps(pass_name, found.names)
    if pass_name == ALL or numbers == {0}:
        raise click.BadParameter("PASS is the name or the number of one pass")
    answers: list[Answer] = []
    missing: InputError | None = None
    programs = {step.number: (step, program) for step, program in found.programs(numbers | {n - 1 for n in numbers})}
    for number in sorted(numbers):
        (step, after), (_, before) = programs[number], programs[number - 1]
        if site is None:
            answers += with_places(before, nearest(step.refusals), step)
            continue
        try:
            answers += site_answers(before, after, step, site, found.target())
        except InputError as error:
            # A pass that runs twice may meet the node only once.
            missing = error
    if missing is not None and not answers:
        raise missing
    return answers


def nearest(refusals: Sequence[Refusal]) -> list[Refusal]:
    """Refusals in order of how much had fitted."""
    return sorted(refusals, key=lambda refusal: -refusal.depth)


def is_artefact(folder: Path) -> bool:
    """Whether a folder holds an artefact."""
    from qcompiler.manifest import MANIFEST_FILE

    return (folder / MANIFEST_FILE).is_file()


def answers_of_plan(folder: Path, pass_name: str, site: str | None) -> list[Answer]:
    """What the plan of an artefact refuses.

    Raises:
        InputError: when the pass is none that allocates.
    """
    from qcompiler.compiler import load
    from qcompiler.errors import InputError
    from qcompiler.passes.recipes import catalogue
    from qcompiler.pipeline import Annotates
    from qcompiler.reasons import Answer

    allocates = [cls.name for cls in catalogue() if isinstance(cls.promise, Annotates)]
    if pass_name not in allocates:
        raise InputError(
            f"an artefact does not tell what {pass_name} refused, only what its allocation did",
            where=str(folder),
            mend=f"ask of {', '.join(allocates)}, or of a run folder (`compile --dump-dir`)",
        )
    refusals = load(folder).plan.refusals
    return [
        Answer(pass_name, name, reason=reason)
        for name, reason in refusals.items()
        if site is None or name == site.lstrip("%") or fnmatchcase(name, site)
    ]


def print_answer(answer: Answer) -> None:
    """Prints one answer: the site, why not, what would change it."""
    place = f" of module {answer.module}" if answer.module else ""
    click.secho(f"%{answer.node} {answer.op}{place}".replace("  ", " "), bold=True)
    click.echo(f"  {answer.step}: {answer.reason}")
    for line in answer.details:
        click.echo(f"    {line}")
    if answer.mend:
        click.echo(f"  mend: {answer.mend}")
