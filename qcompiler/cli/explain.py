"""`qcompiler explain`: where the error of the results comes from, what is wrong, and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcompiler.cli.options import examples, print_json, print_table, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qcompiler.explain import Explanation
    from qcompiler.report.explanation import Finding, Mend

_ROWS = 12
_NAMED = 3


@click.command(
    "explain",
    epilog=examples(
        "qcompiler explain model_int8 --calibration samples.npz",
        "qcompiler explain model_int8 --calibration samples.npz -o fixed_plan.json",
        "qcompiler compile model.onnx --calibration samples.npz --plan fixed_plan.json -o better",
        "qcompiler explain run --json                         the folder that --dump-dir wrote, with its own samples",
    ),
)
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Samples: one array per model input. Default for a run: those that it keeps.",
)
@click.option("--samples", default=8, show_default=True, type=click.IntRange(min=1), help="How many to look at.")
@click.option("--verify", default=3, show_default=True, type=click.IntRange(min=0), help="Mends to make and measure.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the best plan that was measured there; `compile --plan` applies it.",
)
@shared
def explain_command(
    source: Path, calibration: Path | None, samples: int, verify: int, output: Path | None, as_json: bool
) -> None:
    """Split the error of SOURCE's results among its tensors and causes, say what is wrong, and rank what mends it.

    SOURCE is the folder of an artefact or of a run; the model is not needed. What was found is kept there as
    explanation.json.
    """
    from qcompiler.errors import InputError
    from qcompiler.report.explanation import EXPLANATION_FILE

    found = _explained(source, calibration, samples, verify, lambda line: click.echo(line, err=True))
    found.save(source / EXPLANATION_FILE)
    if output is not None:
        if found.plan is None:
            raise InputError("no mend that was tried helps, so that there is no plan to write", where=str(source))
        found.plan.save(output)
    if as_json:
        return print_json(found.to_dict())
    _print(found)
    if output is not None:
        click.echo(f"\nbest plan that was measured: {output}  (apply it with compile --plan {output})")
    return None


def _explained(
    source: Path, calibration: Path | None, samples: int, verify: int, log: Callable[[str], None]
) -> Explanation:
    from qcompiler.compiler import load
    from qcompiler.data import calibration_batches
    from qcompiler.errors import InputError
    from qcompiler.explain.driver import explain
    from qcompiler.explain.sources import subject_of_artifact, subject_of_run
    from qcompiler.runs import is_run, open_run

    run = open_run(source) if is_run(source) else None
    subject = subject_of_artifact(load(source)) if run is None else subject_of_run(run)
    if calibration is not None:
        batches = calibration_batches(subject.reference, str(calibration))
    else:
        batches = run.batches() if run is not None else []
    if not len(batches):
        raise InputError("there are no samples to explain the error of", mend="pass --calibration FILE.npz")
    return explain(subject, batches, samples, verify, log)


def _print(found: Explanation) -> None:
    what = "what ships" if found.deployed else "the quantized program"
    click.echo(f"@{found.model}: {what} is at {found.sqnr_db:.2f} dB on {found.samples} samples, mse {found.mse:.4g}")
    modules = {part.layer: part.module for part in found.parts}
    rows = [
        (
            f"%{part.tensor}",
            part.layer,
            part.module,
            part.cause,
            f"{part.share:.1%}",
            _channel(part.channel, part.channel_share),
        )
        for part in found.parts[:_ROWS]
    ]
    print_table(("tensor", "read by", "of module", "cause", "share of the error", "most in"), rows)
    rest = sum(part.share for part in found.parts[_ROWS:])
    click.echo(f"\n{len(found.parts)} parts, {rest:.1%} in those not shown; they explain {found.explained:.1%}")
    if found.findings:
        rows = finding_rows(found.findings, modules)
        print_table(("tensor", "of module", "what is wrong", "share of the error", "evidence"), rows, "\nfindings")
    if found.mends:
        rows = [
            (item.text, modules.get(item.layer, ""), item.kind, f"{item.predicted_db:+.2f} dB", _measured(item))
            for item in found.mends[:_ROWS]
        ]
        print_table(("mend", "of module", "kind", "foretold", "measured"), rows, "\nmends")
    for note in found.notes:
        click.echo(f"note: {note}")


def finding_rows(findings: Sequence[Finding], modules: Mapping[str, str]) -> list[tuple[str, ...]]:
    """A row for each finding, but one for all ranges of a stale calibration, with those that carry most in front.

    Args:
        findings: worst first.
        modules: source module of each layer.
    """
    rows: list[tuple[str, ...]] = []
    stale = [item for item in findings if item.kind == "stale calibration"]
    for item in findings:
        if item.kind != "stale calibration" or len(stale) <= _NAMED:
            rows.append(_row(f"%{item.tensor}", modules.get(item.layer, ""), item.kind, item.share, item.evidence))
        elif item is stale[0]:
            named = sorted(stale, key=lambda other: -other.share)[:_NAMED]
            places = ", ".join(dict.fromkeys(filter(None, (modules.get(other.layer, "") for other in named))))
            told = f"{len(stale)} activations: {', '.join(f'%{other.tensor}' for other in named)}, ..."
            evidence = item.evidence.partition(";")[0]
            rows.append(_row(told, places, item.kind, sum(other.share for other in stale), evidence))
    return rows


def _row(tensor: str, module: str, kind: str, share: float, evidence: str) -> tuple[str, ...]:
    return tensor, module, kind, f"{share:.1%}", evidence


def _channel(number: int, share: float) -> str:
    return f"channel {number}: {share:.0%}" if number >= 0 and share > 0.2 else ""


def _measured(item: Mend) -> str:
    return "" if item.measured_db is None else f"{item.measured_db:+.2f} dB"
