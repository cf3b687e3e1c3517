"""`qcompiler dump`: the program after any pass, whole or in part, in any format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from qcompiler.cli.history import History, history
from qcompiler.cli.options import examples, model_options, print_json, shared
from qcompiler.cli.pages import artefact_page, history_page, is_artefact
from qcompiler.cli.sources import Reading
from qcompiler.cli.steps import headline, select_steps, step_json

if TYPE_CHECKING:
    from qcompiler.ir.program import Program
    from qcompiler.pipeline import Check, Step
    from qcompiler.view.columns import Column
    from qcompiler.view.facts import Columns
    from qcompiler.view.select import Selection

Format = Literal["text", "json", "dot", "model-explorer", "html"]
_COLUMNS = "specs, statistics, errors, symmetries, costs, provenance"


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
        "qcompiler dump run/ --after nearest --with errors  a step of a run folder, without the model",
        "qcompiler dump run/ --around conv2d_3 --depth 2    the neighbourhood of a node",
        "qcompiler dump run/ --module 'layers.0' --op 'linear|conv*' --with specs,costs",
        "qcompiler dump run/ --after all --format model-explorer > graph.json",
        "qcompiler dump run/ --format html > page.html      graph, layers and what each pass changed, to look at",
        "qcompiler dump model.onnx --symmetries             where a change of basis costs nothing, and why not",
    ),
)
@click.argument("model")
@click.option("--after", metavar="NAME|N|all", help="Which step's program to print. Default: the last one's.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "dot", "model-explorer", "html"]),
    default="text",
    show_default=True,
    help="html is the page: of an artefact the one that it holds, else of all steps.",
)
@click.option("--around", default="", metavar="NODE", help="Only this node (or module) and its neighbourhood.")
@click.option("--depth", type=click.IntRange(min=0), default=2, show_default=True, help="How far --around looks.")
@click.option("--from", "first", default="", metavar="NODE", help="Only what depends on this node.")
@click.option("--to", "last", default="", metavar="NODE", help="Only what this node depends on.")
@click.option("--module", default="", metavar="PATTERN", help="Only nodes of these source modules; | between patterns.")
@click.option("--op", default="", metavar="PATTERN", help="Only these operators, such as 'linear|conv*'.")
@click.option("--with", "wanted", default="", metavar="COLUMN,...", help=f"Say more of each node: {_COLUMNS}.")
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
    form: Format,
    around: str,
    depth: int,
    first: str,
    last: str,
    module: str,
    op: str,
    wanted: str,
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
    """Print the program of MODEL after any pass, as `.qir` text or in another format.

    MODEL is an ONNX file, module.py:function, a .qir file, the folder of an artefact, or the folder of a run that
    `compile --dump-dir` wrote.
    """
    from qcompiler.view.select import Selection

    chosen = choose_columns(wanted)
    if form == "html" and is_artefact(Path(model)):
        return click.echo(artefact_page(Path(model)))
    found = history(model, Reading(calibration, inputs, target, plan, seed, dynamic, weights), recipe, passes, check)
    if form == "html":
        return click.echo(history_page(found))
    numbers = select_steps(after or str(len(found.texts)), found.names)
    if symmetries:
        return print_symmetries([program for _, program in found.programs(numbers)], as_json)
    views = look(found, numbers, Selection(around, depth, first, last, module, op), chosen)
    return print_views(Path(model).name, views, "json" if as_json else form)


@dataclass(frozen=True)
class View:
    """One program as it is to be shown: the step, the chosen nodes (None for all), the columns."""

    step: Step
    program: Program
    only: frozenset[str] | None
    columns: Columns


def look(found: History, numbers: set[int], selection: Selection, chosen: Sequence[Column]) -> list[View]:
    """The chosen steps, and of each the chosen nodes with their columns.

    Raises:
        InputError: when a node that was named is in none of the programs, or a column cannot be had.
    """
    from qcompiler.view.columns import World, columns
    from qcompiler.view.select import selected

    world = World(found.sample, lambda: found.program(0), found.target().backend.meanings() if chosen else {})
    return [
        View(step, program, selected(program, selection), columns(program, chosen, world))
        for step, program in found.programs(numbers)
    ]


def print_views(name: str, views: Sequence[View], form: Format) -> None:
    """Prints programs in one of the formats."""
    from qcompiler.ir.text import print_program
    from qcompiler.view.columns import notes
    from qcompiler.view.dot import dot
    from qcompiler.view.facts import facts
    from qcompiler.view.model_explorer import model_explorer

    if form == "text":
        for view in views:
            click.echo(f"# {headline(view.step) if view.step.number else 'as read'}")
            click.echo(print_program(view.program, view.only, notes(view.columns)))
        return None
    tables = [facts(view.program, view.only, view.columns) for view in views]
    if form == "json":
        steps = [step_json(view.step, print_program(view.program, view.only)) for view in views]
        nodes = [[node.to_json() for node in table] for table in tables]
        return print_json([{**step, "nodes": rows} for step, rows in zip(steps, nodes, strict=True)])
    labels = [f"{view.step.number:02d} {view.step.text}" for view in views]
    if form == "dot":
        for label, table in zip(labels, tables, strict=True):
            click.echo(dot(f"{name} {label}", table), nl=False)
        return None
    graphs = dict(zip(labels, tables, strict=True))
    return click.echo(json.dumps(model_explorer(name, graphs)))


def choose_columns(text: str) -> list[Column]:
    """The columns that `--with` names.

    Raises:
        click.BadParameter: for one that there is not.
    """
    from qcompiler.view.columns import COLUMNS

    words = [word.strip() for word in text.split(",") if word.strip()]
    unknown = sorted(set(words) - set(COLUMNS))
    if unknown:
        raise click.BadParameter(f"there is no column '{unknown[0]}'; columns: {_COLUMNS}")
    return [column for column in COLUMNS if column in words]


def print_symmetries(programs: Sequence[Program], as_json: bool) -> None:
    """Prints the symmetries of programs at stage canonical.

    Raises:
        InputError: when a program is at another stage.
    """
    from qcompiler.analysis.describe import as_json as symmetries_json
    from qcompiler.analysis.describe import describe
    from qcompiler.analysis.symmetry import symmetries
    from qcompiler.view.columns import check_canonical

    for program in programs:
        check_canonical(program)
    if as_json:
        return print_json([symmetries_json(program, symmetries(program)) for program in programs])
    for program in programs:
        click.echo(describe(program, symmetries(program)))
    return None
