"""A compilation with every choice made: the program as traced, the target, the passes, the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch

from qcompiler.backends.c.backend import CBackend
from qcompiler.backends.cuda.backend import CudaBackend
from qcompiler.backends.onnx.backend import OnnxBackend
from qcompiler.backends.reference.backend import ReferenceBackend
from qcompiler.budget import Budget
from qcompiler.data import Batches, calibration_batches, example_from, flat_batch, sample_inputs
from qcompiler.deploy import Deploy
from qcompiler.errors import InputError
from qcompiler.frontier import Frontier
from qcompiler.ir.pairing import paired
from qcompiler.ir.program import Program, Stage
from qcompiler.pass_text import parse_pass, pass_text
from qcompiler.passes.allocate import Assign, MixedPrecision, UsePlan
from qcompiler.passes.canonical import CANONICAL
from qcompiler.passes.recipes import Recipe, catalogue, load_recipe
from qcompiler.pipeline import Context, Options, Pass, Step, run_passes
from qcompiler.plan import Plan
from qcompiler.qparams import stored_spec
from qcompiler.runs import Recorder, RunHead
from qcompiler.stats import Batch
from qcompiler.summary import first_rows
from qcompiler.target import Backend, Target
from qcompiler.targets import load_target
from qcompiler.tracer import Dynamic, trace, trace_sample

CHECKED_ROWS = 2

_Named = TypeVar("_Named", str, str | Path | Recipe)


def backends() -> Mapping[str, Backend]:
    """The code behind each target family, by name."""
    return {backend.name: backend for backend in (OnnxBackend(), CBackend(), CudaBackend(), ReferenceBackend())}


@dataclass(frozen=True)
class Job:
    """One compilation, all choices made: what `compile` runs and the command line drives.

    Args:
        program: as traced.
        target: the device.
        passes: in order.
        recipe: the passes came from.
        batches: calibration data in flat form, empty when none was given.
        example: flat inputs for checks and measurements when there is no calibration data.
        seed: of every random choice.
        options: of the runner.
        log: takes one line for the user.
        reference: the last canonical program, when `program` is a quantized one that an earlier run left.
        drawn: takes frontiers that the allocation draws.
    """

    program: Program
    target: Target
    passes: Sequence[Pass]
    recipe: Recipe
    batches: Sequence[Batch] = ()
    example: Batch | None = None
    seed: int = 0
    options: Options = field(default_factory=Options)
    log: Callable[[str], None] = lambda line: None
    reference: Program | None = None
    drawn: Callable[[Frontier], None] = lambda frontier: None

    @property
    def sample(self) -> Batch:
        """A small real batch if there is one."""
        if self.batches:
            return first_rows(self.program, self.batches[0], CHECKED_ROWS)
        return self.example if self.example is not None else sample_inputs(self.program, self.seed)


def prepare(
    model: object,
    target: str | Target = "onnxruntime",
    inputs: object = None,
    calibration: object = None,
    recipe: str | Path | Recipe = "auto",
    plan: str | Path | Plan | None = None,
    dynamic: Dynamic = "auto",
    seed: int = 0,
    options: Options | None = None,
    log: Callable[[str], None] = lambda line: None,
    weights: str | Path | None = None,
    states: Mapping[str, str | int] | None = None,
) -> Job:
    """Reads everything the user gave and makes every choice; runs no pass. Arguments as for `compile`."""
    device = target if isinstance(target, Target) else load_target(target, backends())
    named = None if recipe == "auto" else load_recipe(recipe)
    if inputs is None and calibration is not None and isinstance(model, torch.nn.Module):
        source = str(calibration) if isinstance(calibration, str | Path) else "the first calibration sample"
        inputs, calibration = example_from(calibration, model)
        program = trace_sample(model, inputs, dynamic, source, weights)
    else:
        program = trace(model, inputs, dynamic, weights)
    example = None if inputs is None or isinstance(model, Program) else flat_batch(program, inputs, "inputs")
    if states:
        names, program = program.input_names, paired(program, states)
        example = None if example is None else [example[names.index(name)] for name in program.input_names]
    chosen = named or load_recipe(_automatic(program, calibration, log))
    batches = calibration_batches(program, calibration) if calibration is not None else Batches(program)
    extra = [parse_pass(text, catalogue()) for text in device.passes]
    passes = (*CANONICAL, *extra, *(_replayed(pass_, plan) for pass_ in chosen.passes))
    return Job(program, device, passes, chosen, batches, example, seed, options or Options(), log)


def recipe_for(recipe: _Named, budget: Budget | None) -> _Named | str:
    """The recipe that `auto` means under a budget: one that allocates, when a size is not all that is limited."""
    return "mixed" if recipe == "auto" and budget is not None and set(budget.words) - {"size"} else recipe


def budgeted(job: Job, budget: Budget) -> Job:
    """The job whose allocating passes know the budget.

    Raises:
        InputError: when the budget limits what only an allocation can keep, and the recipe has none.
    """

    def told(pass_: Pass) -> Pass:
        return pass_.with_budget(budget) if isinstance(pass_, MixedPrecision | UsePlan) else pass_

    allocates = any(isinstance(pass_, MixedPrecision | UsePlan) for pass_ in job.passes)
    beyond = sorted(set(budget.words) - {"size", "max_drop"})
    if beyond and not allocates:
        raise InputError(
            f"the recipe {job.recipe.name} allocates nothing, so that it cannot keep {beyond[0]}",
            mend="use the recipe mixed, or one with the pass mixed_precision",
        )
    return _told(job, told)


def tried_deployed(job: Job) -> Job:
    """The job whose allocating passes try whole plans as they would ship."""
    return _told(job, lambda pass_: replace(pass_, simulate="deployed") if isinstance(pass_, MixedPrecision) else pass_)


def _told(job: Job, change: Callable[[Pass], Pass]) -> Job:
    recipe = replace(job.recipe, passes=tuple(map(change, job.recipe.passes)))
    return replace(job, passes=tuple(map(change, job.passes)), recipe=recipe)


def drawing(job: Job, frontier: str) -> Job:
    """The job whose allocation draws frontiers for the report, such as `size` or `size:latency`.

    Raises:
        InputError: when the recipe allocates nothing.
        SpecError: when the words make no sense.
    """

    def told(pass_: Pass) -> Pass:
        return replace(pass_, frontier=frontier) if isinstance(pass_, MixedPrecision) else pass_

    if not any(isinstance(pass_, MixedPrecision) for pass_ in job.passes):
        raise InputError(
            f"the recipe {job.recipe.name} allocates nothing, so that there is no frontier to draw",
            mend="use the recipe mixed, or one with the pass mixed_precision",
        )
    recipe = replace(job.recipe, passes=tuple(map(told, job.recipe.passes)))
    return replace(job, passes=tuple(map(told, job.passes)), recipe=recipe)


def run_job(job: Job) -> tuple[Program, Program, list[Step]]:
    """Runs the passes of a job.

    Returns:
        the last canonical program, the program after the last pass, and the steps.
    """
    start = job.reference or job.program
    kept = [start] if start.stage == Stage.CANONICAL else []
    recorder = _recorder(job)

    def show(step: Step, program: Program) -> None:
        if program.stage == Stage.CANONICAL:
            kept[:] = [program]
        if recorder is not None:
            recorder.add(step, program)
        job.options.show(step, program)

    context = Context(
        job.target,
        seed=job.seed,
        log=job.log,
        reference=job.reference,
        drawn=job.drawn,
        deploy=Deploy(job.target, job.batches, job.sample),
    )
    options = replace(job.options, show=show)
    program, steps = run_passes(job.program, job.passes, context, job.batches, options, job.sample)
    return (kept[0] if kept else program), program, steps


def _recorder(job: Job) -> Recorder | None:
    """What writes the run folder, the start already in it; None when nobody asked for one."""
    options = job.options
    if options.dump_dir is None:
        return None
    real = bool(job.batches) or job.example is not None
    texts = tuple(pass_text(pass_) for pass_ in job.passes)
    head = RunHead(job.program.name, job.target.name, job.recipe.to_yaml(), texts, job.seed, real)
    recorder = Recorder(options.dump_dir, head, options.dump_weights, job.sample)
    recorder.start(job.program, job.batches, job.log)
    return recorder


def _automatic(program: Program, calibration: object, log: Callable[[str], None]) -> str:
    if any(stored_spec(program, node) is not None for node in program.nodes):
        log("the checkpoint is quantized: recipe stored, which keeps its codes and leaves activations in float")
        return "stored"
    if calibration is not None:
        return "w8a8"
    log("no calibration data: recipe w8a8_dynamic, which finds activation ranges at run time")
    return "w8a8_dynamic"


def _replayed(pass_: Pass, plan: str | Path | Plan | None) -> Pass:
    if plan is None or not isinstance(pass_, Assign | MixedPrecision):
        return pass_
    latencies = pass_.latencies if isinstance(pass_, MixedPrecision) else ""
    used = UsePlan(plan=plan) if isinstance(plan, Plan) else UsePlan(path=str(plan))
    return replace(used, latencies=latencies)
