"""The float and the quantized program beside what ships: kept in the folder of an artefact, or found in a run."""

from __future__ import annotations

import json
from pathlib import Path

from qcompiler.artifact import RECIPE_FILE, Artifact
from qcompiler.data import calibration_batches
from qcompiler.errors import InputError
from qcompiler.explain.driver import Subject, explain
from qcompiler.explain.verify import passes_behind
from qcompiler.ir.program import Program
from qcompiler.job import backends
from qcompiler.pass_text import parse_passes
from qcompiler.passes.recipes import catalogue, load_recipe
from qcompiler.plan import plan_of
from qcompiler.report.explanation import Explanation
from qcompiler.runs import Run
from qcompiler.summary import parameter_bytes
from qcompiler.targets import load_target
from qcompiler.unsaid import restore, unsaid
from qcompiler.weights import read_program, write_program

FLOAT, QUANTIZED = "float", "quantized"
KEPT_BYTES = 256 << 20
"""Float weights beyond this are only kept on demand."""


def keep_sources(reference: Program, quantized: Program, folder: Path, keep: bool | None = None) -> tuple[str, ...]:
    """Writes both programs into the folder of an artefact.

    Args:
        reference: the float program, at stage canonical.
        quantized: at stage quantized.
        folder: of the artefact.
        keep: whether; None: when the float weights take 256 MB or less.

    Returns:
        names of the files.
    """
    if keep is False or (keep is None and parameter_bytes(reference) > KEPT_BYTES):
        return ()
    written: list[str] = []
    for name, program in ((FLOAT, reference), (QUANTIZED, quantized)):
        written += write_program(program, folder, *_files(name))
        notes = f"{name}.json"
        (folder / notes).write_text(json.dumps(unsaid(program), sort_keys=True), encoding="utf-8")
        written.append(notes)
    return tuple(written)


def subject_of_artifact(artifact: Artifact) -> Subject:
    """What is to be explained of an artefact.

    Raises:
        InputError: when its folder keeps no float program.
    """
    folder = artifact.folder
    if not (folder / f"{FLOAT}.json").is_file():
        raise InputError(
            "the artefact keeps no float program to compare with",
            where=str(folder),
            mend="compile with keep_float=True (--keep-float yes), or explain the folder that --dump-dir wrote",
        )
    reference, quantized = (_read(folder, name) for name in (FLOAT, QUANTIZED))
    return Subject(
        reference,
        quantized,
        load_target(artifact.manifest.target, backends()),
        artifact.plan,
        passes_behind(load_recipe(folder / RECIPE_FILE).passes),
        artifact.simulator,
        artifact.runner,
        artifact.manifest.seed,
    )


def subject_of_run(run: Run) -> Subject:
    """What is to be explained of a run, whose last program is a quantized one.

    Raises:
        InputError: when it is not, or the run keeps no weights.
    """
    last = len(run.steps) - 1
    reference = run.reference(last)
    if reference is None or run.steps[last].stage != "quantized" or run.weights != "all":
        raise InputError(
            "the run does not end at a quantized program with its weights",
            where=str(run.folder),
            mend="run a recipe to its end, with --dump-weights all",
        )
    target = load_target(run.head.target, backends())
    quantized = run.program(last)
    plan = plan_of(quantized, target.name, run.head.name)
    passes = passes_behind(parse_passes(",".join(run.head.passes), catalogue()))
    return Subject(reference, quantized, target, plan, passes, seed=run.head.seed)


def explain_artifact(artifact: Artifact, calibration: object, samples: int, verify: int) -> Explanation:
    """What `Artifact.explain` does; arguments and errors as there."""
    subject = subject_of_artifact(artifact)
    return explain(subject, calibration_batches(subject.reference, calibration), samples, verify)


def _read(folder: Path, name: str) -> Program:
    program = read_program(folder, *_files(name))
    try:
        restore(program, json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the notes of the {name} program cannot be read: {error}", where=str(folder)) from error
    return program


def _files(name: str) -> tuple[str, str]:
    return f"{name}.qir", f"{name}.safetensors"
