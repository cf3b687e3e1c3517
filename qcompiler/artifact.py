"""The folder that a compilation leaves: written whole or not at all, checked when opened.

Nothing in it is a pickle. Every file but the report, which holds wall times, is named in the manifest with
its digest.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from torch import Tensor

from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir.program import Program
from qcompiler.ir.states import first_values
from qcompiler.manifest import (
    MANIFEST_FILE,
    Face,
    Manifest,
    library_versions,
    record_files,
    verify_files,
)
from qcompiler.page import PageData, html
from qcompiler.plan import Plan
from qcompiler.report import Report
from qcompiler.report.explanation import EXPLANATION_FILE, Explanation
from qcompiler.session import Caller
from qcompiler.simulate import Meanings, simulation
from qcompiler.target import Runner, Target
from qcompiler.weights import read_program, read_states, write_program

RunnerFactory = Callable[[Path, Mapping[str, object]], Runner]
MeaningsFactory = Callable[[Mapping[str, object]], Meanings]
Explainer = Callable[["Artifact", object, int, int], Explanation]

ONNX_FILE = "model.onnx"
PLAN_FILE = "plan.json"
RECIPE_FILE = "recipe.yaml"
REPORT_FILE = "report.json"
PAGE_FILE = "report.html"
_UNLISTED = (MANIFEST_FILE, REPORT_FILE, PAGE_FILE, EXPLANATION_FILE)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Artifact:
    """A compiled model: a folder and what runs it. Made by `compile` and `load`.

    Attributes:
        folder: where its files lie; temporary until saved.
        manifest: what made it and how it is called.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        runner: Runner,
        meanings: Meanings,
        holder: tempfile.TemporaryDirectory[str] | None = None,
        explainer: Explainer | None = None,
    ) -> None:
        self._explainer = explainer
        self.folder = folder
        self.manifest = manifest
        self._runner = runner
        self._meanings = meanings
        self._owned = _Owned(holder) if holder is not None else None
        self._call = Caller(manifest.face, runner, self._first_states)

    @staticmethod
    def bare(program: Program, runner: Runner) -> Caller:
        """A runner that is called like the model, without any folder.

        Args:
            program: its inputs, states and signature say what a call must look like.
            runner: flat inputs to flat results.
        """
        return Caller(Face.of(program), runner, lambda: first_values(program))

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Runs the artefact on tensors or arrays, passed like to the model.

        What the model writes to its buffers is kept for the next call, by this artefact alone; see `reset`.

        Returns:
            torch tensors in the structure that the model returns.

        Raises:
            InputError: when an input has another name, dtype or shape than the model takes.
        """
        return self._call(*args, **kwargs)

    def reset(self) -> None:
        """Makes the next call, and the next simulated one, a first one: states are what they were at the beginning.

        Raises:
            InputError: when the model keeps nothing from call to call.
        """
        self._call.reset()
        self._simulated.reset()

    def _first_states(self) -> list[Tensor]:
        return read_states(self.folder, self.manifest.face.states)

    def simulate(self, *args: object, **kwargs: object) -> object:
        """What the artefact computes, without the runtime that it is for: its program by the meanings of its kernels.

        Codes are those of the device, element for element, and so is what stays in float where the backend knows the
        runtime's own order of roundings; else it may differ by a few of them.

        Args and result: as for a call. Raises InputError for inputs that do not fit.
        """
        return self._simulated(*args, **kwargs)

    def explain(self, calibration: object, samples: int = 8, verify: int = 3) -> Explanation:
        """Says where the error of the results comes from, what is wrong, and what would mend it.

        Args:
            calibration: samples as `compile` takes them.
            samples: how many are looked at, at most; all of them calibrate mends.
            verify: how many mends are made and measured.

        Raises:
            InputError: when the folder keeps no float program, or a sample does not fit.
            UnsupportedError: when nothing that explains was handed to what opened the artefact.
        """
        if self._explainer is None:
            raise UnsupportedError("nothing that explains is at hand", mend="open the artefact with qcompiler.load")
        return self._explainer(self, calibration, samples, verify)

    @property
    def simulator(self) -> Runner | None:
        """Runs the lowered program by the meanings of its kernels; None where there are none."""
        return simulation(self.program, self._meanings) if self._meanings else None

    @cached_property
    def _simulated(self) -> Caller:
        return Caller(self.manifest.face, lambda inputs: self._simulation(inputs), self._first_states)

    @cached_property
    def _simulation(self) -> Runner:
        return simulation(self.program, self._meanings)

    def __repr__(self) -> str:
        return f"<Artifact @{self.manifest.face.name} for {self.manifest.target} in {self.folder}>"

    @property
    def runner(self) -> Runner:
        """Runs the files: flat inputs to flat results."""
        return self._runner

    @cached_property
    def report(self) -> Report:
        """What the compilation measured."""
        return Report.load(self.folder / REPORT_FILE)

    @cached_property
    def plan(self) -> Plan:
        """Who got which format; replays with `compile(..., plan=...)`."""
        return Plan.load(self.folder / PLAN_FILE)

    @cached_property
    def program(self) -> Program:
        """The lowered program with its weights, read when first asked for."""
        return read_program(self.folder)

    @property
    def recipe(self) -> str:
        """The resolved recipe as YAML text."""
        return self.manifest.recipe

    @property
    def onnx(self) -> Path:
        """The ONNX file.

        Raises:
            UnsupportedError: when the target writes none.
        """
        if ONNX_FILE not in self.manifest.files:
            raise UnsupportedError(f"target {self.manifest.target} writes no ONNX file", where=str(self.folder))
        return self.folder / ONNX_FILE

    def save(self, folder: str | Path, force: bool = False) -> Artifact:
        """Copies the artefact; the folder appears whole or not at all.

        Args:
            folder: must not exist, unless `force`; missing parents are made.
            force: replace an artefact that lies there. Anything but an artefact or an empty folder is left
                alone.

        Returns:
            the artefact in its new place.

        Raises:
            InputError: when the folder exists, cannot be written, or the disk is full.
        """
        target = Path(folder).resolve()
        with building(target, force) as work:
            for name in (*self.manifest.files, *_UNLISTED):
                if (self.folder / name).exists():
                    (work / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.folder / name, work / name)
        saved = Artifact(target, self.manifest, self._runner, self._meanings, explainer=self._explainer)
        # The runner may still read files of the temporary folder.
        saved._owned = self._owned
        return saved


def write_files(
    folder: Path,
    program: Program,
    plan: Plan,
    recipe: str,
    report: Report,
    target: Target,
    seed: int,
    files: Sequence[str],
    page: PageData | None = None,
) -> None:
    """Completes the folder into which a backend has emitted.

    Args:
        folder: holds what the backend wrote.
        program: the lowered program.
        plan: who got which format.
        recipe: resolved YAML text.
        report: the measurements; the only part that differs from one run to the next.
        target: the device.
        seed: of every random choice.
        files: names of what the backend wrote, relative to the folder.
        page: what the page shows besides the report.
    """
    written = write_program(program, folder)
    plan.save(folder / PLAN_FILE)
    (folder / RECIPE_FILE).write_text(recipe, encoding="utf-8")
    report.save(folder / REPORT_FILE)
    (folder / PAGE_FILE).write_text(html(report, page), encoding="utf-8")
    Manifest(
        target=target.name,
        backend=target.backend.name,
        recipe=recipe,
        seed=seed,
        versions=library_versions(),
        face=Face.of(program),
        files=record_files(folder, (*files, *written, PLAN_FILE, RECIPE_FILE)),
    ).save(folder)


def open_artifact(
    folder: Path,
    runner_factory: RunnerFactory,
    holder: tempfile.TemporaryDirectory[str] | None = None,
    meanings_factory: MeaningsFactory = lambda manifest: {},
    explainer: Explainer | None = None,
) -> Artifact:
    """Opens an artefact; nothing is unpickled.

    Args:
        folder: what `compile` or `save` wrote.
        runner_factory: makes what runs it, from the folder and the manifest as plain data.
        holder: the temporary directory in which this process has just written the folder; it goes when the
            artefact goes, and the files are not checked again.
        meanings_factory: tells what its kernels compute, from the manifest as plain data; by default there are none.
        explainer: says where its error comes from.

    Raises:
        InputError: when the folder is no artefact, or a file is missing or changed.
    """
    manifest = Manifest.load(folder)
    if holder is None:
        verify_files(folder, manifest.files)
    data = manifest.to_json()
    return Artifact(folder, manifest, runner_factory(folder, data), meanings_factory(data), holder, explainer)


@contextmanager
def building(folder: Path, force: bool = False) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends well, and vanishes otherwise.

    Args:
        folder: where the result goes; missing parents are made, and removed again on failure.
        force: replace an artefact that lies there.

    Raises:
        InputError: when `folder` exists, cannot be written, or the disk is full.
    """
    folder = folder.resolve()
    check_output(folder, force)
    parents = [parent for parent in folder.parents if not parent.exists()]
    work = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        work.mkdir(parents=True)
        yield work
        _move_in(work, folder)
    except OSError as error:
        problem = _explained(error, folder, work)
        if problem is None:
            raise
        raise problem from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for parent in parents:
            # Full after success, empty after failure.
            with suppress(OSError):
                parent.rmdir()


def check_output(folder: Path, force: bool = False) -> None:
    """Refuses a place that cannot be written or must not be overwritten.

    Raises:
        InputError: when no folder can be made there, it exists and `force` is not given, or it holds something else
            than an artefact.
    """
    if not os.path.lexists(folder):
        ground = next(parent for parent in folder.absolute().parents if parent.exists())
        if not ground.is_dir() or not os.access(ground, os.W_OK):
            reason = "Permission denied" if ground.is_dir() else "Not a directory"
            raise _unwritable(reason, folder)
        return
    if not force:
        raise InputError(
            "the output folder exists",
            where=str(folder),
            mend="choose another one, or overwrite it with force (--force)",
        )
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST_FILE).is_file()):
        raise InputError(
            "the output exists and is not an artefact, so that not even force overwrites it",
            where=str(folder),
            mend="choose another folder, or remove this one yourself",
        )


class _Owned:
    """A temporary directory that goes when the last artefact that uses it goes."""

    def __init__(self, holder: tempfile.TemporaryDirectory[str]) -> None:
        weakref.finalize(self, holder.cleanup)


def _move_in(work: Path, folder: Path) -> None:
    if not folder.exists():
        work.rename(folder)
        return
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
    folder.rename(aside)
    try:
        work.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _explained(error: OSError, folder: Path, work: Path) -> InputError | None:
    """A clear error for a failure to write; None for one that has nothing to do with the folder."""
    if error.errno in _FULL:
        return InputError(
            f"the disk is full: {error.strerror}",
            where=str(folder),
            mend="free some space or write elsewhere",
        )
    failed = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    if failed is not None and (failed.is_relative_to(work) or failed in (folder, *folder.parents)):
        return _unwritable(error.strerror or "", folder)
    return None


def _unwritable(reason: str, folder: Path) -> InputError:
    return InputError(
        f"the artefact cannot be written: {reason}", where=str(folder), mend="choose a folder that you may write to"
    )
