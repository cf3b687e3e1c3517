"""`qcompiler compile`: from a model to the folder that runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from qcompiler.cli.options import examples, model_options, print_json, shared
from qcompiler.cli.progress import Mode, make_progress
from qcompiler.cli.sources import Reading, make_job
from qcompiler.cli.steps import print_program, printing, select_steps

if TYPE_CHECKING:
    from qcompiler.artifact import Artifact
    from qcompiler.budget import Budget
    from qcompiler.job import Job
    from qcompiler.pipeline import Check, DumpWeights


@click.command(
    "compile",
    epilog=examples(
        "qcompiler compile model.onnx --calibration samples.npz -o model_int8",
        "qcompiler compile net.py:build --calibration samples.npz --recipe w4a16g32 -o model_int4",
        "qcompiler compile model.onnx --recipe w8a8_dynamic --strict -o model_int8 --force",
        "qcompiler compile model.onnx --calibration samples.npz --target jetson --budget size=3.5x -o edge",
        "qcompiler compile model.onnx --calibration samples.npz --recipe mixed --budget average_bits=4.2 -o edge",
        "qcompiler compile model.onnx --calibration samples.npz -o edge --dump-dir run",
        "qcompiler compile model.onnx --calibration samples.npz --budget average_bits=4.2 --frontier size -o edge",
        "qcompiler compile model.onnx --calibration samples.npz --dump-dir run            the passes alone",
        "qcompiler compile model.onnx --calibration samples.npz --stop-after 3",
    ),
)
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Where the artefact goes.")
@click.option("--force", is_flag=True, help="Replace the output folder if it exists.")
@click.option("--recipe", default="auto", show_default=True, help="A name, a scheme such as w4a16g64, or a YAML file.")
@model_options
@click.option(
    "--budget",
    metavar="LIMIT,...",
    help="What the artefact may cost: size=4x or 500kB, latency=0.5x or 2ms, average_bits=4.2, peak_memory, bops, "
    "max_drop. Recipe `mixed` allocates under it; exceeding it is an error.",
)
@click.option(
    "--frontier",
    metavar="RESOURCE[:OBJECTIVE]|...",
    help="Draw into the report what each amount of a resource buys, beside uniform plans: size, size:latency, ...",
)
@click.option(
    "--states",
    multiple=True,
    metavar="INPUT=RESULT",
    help="An input that the model keeps from call to call, from zero on, and the result that it gets; repeatable.",
)
@click.option("--strict", is_flag=True, help="Fail when a layer does not run as it was asked to.")
@click.option(
    "--keep-float",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Keep the float program in the output folder, so that `explain` works without the model; `auto` means up to "
    "256 MB.",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "json", "none"]),
    default="auto",
    show_default=True,
    help="On the error stream: a bar on a terminal and lines elsewhere, lines, JSON lines, nothing.",
)
@click.option("--print-after", metavar="NAME|N|all", help="Print the program after these steps.")
@click.option(
    "--dump-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the run there: the program after every step, what every pass refused and why, the sample, and a "
    "certificate of every change of basis. dump, diff, why, bisect and replay read it without the model.",
)
@click.option(
    "--dump-weights",
    type=click.Choice(["auto", "digests", "all"]),
    default="auto",
    show_default=True,
    help="What a run keeps of the weights, each stored once: all of them, which `auto` means up to 2 GB, or digests "
    "alone, with which nothing can be computed.",
)
@click.option("--stop-after", type=click.IntRange(min=0), metavar="N", help="Stop after step N and print the program.")
@click.option(
    "--check",
    type=click.Choice(["each", "stretch", "off"]),
    default="stretch",
    show_default=True,
    help="How often promises to keep the function are checked.",
)
@shared
def compile_command(
    model: str,
    output: Path | None,
    force: bool,
    recipe: str,
    calibration: Path | None,
    inputs: Path | None,
    target: str,
    plan: Path | None,
    seed: int,
    dynamic: Literal["auto", "none"],
    weights: Path | None,
    budget: str | None,
    frontier: str | None,
    states: tuple[str, ...],
    strict: bool,
    keep_float: Literal["auto", "yes", "no"],
    progress: Mode,
    print_after: str | None,
    dump_dir: Path | None,
    dump_weights: DumpWeights,
    stop_after: int | None,
    check: Check,
    as_json: bool,
) -> None:
    """Compile MODEL, an ONNX file or module.py:function, into a folder that runs.

    The function is called without arguments and returns a torch.nn.Module or an ExportedProgram. Its example
    inputs are the first calibration samples, or the arrays of --inputs.
    """
    from qcompiler.budget import Budget
    from qcompiler.job import budgeted, drawing, recipe_for
    from qcompiler.pipeline import Options

    limit = Budget.parse(budget) if budget else None
    if output is None and stop_after is None and dump_dir is None:
        raise click.UsageError("say where the artefact goes: -o FOLDER")
    reading = Reading(calibration, inputs, target, plan, seed, dynamic, weights, states)
    with make_progress(progress) as shown:
        shown.update("read", 0, 0)
        options = Options(check, stop_after, dump_dir, dump_weights, progress=shown.update)
        job = make_job(model, reading, recipe_for(recipe, limit), None, options, shown.log)
        job = budgeted(job, limit) if limit is not None else job
        job = drawing(job, frontier) if frontier is not None else job
        names = [pass_.name for pass_ in job.passes]
        if stop_after is not None:
            select_steps(str(stop_after), names)
        if print_after is not None:
            show = printing(select_steps(print_after, names), to_stderr=as_json)
            job = replace(job, options=replace(options, show=show))
        finish = _build(job, output, force, limit, strict, as_json, {"yes": True, "no": False}.get(keep_float))
    finish()


def _build(
    job: Job,
    output: Path | None,
    force: bool,
    budget: Budget | None,
    strict: bool,
    as_json: bool,
    keep_float: bool | None,
) -> Callable[[], None]:
    """Runs the job; returns what is left to print once the progress is off the screen."""
    from qcompiler.compiler import build
    from qcompiler.job import run_job

    if job.options.stop_after is not None or output is None:
        _, program, steps = run_job(job)
        if job.options.stop_after is None:
            return lambda: click.echo(f"run: {job.options.dump_dir}, {len(steps)} steps")
        return lambda: print_program(f"after {len(steps)} steps", program)
    artifact = build(job, budget=budget, output=output, strict=strict, force=force, keep_float=keep_float)
    return lambda: print_artifact(artifact, output, as_json)


def print_artifact(artifact: Artifact, folder: Path, as_json: bool) -> None:
    """Prints the report and where the artefact lies."""
    if as_json:
        return print_json({"folder": str(folder), **artifact.report.to_dict()})
    artifact.report.print()
    click.echo(f"\nartefact: {folder}  (run it with qcompiler.load, read {folder / 'report.html'})")
    return None
