"""The roof: from a model to an artefact that runs, with a report that says what really runs.

The file is not called `compile.py`, because importing a submodule of that name would replace the function
`qcompiler.compile` by a module.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from qcompiler.artifact import Artifact, building, check_output, open_artifact, write_files
from qcompiler.budget import Budget
from qcompiler.builds import Builds
from qcompiler.companions import emit_companions, told
from qcompiler.errors import AuditError, InputError, PassError
from qcompiler.explain.sources import explain_artifact, keep_sources
from qcompiler.frontier import Frontier
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program, Stage
from qcompiler.job import Job, backends, budgeted, prepare, recipe_for, run_job, tried_deployed
from qcompiler.measure import limit_samples
from qcompiler.page import PageData, page_data
from qcompiler.page.texts import dumped_texts
from qcompiler.passes.allocate import MixedPrecision
from qcompiler.passes.recipes import Recipe
from qcompiler.pipeline import Step, peak_bytes
from qcompiler.plan import MEASURED, Plan, plan_of
from qcompiler.promises import (
    Outcome,
    average_bits,
    fitted,
    latency_report,
    layer_seconds,
    with_latencies,
    with_latency,
)
from qcompiler.properties import properties
from qcompiler.report import Report
from qcompiler.simulate import FloatMeanings, Meanings, Simulation, simulation
from qcompiler.summary import parameter_bytes, simulated_line, summarize
from qcompiler.target import Annotates, Backend, Foresees, Runner, Target
from qcompiler.tracer import Dynamic


def compile(
    model: object,
    target: str | Target = "onnxruntime",
    *,
    inputs: object = None,
    calibration: object = None,
    recipe: str | Path | Recipe = "auto",
    budget: Budget | None = None,
    plan: str | Path | Plan | None = None,
    evaluate: Callable[[Callable[..., object]], float] | None = None,
    dynamic: Dynamic = "auto",
    output: str | Path | None = None,
    strict: bool = False,
    seed: int = 0,
    weights: str | Path | None = None,
    simulate: Simulation = "quantized",
    keep_float: bool | None = None,
    states: Mapping[str, str | int] | None = None,
) -> Artifact:
    """Compiles a model for a target.

    Args:
        model: a `torch.nn.Module`, a `torch.export.ExportedProgram`, the path of an `.onnx` file, or a Program.
        target: name of a target (`qcompiler targets`) or a Target.
        inputs: example inputs of a module: a tuple of positional ones, a dict of keyword ones, or `Inputs(...)` for
            both; when None the first calibration sample serves. ONNX models need none.
        calibration: an iterable of such inputs (a DataLoader too), or the path of an `.npz` file. Needed by recipes
            with static activations; never replaced by random data.
        recipe: name, YAML path or Recipe; `auto` is `w8a8` with calibration data and `w8a8_dynamic` without, and
            `mixed` under a budget of more than a size.
        budget: what the artefact may cost. A recipe with the pass `mixed_precision` allocates under it; whatever the
            recipe, a compilation that exceeds it is an error that says by how much.
        plan: a plan, or the path of one, to replay instead of allocating anew.
        evaluate: task metric: called with the float model and with the artefact (both are called like the model),
            returns one number for the report.
        dynamic: `auto` keeps every free input dimension symbolic, `none` fixes all to the example.
        output: folder to save to; must not exist. Without one the artefact lives in a temporary folder.
        strict: fail when any layer for which low bits were asked runs otherwise; layers that the recipe keeps in float
            do not count.
        seed: of every random choice.
        weights: a `.safetensors` file, or a folder with one or with a Hugging Face index of several, whose tensors
            take the place of a torch model's parameters. They stay in the file until a pass needs them; the model may
            be on the meta device. Weights that the checkpoint (compressed-tensors, GPTQ, AWQ, a `.gguf` file) stores
            quantized keep their codes; recipe `auto` is then `stored`.
        simulate: what predicts accuracy: `quantized`, float operators between quantize and dequantize, or `deployed`,
            the kernels of the target by what they mean; allocations then try whole plans so, and the report has a line.
        keep_float: whether the folder keeps the float program beside the files that run, so that `explain` works
            without the model; None: up to 256 MB of weights.
        states: inputs that the model is to keep from call to call, by name, and the results that they get, by key or
            number: `{"past.0.key": "present.0.key"}`. They begin at zero, and calls neither give nor get them. Buffers
            that a torch model writes to are kept without being named.

    Returns:
        The artefact: call it like the model; see `.report`, `.plan`, `.onnx`, `.save(folder)`.

    Raises:
        InputError: for bad models, data, shapes or paths.
        UnsupportedError: for what cannot be traced or lowered.
        AuditError: with `strict`, when a layer does not run as asked.
    """
    if output is not None:
        check_output(Path(output))
    chosen = recipe_for(recipe, budget)
    job = prepare(model, target, inputs, calibration, chosen, plan, dynamic, seed, weights=weights, states=states)
    return build(
        job, budget=budget, evaluate=evaluate, output=output, strict=strict, simulate=simulate, keep_float=keep_float
    )


def parse(text: str, weights: Mapping[str, torch.Tensor] | None = None) -> Program:
    """A Program from its text form.

    Args:
        text: what `str(program)` gave, or what a person wrote.
        weights: values of the parameters that the text names by digest only, such as `program.params`.

    Raises:
        ParseError: naming the line.
        InputError: when `weights` lacks a parameter or holds other values.
    """
    return parse_program(text, weights)


def load(folder: str | Path) -> Artifact:
    """An artefact from its folder; nothing is unpickled.

    Raises:
        InputError: when the folder is no artefact, or a file is missing or changed.
    """
    return open_artifact(Path(folder), _runner, meanings_factory=_meanings, explainer=explain_artifact)


def _checked(job: Job, size: list[int]) -> Job:
    """The job, which stops when the target cannot write the canonical program; `size` becomes its float bytes."""
    backend, show = job.target.backend, job.options.show
    prepared = len(job.passes) - len(job.recipe.passes)
    seen: list[str] = []

    def look(step: Step, program: Program) -> None:
        if program.stage == Stage.CANONICAL and not seen and isinstance(backend, Foresees):
            seen.append(step.text)
            backend.check(program, job.target)
        if step.number <= prepared:
            size[:] = [parameter_bytes(program)]
        show(step, program)

    return replace(job, options=replace(job.options, show=look))


def _run(job: Job, size: list[int], notes: list[str]) -> Outcome:
    """Runs and lowers a job; `size` becomes its float bytes, `notes` what its allocation says to the user.

    Raises:
        PassError: when the recipe does not end at a quantized program.
    """
    notes.clear()
    allocated: list[Program] = []
    canonical, quantized, steps = run_job(_noting(_checked(job, size), notes, allocated))
    if quantized.stage != Stage.QUANTIZED:
        raise PassError(
            f"the recipe ends at stage {quantized.stage}, and only a quantized program can be lowered",
            mend="end the recipe with apply_plan, calibrate and a weight solver",
        )
    job.options.progress("lower", 0, 1)
    lowered = job.target.backend.lower(quantized, job.target)
    return Outcome(job, canonical, quantized, lowered, steps, allocated[-1] if allocated else None)


def _noting(job: Job, notes: list[str], allocated: list[Program]) -> Job:
    """The job, which keeps what its allocation says to the user, so that the report repeats it, and its program."""
    log, show = job.log, job.options.show
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        log(line)

    def look(step: Step, program: Program) -> None:
        if step.text.partition("{")[0] == MixedPrecision.name:
            notes.extend(said)
            allocated.append(program)
        said.clear()
        show(step, program)

    return replace(job, log=say, options=replace(job.options, show=look))


def build(
    job: Job,
    *,
    budget: Budget | None = None,
    evaluate: Callable[[Callable[..., object]], float] | None = None,
    output: str | Path | None = None,
    strict: bool = False,
    force: bool = False,
    simulate: Simulation = "quantized",
    keep_float: bool | None = None,
) -> Artifact:
    """Runs a job to the end: passes, lowering, files, audit, measurements, report. Arguments as for `compile`."""
    started = time.perf_counter()
    if output is not None:
        check_output(Path(output), force)
    if budget is not None:
        _check_budget(budget)
        job = budgeted(job, budget)
    if simulate == "deployed":
        job = tried_deployed(job)
    backend = job.target.backend
    notes: list[str] = []
    frontiers: dict[tuple[str, str], Frontier] = {}

    def draw(frontier: Frontier) -> None:
        frontiers[frontier.resource, frontier.objective] = frontier

    job = replace(job, drawn=draw)
    size = [parameter_bytes(job.reference or job.program)]
    outcome = _run(with_latencies(job), size, notes)
    if budget is not None:
        outcome = fitted(outcome, budget.limit(*size), lambda again: _run(again, size, notes))
    canonical, quantized, lowered, steps = outcome.canonical, outcome.quantized, outcome.lowered, outcome.steps
    holder = tempfile.TemporaryDirectory(prefix="qcompiler-")
    folder = Path(holder.name) / "artifact"
    with building(folder) as work:
        job.options.progress("emit", 0, 1)
        files = list(backend.emit(lowered, job.target, work))
        more, told_of = emit_companions(job.target, quantized, work)
        audits = backend.audit(lowered, job.target, work)
        job.options.progress("measure", 0, 1)
        shipped, obstacle = _shipping(backend, files, work)
        runner = simulation(lowered, backend.meanings()) if obstacle else backend.runner(work)
        report = summarize(
            canonical,
            quantized,
            job.target,
            job.recipe.name,
            job.seed,
            steps,
            audits,
            [work / name for name in shipped],
            runner,
            job.batches or [job.sample],
            [*_warnings(job), *([obstacle] if obstacle else [])],
            *size,
        )
        if strict:
            _check_fallbacks(report)
        if budget is not None:
            budget.check(report.float_bytes, report.quantized_bytes)
            budget.check_drop(report.sqnr_db)
            budget.check_bits(average_bits(outcome))
        if evaluate is not None:
            report = replace(
                report,
                metric_float=_metric(evaluate, Artifact.bare(canonical, simulation(canonical, {}))),
                metric_quantized=_metric(evaluate, Artifact.bare(canonical, runner)),
            )
        report = with_latency(report, latency_report(outcome, work))
        notes += [*report.notes, *told(backend, work), *told_of]
        if simulate == "deployed":
            ships = simulation(lowered, backend.meanings())
            notes.append(simulated_line(canonical, ships, job.batches or [job.sample], report.sqnr_db))
        report = replace(report, notes=tuple(notes), frontiers=tuple(frontiers.values()))
        page = _page(outcome, report)
        report = replace(report, seconds=time.perf_counter() - started, peak_bytes=peak_bytes())
        measured = _measured(job, quantized, report)
        _annotate(job, work, report, measured)
        plan = replace(plan_of(quantized, job.target.name, job.recipe.name), measured=measured)
        kept = keep_sources(canonical, quantized, work, keep_float)
        write_files(
            work, lowered, plan, job.recipe.to_yaml(), report, job.target, job.seed, [*files, *more, *kept], page
        )
    job.options.progress("done", 1, 1)
    artifact = open_artifact(folder, _runner, holder, _meanings, explain_artifact)
    return artifact.save(output, force=force) if output is not None else artifact


def _measured(job: Job, quantized: Program, report: Report) -> dict[str, float]:
    """SQNR of layers in dB: on the data at hand, else what a replayed plan says, so that a replay gives equal files."""
    if job.batches:
        return {layer.name: round(layer.sqnr_db, 1) for layer in report.layers if layer.sqnr_db is not None}
    known = {node.name: node.meta.get(MEASURED) for node in quantized.nodes}
    return {name: value for name, value in known.items() if isinstance(value, float)}


def _page(outcome: Outcome, report: Report) -> PageData:
    """What the page shows besides the report, looked up on one sample."""
    job = outcome.job
    batch = next(limit_samples(outcome.canonical, job.batches or [job.sample], 1))
    texts = dumped_texts(job.options.dump_dir)
    seconds = layer_seconds(outcome)
    return page_data(outcome.canonical, outcome.quantized, batch, report, outcome.steps, texts, seconds)


def _annotate(job: Job, folder: Path, report: Report, measured: Mapping[str, float]) -> None:
    """Lets the emitted files say what made them, where they can."""
    backend = job.target.backend
    if isinstance(backend, Annotates):
        backend.annotate(folder, *properties(job.recipe.to_yaml(), job.target.name, job.seed, report, measured))


def _check_budget(budget: object) -> None:
    """Refuses a size that cannot be read now, not after all the work."""
    if not isinstance(budget, Budget):
        raise InputError(f"budget is {budget!r}, not a Budget", mend='pass qcompiler.Budget(size="4x")')
    budget.check_words()


def _runner(folder: Path, manifest: Mapping[str, object]) -> Runner:
    return _backend(manifest, str(folder)).runner(folder)


def _meanings(manifest: Mapping[str, object]) -> Meanings:
    backend = _backend(manifest, "its manifest")
    return {**backend.meanings(), **(backend.float_meanings() if isinstance(backend, FloatMeanings) else {})}


def _backend(manifest: Mapping[str, object], where: str) -> Backend:
    name = str(manifest.get("backend", ""))
    known = backends()
    if name not in known:
        raise InputError(f"the artefact needs backend '{name}', which this version lacks", where=where)
    return known[name]


def _check_fallbacks(report: Report) -> None:
    fallen = report.fallbacks
    if fallen:
        texts = (f"{layer.name}: {layer.requested} runs as {layer.realised} ({layer.reason})" for layer in fallen[:5])
        raise AuditError(
            f"{len(fallen)} of {len(report.layers)} layers do not run as asked",
            where="; ".join(texts),
            step="audit",
            mend=fallen[0].mend or "keep these layers in float by the recipe (assign{keep=...}), or drop strict",
        )


def _metric(evaluate: Callable[[Callable[..., object]], float], call: Callable[..., object]) -> float:
    value = evaluate(call)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"evaluate returned a {type(value).__name__}, not a number",
            mend="return one number, such as the top-1 accuracy, from evaluate(model)",
        ) from error


def _shipping(backend: Backend, files: Sequence[str], folder: Path) -> tuple[Sequence[str], str]:
    """The files whose size counts, and what the user should know when the files cannot run on this machine."""
    if not isinstance(backend, Builds):
        return files, ""
    why = backend.obstacle(folder)
    told = f"the files did not run here, results were measured by the meanings of the kernels: {why}" if why else ""
    return backend.shipped(files), told


def _warnings(job: Job) -> list[str]:
    if job.batches:
        return []
    kind = "the example inputs" if job.example is not None else "made-up inputs"
    return [f"there was no calibration data: errors were measured on {kind}"]
