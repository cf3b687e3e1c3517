"""Passes and the runner: every step is verified, checked against its promise, timed, numbered and can be shown.

A pass is a frozen dataclass. It gets a Program that it may edit, and returns it (or another). What it needs to know of
data it requests beforehand; what hardware it serves it reads from the target in its context.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch

from qcompiler.certificate import certifies, write_certificate
from qcompiler.data import sample_inputs
from qcompiler.errors import PassError, QCompilerError, VerifyError
from qcompiler.frontier import Frontier
from qcompiler.ir.fill import is_absent
from qcompiler.ir.interp import evaluate
from qcompiler.ir.pattern import Refusal
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.region import nested_params
from qcompiler.ir.verify import verify
from qcompiler.pass_text import pass_text
from qcompiler.plan import Assignment
from qcompiler.stats import Batch, Request, Stats, collect
from qcompiler.target import Runner, Target

Check = Literal["each", "stretch", "off"]


@dataclass(frozen=True)
class Exact:
    """The function is kept: outputs before and after agree in float64 within `tolerance`, relative to their size."""

    tolerance: float = 1e-9


@dataclass(frozen=True)
class Structural:
    """Same operators, same numbers, bit for bit."""


@dataclass(frozen=True)
class Annotates:
    """The graph is unchanged; only the assigned specs are new."""


@dataclass(frozen=True)
class Lossy:
    """The function changes on purpose; `metric` says what is lost."""

    metric: str = "sqnr"


Promise = Exact | Structural | Annotates | Lossy


@dataclass(frozen=True)
class Context:
    """What a pass may know besides the program.

    Args:
        target: the device.
        stats: answers to the pass's own requests.
        seed: of every random choice.
        log: takes one line for the user.
        batches: calibration data, re-iterable, for passes that walk through the program with it.
        progress: told the number of parts done and of all, by passes that work through many.
        reference: the program as it stood before it was quantized: what a float model would do once weights are only
            codes. None when the run started later. Not to be edited.
        refused: takes what a pass left alone; passes call `refuse`.
        drawn: takes a frontier for the report.
        deploy: runs a canonical program under a plan as it would ship; None where nothing can lower it.
    """

    target: Target
    stats: Stats = field(default_factory=Stats)
    seed: int = 0
    log: Callable[[str], None] = lambda line: None
    batches: Sequence[Batch] = ()
    progress: Callable[[int, int], None] = lambda done, total: None
    reference: Program | None = None
    refused: Callable[[Refusal], None] = lambda refusal: None
    drawn: Callable[[Frontier], None] = lambda frontier: None
    deploy: Callable[[Program, Mapping[str, Assignment]], Runner] | None = None

    def refuse(self, node: Node, reason: str, mend: str = "", depth: int = 0) -> None:
        """Notes why the pass leaves alone what a reader would expect it to change; `qcompiler why` tells it.

        Args:
            node: where.
            reason: one line.
            mend: what would make the pass act.
            depth: how much had fitted: the nearest refusals are told first.
        """
        self.refused(Refusal(reason, node.name, depth, mend))


class Pass(Protocol):
    """One step of a compilation; prints as `name{option=value}` and parses back."""

    name: ClassVar[str]
    needs: ClassVar[Stage]
    gives: ClassVar[Stage]
    promise: ClassVar[Promise]

    def run(self, program: Program, ctx: Context) -> Program:
        """The rewritten program; `program` is the pass's own to edit."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A pass that wants statistics."""

    def requests(self, program: Program) -> Sequence[Request]:
        """What to measure on the program as the pass will see it."""
        ...


@dataclass(frozen=True)
class Step:
    """What happened in one pass.

    Args:
        number: from 1.
        text: the pass as `name{options}`.
        edits: how many edits it made.
        seconds: wall time, statistics included.
        peak_bytes: peak resident memory of the process so far.
        error: largest relative difference found by an Exact check, None when there was none.
        refusals: what the pass left alone, and why; operators that it annotated with a refusal included.
        statistics: digest of the answers to its requests, noted with a dump folder; empty where it asked nothing.
    """

    number: int
    text: str
    edits: int
    seconds: float
    peak_bytes: int
    error: float | None = None
    refusals: tuple[Refusal, ...] = ()
    statistics: str = ""


DumpWeights = Literal["auto", "digests", "all"]


@dataclass(frozen=True)
class Options:
    """How the runner behaves.

    Args:
        check: `each` compares before and after every Exact pass; `stretch` once per run of Exact passes, and looks for
            the guilty one when that fails; `off` trusts them.
        stop_after: last step to run, None for all.
        dump_dir: folder for the numbered texts `NN-name.qir` and the proofs `NN-name.certificate` of changed bases.
        dump_weights: whether a job that dumps keeps the weights of every step beside the texts; see `runs`.
        show: called with each finished step and the program after it.
        progress: called as a step works: its name, such as `3/14 calibrate`, samples done, samples in all
            (0 when the step counts nothing).
    """

    check: Check = "stretch"
    stop_after: int | None = None
    dump_dir: Path | None = None
    dump_weights: DumpWeights = "auto"
    show: Callable[[Step, Program], None] = lambda step, program: None
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None


def run_passes(
    program: Program,
    passes: Sequence[Pass],
    ctx: Context,
    batches: Sequence[Batch] = (),
    options: Options | None = None,
    sample: Batch | None = None,
) -> tuple[Program, list[Step]]:
    """Runs passes in order.

    Args:
        program: not touched.
        passes: the steps.
        ctx: handed to every pass, with the answers to its requests.
        batches: calibration data, re-iterable.
        options: see `Options`.
        sample: flat inputs on which Exact promises are checked; made from the input types when None.

    Returns:
        the final program and one record per step.

    Raises:
        PassError: when a pass fails, leaves an illegal program or breaks its promise.
    """
    options = options or Options()
    if any(is_absent(value) for value in nested_params(program).values()):
        ctx.log("the model has no weights: nothing can be computed, so that no pass is checked for exactness")
        options = dataclasses.replace(options, check="off")
    runner = _Runner(ctx, batches, options, sample if sample is not None else sample_inputs(program, ctx.seed))
    return runner.run(program, passes)


@dataclass
class _Runner:
    ctx: Context
    batches: Sequence[Batch]
    options: Options
    sample: Batch
    steps: list[Step] = field(default_factory=list)
    spare: Program | None = None
    reference: Program | None = None
    refusals: list[Refusal] = field(default_factory=list)
    statistics: str = ""

    def run(self, program: Program, passes: Sequence[Pass]) -> tuple[Program, list[Step]]:
        verify(program)
        self.reference = self.ctx.reference
        stretch: list[tuple[Pass, Program]] = []
        if self.options.dump_dir:
            self.options.dump_dir.mkdir(parents=True, exist_ok=True)
            self.dump(0, program.stage, program)
        for number, pass_ in enumerate(passes[: self.options.stop_after], 1):
            stage = f"{number}/{len(passes)} {pass_.name}"
            self.options.progress(stage, 0, 0)
            before, started = program, time.perf_counter()
            if before.stage is Stage.CANONICAL:
                self.reference = before
            program = self.apply(pass_, before, stage)
            changed = program.edits != before.edits
            error = self.compare(pass_, before, program) if changed and self.options.check == "each" else None
            if isinstance(pass_.promise, Exact | Structural):
                stretch += [(pass_, before)] if changed else []
            else:
                self.close(stretch, before)
            step = Step(
                number,
                pass_text(pass_),
                program.edits - before.edits,
                time.perf_counter() - started,
                peak_bytes(),
                error,
                tuple(dict.fromkeys((*annotated(pass_, before, program), *self.refusals))),
                self.statistics,
            )
            self.steps.append(step)
            self.options.show(step, program)
            if self.options.dump_dir:
                self.dump(number, pass_.name, program)
                self.certify(f"{number:02d}-{pass_.name}", before, program)
        self.close(stretch, program)
        return program, self.steps

    def apply(self, pass_: Pass, before: Program, stage: str) -> Program:
        text = pass_text(pass_)
        self.refusals.clear()
        if before.stage != pass_.needs:
            raise PassError(
                f"{text} needs stage {pass_.needs}, the program is at {before.stage}",
                step=text,
                mend="put the passes in another order; `qcompiler passes` lists what stage each needs",
            )
        try:
            requests = pass_.requests(before) if isinstance(pass_, Measured) else ()
            total = len(self.batches)
            stats = collect(before, requests, self.batches, lambda done: self.options.progress(stage, done, total))
            self.statistics = stats.digest() if self.options.dump_dir else ""
            own, self.spare = self.spare or before.copy(), None
            after = pass_.run(own, self.context(stats, stage))
            if after.edits != before.edits:
                after.erase_dead()
            after.stage = pass_.gives
            if after.edits != before.edits or after.stage != before.stage:
                verify(after)
            elif after is own and isinstance(pass_.promise, Exact | Structural):
                # It found nothing to do, so that its copy serves the next pass.
                after, self.spare = before, own
        except VerifyError as error:
            raise PassError(
                f"{text} left an illegal program: {error.what}",
                where=error.where,
                step=text,
                mend=f"reproduce with --stop-after {len(self.steps) + 1} and --print-after {pass_.name}",
            ) from error
        except QCompilerError as error:
            if not error.step:
                raise type(error)(error.what, where=error.where, step=text, mend=error.mend) from error
            raise
        return after

    def context(self, stats: Stats, stage: str) -> Context:
        progress = partial(self.options.progress, stage)
        return dataclasses.replace(
            self.ctx,
            stats=stats,
            batches=self.batches,
            progress=progress,
            reference=self.reference,
            refused=self.refusals.append,
        )

    def close(self, stretch: list[tuple[Pass, Program]], after: Program) -> None:
        """Checks a finished run of Exact passes end to end; on failure finds the pass at fault."""
        if stretch and self.options.check == "stretch":
            tolerance = sum(pass_.promise.tolerance for pass_, _ in stretch if isinstance(pass_.promise, Exact))
            error = difference(stretch[0][1], after, self.sample)
            if error > tolerance:
                afters = [before for _, before in stretch[1:]] + [after]
                for (pass_, before), following in zip(stretch, afters, strict=True):
                    self.compare(pass_, before, following)
        stretch.clear()

    def compare(self, pass_: Pass, before: Program, after: Program) -> float | None:
        promise = pass_.promise
        if isinstance(promise, Structural):
            promise = Exact(0.0)
        if not isinstance(promise, Exact):
            return None
        error = difference(before, after, self.sample)
        if error > promise.tolerance:
            raise PassError(
                f"{pass_text(pass_)} promised to keep the function and changed it by {error:.3g} "
                f"(allowed {promise.tolerance:.3g})",
                where=f"program @{before.name}",
                step=pass_text(pass_),
                mend="this is a bug of the pass: reproduce with --check each --dump-dir and compare the two texts",
            )
        return error

    def dump(self, number: int, name: str, program: Program) -> None:
        if self.options.dump_dir:
            (self.options.dump_dir / f"{number:02d}-{name}.qir").write_text(str(program))

    def certify(self, name: str, before: Program, after: Program) -> None:
        if self.options.dump_dir and certifies(before, after):
            write_certificate(before, after, self.sample, self.options.dump_dir / f"{name}.certificate")


def annotated(pass_: Pass, before: Program, after: Program) -> list[Refusal]:
    """Refusals that a pass wrote on operators, which the report and the plan read there."""
    if not isinstance(pass_.promise, Annotates):
        return []
    known = {node.name: node.meta.get("refusal") for node in before.nodes}
    told = [(node.name, node.meta.get("refusal")) for node in after.nodes]
    return [Refusal(str(reason), name, 1) for name, reason in told if reason and reason != known.get(name)]


def difference(before: Program, after: Program, sample: Batch) -> float:
    """Largest difference of two programs' float64 results on one sample, relative to the size of the result."""
    with torch.no_grad():
        old, new = evaluate(before, sample, widen=True), evaluate(after, sample, widen=True)
    if len(old) != len(new):
        return float("inf")
    worst = 0.0
    for a, b in zip(old, new, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if not a.numel():
            continue
        a, b = a.double(), b.double()
        same = (a == b) | (a.isnan() & b.isnan())
        gap = torch.where(same, 0.0, (a - b).abs()).max().item()
        scale = torch.where(a.isfinite(), a.abs(), 0.0).max().item()
        worst = max(worst, gap / max(scale, 1e-30) if gap == gap else float("inf"))
    return worst


def peak_bytes() -> int:
    """Peak resident memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
