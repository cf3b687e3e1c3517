"""`qcompiler bisect`: the first step of a run, and the place in it, that breaks a check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from qcompiler.cli.history import History, check_weights, history
from qcompiler.cli.options import examples, model_options, print_json, shared
from qcompiler.cli.sources import Reading, find_in_file
from qcompiler.cli.steps import headline

if TYPE_CHECKING:
    from qcompiler.bisecting import Guilty, Judge, Steps, Trial
    from qcompiler.ir.program import Program
    from qcompiler.pipeline import Step


@click.command(
    "bisect",
    epilog=examples(
        "qcompiler bisect run --metric 'sqnr>30'                 the first step after which the results are worse",
        "qcompiler bisect run --metric 'max_error<1e-3' --json",
        "qcompiler bisect run --check script.py                  script.py: def check(model) -> bool",
        "qcompiler bisect model.onnx --recipe w8a8 --calibration samples.npz --metric 'sqnr>25'",
    ),
)
@click.argument("model")
@click.option("--metric", help="What holds of a good program: sqnr>30, max_error<1e-3, cosine>0.99, against the start.")
@click.option(
    "--check",
    "script",
    metavar="FILE.py[:FUNCTION]",
    help="A function, `check` unless named, that is called with each program, which runs like the model, and says "
    "whether it is good.",
)
@click.option("--recipe", help="Run this recipe's passes. Default: only the canonical ones.")
@click.option("--passes", metavar="TEXT", help="Run these passes instead: 'name{option=value},name'.")
@model_options
@shared
def bisect_command(
    model: str,
    metric: str | None,
    script: str | None,
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
    """Find the first pass of MODEL that breaks a check, and the first place in it, in few evaluations.

    MODEL is the folder of a run, or anything that `dump` takes, whose passes then run once. A run without weights
    (`--dump-weights digests`) cannot be bisected.
    """
    from qcompiler.bisecting import bisect, metric_judge

    if (metric is None) == (script is None):
        raise click.UsageError("give --metric or --check")
    found = history(model, Reading(calibration, inputs, target, plan, seed, dynamic, weights), recipe, passes)
    noted, steps = states(found)
    kernels = found.target().backend.meanings()
    judge = metric_judge(metric, steps.program(0), found.sample(), kernels) if metric else script_judge(str(script))
    answer = bisect(steps, judge, trusted_start=metric is not None)
    told = {step.number: step for step in noted}
    if isinstance(answer, tuple):
        return print_all_good(answer, as_json)
    return print_guilty(answer, told[answer.number], found.sample_text if metric else "", as_json)


def states(found: History) -> tuple[list[Step], Steps]:
    """What was noted of the steps, and the programs between them.

    Raises:
        InputError: for a run that kept no weights.
    """
    from qcompiler.bisecting import Steps
    from qcompiler.certificate import claims_between

    if found.run is not None:
        run = found.run
        check_weights(run)
        noted = [step.step for step in run.steps]
        return noted, Steps(_changing(noted), run.program, lambda number: run.step(number).moved)
    reached = found.programs(set(range(len(found.texts) + 1)))
    noted, programs = [step for step, _ in reached], [program for _, program in reached]

    def moved(number: int) -> tuple[str, ...]:
        return tuple(claims_between(programs[number - 1], programs[number]))

    return noted, Steps(_changing(noted), lambda number: programs[number], moved)


def _changing(noted: list[Step]) -> list[int]:
    return [step.number for step in noted if step.edits or not step.number]


def script_judge(source: str) -> Judge:
    """The check that a Python file defines.

    Raises:
        InputError: when the file or the function is missing.
    """
    from qcompiler.bisecting import Verdict
    from qcompiler.errors import InputError

    path, _, name = source.partition(":")
    check = find_in_file(Path(path), name or "check")
    if not callable(check):
        raise InputError(f"'{name or 'check'}' is no function", where=path, mend="define check(model) -> bool")

    def judge(program: Program) -> Verdict:
        good = bool(check(program.run))
        return Verdict(good, "good" if good else "bad")

    return judge


def print_all_good(trials: tuple[Trial, ...], as_json: bool) -> None:
    """Says that nothing is wrong."""
    if as_json:
        return print_json({"step": None, "trials": [_trial_json(trial) for trial in trials]})
    last = trials[-1].verdict.text if trials else "no step changed anything"
    return click.echo(f"nothing breaks the check: {last} after the last step")


def print_guilty(found: Guilty, step: Step, sample: str, as_json: bool) -> None:
    """Prints the step, the place in it, and its text before and after."""
    from qcompiler.hybrid import region_text

    site = found.site
    before = region_text(found.seam.before, site.before) if site else ""
    after = region_text(found.seam.after, site.after) if site else ""
    if as_json:
        place = {"value": site.value, "module": site.module, "before": before, "after": after} if site else None
        return print_json(
            {
                "step": {"number": step.number, "pass": step.text},
                "site": place,
                "sites": found.sites,
                "why_no_site": found.why_no_site,
                "trials": [_trial_json(trial) for trial in found.trials],
                "site_trials": [_trial_json(trial) for trial in found.site_trials],
            }
        )
    for trial in (*found.trials, *found.site_trials):
        click.echo(f"  {trial.what}: {trial.verdict.text}{'' if trial.verdict.good else '  <- bad'}")
    counts = f"{len(found.trials)} evaluations for the step, {len(found.site_trials)} for the place"
    click.secho(
        f"step {step.number} {step.text} breaks the check{' on ' + sample if sample else ''} ({counts})", bold=True
    )
    click.echo(f"  {headline(step)}")
    if site is None:
        return click.echo(f"  where in it cannot be told: {found.why_no_site}")
    where = f" of module {site.module}" if site.module else ""
    click.echo(f"first at %{site.value}{where}, one of {found.sites} places that it edited")
    click.secho(_indented("- ", before), fg="red")
    click.secho(_indented("+ ", after), fg="green")
    return None


def _indented(mark: str, text: str) -> str:
    return "\n".join(f"{mark}{line}" for line in text.splitlines())


def _trial_json(trial: Trial) -> dict[str, object]:
    return {"what": trial.what, "good": trial.verdict.good, "value": trial.verdict.text}
