"""`qcompiler bench`: how long each operator takes in each way that it may run."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from qcompiler.cli.options import examples, model_options, print_json, print_table, shared
from qcompiler.cli.sources import Reading, make_job

if TYPE_CHECKING:
    from qcompiler.cost import LatencyTable
    from qcompiler.lone_layers import Bench
    from qcompiler.promises import Checked

_SCHEMES = "w8a8|w8a8_dynamic|w4a16g32|float"
_SHOWN = 40
_SHAPE = re.compile(r"\w+\[[\d,]*\]")


@click.command(
    "bench",
    epilog=examples(
        "qcompiler bench model.onnx -o table.json",
        "qcompiler bench model.onnx --schemes 'w8a8|w4a16g128|float' --runs 100 -o table.json",
        "qcompiler bench model.onnx --table table.json --validate model_int8/plan.json -o table.json",
        "qcompiler compile model.onnx --calibration samples.npz --recipe mixed_int8.yaml --budget latency=0.6x -o edge",
    ),
)
@click.argument("model")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the table."
)
@click.option("--schemes", default=_SCHEMES, show_default=True, help="What an allocation may choose, `|` between them.")
@click.option(
    "--table",
    "known",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Keep the rows of this table and measure those that it lacks.",
)
@click.option(
    "--validate",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Time the whole model under this plan.json too, and fit the correction of sums to it.",
)
@click.option("--runs", type=click.IntRange(min=5), default=30, show_default=True, help="Timed runs of each row.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of each operator.")
@model_options
@shared
def bench_command(
    model: str,
    output: Path | None,
    schemes: str,
    known: Path | None,
    validate: tuple[Path, ...],
    runs: int,
    threads: int,
    calibration: Path | None,
    inputs: Path | None,
    target: str,
    plan: Path | None,
    seed: int,
    dynamic: Literal["auto", "none"],
    weights: Path | None,
    as_json: bool,
) -> None:
    """Time every operator of MODEL in every way that the target can run it, and whole plans against the sums.

    Operators run alone, changes of numbers around them are rows of their own, and equal operators are timed once. The
    sizes of inputs are those of the example: --inputs, or the first calibration sample.
    """
    from qcompiler.lone_layers import Bench
    from qcompiler.passes.recipes import Recipe
    from qcompiler.plan import Plan
    from qcompiler.promises import measured_table

    if plan is not None:
        raise click.UsageError("--plan replays a plan; to time one say --validate")
    reading = Reading(calibration, inputs, target, None, seed, dynamic, weights)
    recipe = Recipe.of("bench", [f"mixed_precision{{schemes={schemes}, size=1x}}"])
    job = make_job(model, reading, recipe, log=lambda line: click.echo(line, err=True))
    bench = Bench(job.target, threads, runs, job.log)
    plans = {str(path): Plan.load(path).assignments for path in validate}
    table, checked = measured_table(job, bench, _start(bench, known), plans)
    if output is not None:
        table.save(output)
    if as_json:
        return print_json(table.to_dict() | {"plans": [dict(vars(each)) for each in checked]})
    _print(table, checked)
    if output is not None:
        click.echo(f"\ntable: {output}  (allocate with it: mixed_precision{{latencies={output}, latency=0.5x, ...}})")
    return None


def _start(bench: Bench, known: Path | None) -> LatencyTable:
    """The table that is added to.

    Raises:
        InputError: when it is of another device.
    """
    from qcompiler.cost import LatencyTable
    from qcompiler.errors import InputError

    here = bench.empty()
    table = here if known is None else LatencyTable.load(known)
    if table.device != here.device:
        raise InputError(
            f"the table was measured on {table.device}, and this is {here.device}",
            where=str(known),
            mend="rows of two devices do not mix: leave --table out, or run where the table comes from",
        )
    return table


def _brief(signature: str) -> str:
    """The shapes alone."""
    return " ".join(_SHAPE.findall(signature))


def _print(table: LatencyTable, checked: list[Checked]) -> None:
    rows = sorted(table.rows, key=lambda row: -row.seconds)[:_SHOWN]
    cells = [
        (row.op, row.kernel, f"{1e6 * row.seconds:.1f}", f"{1e6 * row.spread:.1f}", _brief(row.signature))
        for row in rows
    ]
    print_table(("operator", "kernel", "us", "spread", "shapes"), cells, f"slowest of {table} on {table.device}")
    if checked:
        lines = [
            (each.name, f"{1e3 * each.predicted:.3f}", f"{1e3 * each.measured:.3f}", f"{each.error:+.1%}")
            for each in checked
        ]
        click.echo()
        print_table(("plan", "predicted ms", "measured ms", "error"), lines, "whole plans, after the correction")
    kinds = Counter(row.kind for row in table.rows)
    click.echo(f"\n{', '.join(f'{count} rows {kind}' for kind, count in kinds.items())}")
