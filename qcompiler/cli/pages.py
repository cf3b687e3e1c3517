"""The page of what a command line names: the one in an artefact, or one made of the steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qcompiler.cli.history import History, steps_of

if TYPE_CHECKING:
    from qcompiler.ir.program import Program
    from qcompiler.page import PageData
    from qcompiler.pipeline import Step
    from qcompiler.report import Report

DIGESTS = "the run kept digests of its weights alone, so that nothing was measured"
UNQUANTIZED = "the last program is {}, not quantized, so that there are no layers to measure"


def is_artefact(folder: Path) -> bool:
    """Whether a folder is an artefact."""
    from qcompiler.manifest import MANIFEST_FILE

    return (folder / MANIFEST_FILE).is_file()


def artefact_page(folder: Path) -> str:
    """The page that lies in an artefact.

    Raises:
        InputError: when it cannot be read.
    """
    from qcompiler.artifact import PAGE_FILE
    from qcompiler.errors import InputError

    try:
        return (folder / PAGE_FILE).read_text(encoding="utf-8")
    except OSError as error:
        mend = "give the folder of the run that made it, or compile again"
        raise InputError(f"the artefact lacks its page: {error.strerror}", where=str(folder), mend=mend) from error


def history_page(found: History) -> str:
    """A page of the steps: graph, texts, and where the last program is quantized, its layers measured on the sample.

    Raises:
        QCompilerError: when a step cannot be read or run.
    """
    from qcompiler.page import html

    steps = steps_of(found)
    texts, canonical, last = _programs(found)
    report, data = _described(found, steps, texts, canonical, last)
    return html(report, data)


def _programs(found: History) -> tuple[dict[int, str], Program, Program]:
    """The text after each step, the last canonical program (else the first) and the last one."""
    if found.run is not None:
        numbers = range(len(found.run.steps))
        canonical = [number for number in numbers if found.run.steps[number].stage == "canonical"] or [0]
        texts = {number: found.run.text(number) for number in numbers}
        return texts, found.run.program(canonical[-1]), found.run.program(numbers[-1])
    every = found.programs(set(range(len(found.texts) + 1)))
    floats = [program for _, program in every if program.stage == "canonical"] or [every[0][1]]
    return {step.number: str(program) for step, program in every}, floats[-1], every[-1][1]


def _described(
    found: History, steps: Sequence[Step], texts: dict[int, str], canonical: Program, last: Program
) -> tuple[Report, PageData]:
    from qcompiler.ir.program import Stage
    from qcompiler.manifest import library_versions
    from qcompiler.measure import measure_layers
    from qcompiler.page.data import page_data
    from qcompiler.report import Report
    from qcompiler.summary import layer_reports, parameter_bytes

    target = found.target()
    report = Report(
        last.name,
        target.name,
        "run" if found.run is not None else "passes",
        float_bytes=parameter_bytes(canonical),
        seconds=sum(step.seconds for step in steps),
        peak_bytes=max((step.peak_bytes for step in steps), default=0),
        steps=tuple(replace(step, refusals=()) for step in steps if step.number),
        versions=library_versions(),
    )
    if last.stage is not Stage.QUANTIZED:
        report = replace(report, warnings=(UNQUANTIZED.format(last.stage),))
    elif found.run is not None and found.run.weights != "all":
        report = replace(report, warnings=(DIGESTS,))
    else:
        measured = measure_layers(canonical, last, [found.sample()])
        layers = layer_reports(canonical, last, {}, measured.layers, target)
        size = report.float_bytes + sum(layer.bytes - layer.float_bytes for layer in layers)
        told = () if found.real else ("errors were measured on a made-up sample",)
        report = replace(report, layers=layers, sqnr_db=measured.output_sqnr_db, quantized_bytes=size, warnings=told)
    return report, page_data(canonical, last, found.sample(), report, steps, texts)
