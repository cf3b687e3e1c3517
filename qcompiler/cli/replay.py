"""`qcompiler replay`: a run again from any of its steps, with the same passes or others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcompiler.cli.history import check_weights
from qcompiler.cli.options import examples, print_json, shared
from qcompiler.cli.steps import headline, select_steps, step_json

if TYPE_CHECKING:
    from qcompiler.ir.program import Program
    from qcompiler.job import Job
    from qcompiler.pipeline import Check, DumpWeights, Options, Pass, Step
    from qcompiler.runs import Run


@click.command(
    "replay",
    epilog=examples(
        "qcompiler replay run --from 12                     again, from the program after step 12",
        "qcompiler replay run --from calibrate --dump-dir run_b",
        "qcompiler replay run --from apply_plan --passes 'calibrate{method=mse},nearest' -o edge",
    ),
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--from", "start", default="0", show_default=True, metavar="NAME|N", help="The step to go on after.")
@click.option("--passes", metavar="TEXT", help="Run these passes instead of the run's own.")
@click.option("--calibration", type=click.Path(path_type=Path), metavar="FILE.npz", help="Other calibration data.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Compile to the end, to here.")
@click.option("--force", is_flag=True, help="Replace the output folder if it exists.")
@click.option("--dump-dir", type=click.Path(path_type=Path, file_okay=False), help="Keep the new run there.")
@click.option(
    "--dump-weights",
    type=click.Choice(["auto", "digests", "all"]),
    default="auto",
    show_default=True,
    help="What the new run keeps of the weights.",
)
@click.option(
    "--check",
    type=click.Choice(["each", "stretch", "off"]),
    default="stretch",
    show_default=True,
    help="How often promises to keep the function are checked.",
)
@shared
def replay_command(
    run: Path,
    start: str,
    passes: str | None,
    calibration: Path | None,
    output: Path | None,
    force: bool,
    dump_dir: Path | None,
    dump_weights: DumpWeights,
    check: Check,
    as_json: bool,
) -> None:
    """Run the passes of the folder RUN again, from the program after any step, without the model.

    Says of every step whether it made the program that the run holds, byte for byte: it does when nothing was changed.
    """
    from qcompiler.pipeline import Options
    from qcompiler.runs import open_run

    opened = open_run(run)
    names = [step.name for step in opened.steps[1:]]
    number = max(select_steps(start, names))
    if dump_dir is not None and dump_dir.resolve() == run.resolve():
        raise click.UsageError("--dump-dir must not be the run that is replayed")
    told: list[tuple[Step, bool | None]] = []

    def show(step: Step, program: Program) -> None:
        told.append((step, same(opened, number + step.number, program)))

    job = job_of(opened, number, passes, calibration, Options(check, None, dump_dir, dump_weights, show))
    finish(job, output, force)
    if as_json:
        rows = [{**step_json(step), "number": number + step.number, "same": equal} for step, equal in told]
        return print_json({"from": number, "steps": rows, "folder": str(output) if output else None})
    for step, equal in told:
        mark = {True: "the same", False: "another program", None: "not in the run"}[equal]
        click.echo(f"{mark}: {headline(replace(step, number=number + step.number))}")
    equals = sum(equal is True for _, equal in told)
    return click.echo(f"{len(told)} steps from {number}, {equals} with the same bytes as in {run}")


def same(run: Run, number: int, program: Program) -> bool | None:
    """Whether the run holds the same program after a step; None where it has no such step."""
    return str(program) == run.text(number) if number < len(run.steps) else None


def job_of(run: Run, number: int, passes: str | None, calibration: Path | None, options: Options) -> Job:
    """The job that goes on behind a step of a run.

    Raises:
        InputError: when the run kept no weights, or no calibration data and none is given.
    """
    import yaml

    from qcompiler.data import calibration_batches
    from qcompiler.job import Job, backends
    from qcompiler.pass_text import parse_passes
    from qcompiler.passes.recipes import Recipe, catalogue
    from qcompiler.targets import load_target

    check_weights(run)
    program = run.program(number)
    words = yaml.safe_load(run.head.recipe)
    all_passes = parse_passes(",".join(run.head.passes), catalogue())
    chosen: list[Pass] = list(all_passes[number:] if passes is None else parse_passes(passes, catalogue()))
    own = len(all_passes) - len(words["passes"])
    own_passes = all_passes[own:] if passes is None else [*all_passes[own:number], *chosen]
    recipe = Recipe(words["name"], tuple(own_passes), words.get("description", ""))
    batches = run.batches() if calibration is None else calibration_batches(run.program(0), str(calibration))
    sample = run.sample() if run.head.real else None
    return Job(
        program,
        load_target(run.head.target, backends()),
        tuple(chosen),
        recipe,
        batches,
        sample,
        run.head.seed,
        options,
        lambda line: None,
        run.reference(number),
    )


def finish(job: Job, output: Path | None, force: bool) -> None:
    """Runs the passes, and compiles to the end when there is a place for it."""
    from qcompiler.compiler import build
    from qcompiler.job import run_job

    if output is None:
        run_job(job)
    else:
        build(job, output=output, force=force)
