"""The steps behind what a command line names: of a run that is over, or of passes that run when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcompiler.cli.sources import Reading, make_job

if TYPE_CHECKING:
    from qcompiler.ir.program import Program
    from qcompiler.job import Job
    from qcompiler.pipeline import Check, Step
    from qcompiler.runs import Run
    from qcompiler.stats import Batch
    from qcompiler.target import Target


@dataclass(frozen=True)
class History:
    """The programs that passes made of a model, step by step; step 0 is the model as it was read.

    Args:
        texts: of the passes.
        programs: the chosen steps with the program after each, in order.
        sample: flat inputs on which numbers are measured.
        real: whether they are the user's and not made up.
        target: the device.
        run: the folder that it was read from, if it was.
        job: the passes to run, if they were not.
    """

    texts: tuple[str, ...]
    programs: Callable[[set[int]], list[tuple[Step, Program]]]
    sample: Callable[[], Batch]
    real: bool
    target: Callable[[], Target]
    run: Run | None = None
    job: Job | None = None

    @property
    def names(self) -> list[str]:
        """Names of the passes."""
        return [text.partition("{")[0] for text in self.texts]

    def program(self, number: int) -> Program:
        """The program after one step."""
        return self.programs({number})[-1][1]

    @property
    def sample_text(self) -> str:
        """What numbers were measured on."""
        return "a real sample" if self.real else "a made-up sample"


def history(
    model: str, reading: Reading, recipe: str | None = None, passes: str | None = None, check: Check = "off"
) -> History:
    """The steps of what a command line names.

    Without recipe and passes, a model goes through the canonical passes, a program and an artefact through none; a run
    folder has the steps that it holds.

    Raises:
        click.UsageError: for a recipe or passes beside a run folder, or for both of them.
        QCompilerError: when the model or the folder cannot be read.
    """
    from qcompiler.runs import is_run, open_run

    if recipe is not None and passes is not None:
        raise click.UsageError("give --recipe or --passes, not both")
    if is_run(Path(model)):
        if recipe is not None or passes is not None:
            raise click.UsageError(f"{model} holds a run, with passes of its own; `qcompiler replay` runs others")
        return of_run(open_run(model), reading)
    return of_job(plain_job(model, reading, recipe, passes, check))


def plain_job(model: str, reading: Reading, recipe: str | None, passes: str | None, check: Check) -> Job:
    """The job behind a look: without recipe and passes, the canonical ones for a traced model, else none."""
    from qcompiler.ir.program import Stage
    from qcompiler.passes.recipes import Recipe
    from qcompiler.pipeline import Options

    job = make_job(model, reading, recipe or Recipe("canonical", ()), passes, Options(check=check))
    alone = recipe is None and passes is None
    return replace(job, passes=()) if alone and job.program.stage != Stage.TRACED else job


def of_job(job: Job) -> History:
    """The steps of a job, which runs as far as needed whenever programs are asked for."""
    from qcompiler.pass_text import pass_text

    texts = tuple(pass_text(pass_) for pass_ in job.passes)
    real = bool(job.batches) or job.example is not None
    return History(
        texts, lambda numbers: programs_after(job, numbers), lambda: job.sample, real, lambda: job.target, job=job
    )


def of_run(run: Run, reading: Reading) -> History:
    """The steps that a run folder holds."""
    from qcompiler.data import calibration_batches
    from qcompiler.job import backends
    from qcompiler.summary import first_rows
    from qcompiler.targets import load_target

    def programs(numbers: set[int]) -> list[tuple[Step, Program]]:
        return [(run.step(number).step, run.program(number)) for number in sorted(numbers)]

    def sample() -> Batch:
        if reading.calibration is None:
            return run.sample()
        program = run.program(0)
        return first_rows(program, calibration_batches(program, str(reading.calibration))[0], 2)

    real = run.head.real or reading.calibration is not None
    texts = tuple(step.step.text for step in run.steps[1:])
    return History(texts, programs, sample, real, lambda: load_target(run.head.target, backends()), run=run)


def check_weights(run: Run) -> None:
    """Refuses a run with which nothing can be computed.

    Raises:
        InputError: when it kept digests of its weights alone.
    """
    from qcompiler.errors import InputError

    if run.weights != "all":
        raise InputError(
            "the run kept digests of its weights alone, so that nothing can be computed",
            where=str(run.folder),
            mend="run `qcompiler compile` again with --dump-dir and --dump-weights all",
        )


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

    if max(numbers):
        run_job(replace(job, options=replace(job.options, show=keep, stop_after=max(numbers))))
    return found


def steps_of(found: History) -> Sequence[Step]:
    """What was noted of all steps; a model runs through all of its passes for that."""
    if found.run is not None:
        return [step.step for step in found.run.steps]
    return [step for step, _ in found.programs(set(range(len(found.texts) + 1)))]
