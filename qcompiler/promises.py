"""What a budget promised, counted on what came out: bytes of the files, bits of the weights, seconds of a call."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qcompiler.clocks import Clocks
from qcompiler.cost import Device, LatencyTable, summary
from qcompiler.data import sample_inputs
from qcompiler.errors import UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.job import Job
from qcompiler.lone_layers import Bench
from qcompiler.passes.allocate import MixedPrecision, UsePlan
from qcompiler.passes.allocate.costs import planned_bytes
from qcompiler.pipeline import Context, Pass, Step, run_passes
from qcompiler.plan import EXCLUDED, LEFT_IN_FLOAT, Assignment, Decomposition
from qcompiler.report import LatencyReport, Report
from qcompiler.spec import bits_per_element
from qcompiler.target import Target

_ROUNDS = 3
_FLOAT_BITS = 32


@dataclass(frozen=True)
class Outcome:
    """A job that ran.

    Args:
        job: as it ran in the end.
        canonical: the last float program.
        quantized: the program after the last pass.
        lowered: to kernels.
        steps: the passes that ran.
        allocated: the program right after the allocation, None without one.
    """

    job: Job
    canonical: Program
    quantized: Program
    lowered: Program
    steps: Sequence[Step]
    allocated: Program | None


@dataclass(frozen=True)
class Checked:
    """One whole plan: seconds as the corrected table predicts them, and as they were measured."""

    name: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Of the prediction, as a part of what was measured."""
        return self.predicted / self.measured - 1


Run = Callable[[Job], Outcome]


def with_latencies(job: Job) -> Job:
    """The job whose allocation has a table of latencies where it limits these and none was given.

    The table is measured here, where what the target runs on is here; else the allocation models times.
    """
    allocation = next((pass_ for pass_ in job.passes if isinstance(pass_, MixedPrecision)), None)
    if allocation is None or not (allocation.latency or allocation.minimise == "latency"):
        return job
    if allocation.latencies or allocation.table is not None or _device(job.target) is None:
        return job
    job.log("latency is limited and no table of latencies was given: measuring one, which is not kept")
    bench = Bench(job.target, log=job.log)
    table, _ = measured_table(job, bench, bench.empty())
    return _changed(job, lambda pass_: replace(pass_, table=table))


def measured_table(
    job: Job, bench: Bench, start: LatencyTable, plans: Mapping[str, Mapping[str, Assignment]] | None = None
) -> tuple[LatencyTable, list[Checked]]:
    """A table of everything that the job's allocation may choose between, corrected by a few whole plans.

    Args:
        job: with the pass `mixed_precision`.
        bench: measures.
        start: rows that are kept.
        plans: further plans that the correction is fitted to, by name.
    """
    place = next(place for place, pass_ in enumerate(job.passes) if isinstance(pass_, MixedPrecision))
    allocation = job.passes[place]
    context = Context(job.target, seed=job.seed, batches=job.batches)
    options = replace(job.options, check="off", stop_after=None, dump_dir=None, show=lambda step, program: None)
    program, _ = run_passes(job.program, job.passes[:place], context, job.batches, options, job.sample)
    if not isinstance(allocation, MixedPrecision):
        raise TypeError("the job allocates nothing")
    offered = allocation.offered(program, context)
    chosen = bench.anchors(offered) | dict(plans or {})
    table, times = bench.corrected(program, bench.layers(offered, start), list(chosen.values()))
    checked = [
        Checked(name, table.correction(total), measured) for name, (total, measured) in zip(chosen, times, strict=True)
    ]
    if table.correction.dropped:
        worst = sorted(checked, key=lambda plan: abs(plan.error))[-table.correction.dropped :]
        told = ", ".join(f"{plan.name} ({1e3 * plan.measured:.4g} ms, {plan.error:+.0%} predicted)" for plan in worst)
        job.log(f"left out of the correction: {told}")
    return table, checked


def fitted(outcome: Outcome, limit: float | None, run: Run) -> Outcome:
    """The outcome, allocated anew while its files take more than `limit` bytes: the allocation counts parameters alone.

    Args:
        outcome: of a job that ran.
        limit: in bytes, None for none.
        run: runs a job.
    """
    overhead = 0.0
    for _ in range(_ROUNDS):
        taken = _file_bytes(outcome)
        if limit is None or outcome.allocated is None or taken <= limit:
            break
        plan = {node.name: assigned for node in outcome.allocated.nodes if (assigned := _assigned(node)) is not None}
        besides = taken - planned_bytes(outcome.allocated, plan, outcome.job.target)
        overhead = max(besides, overhead + taken - limit if overhead else besides)
        outcome.job.log(f"the files take {taken:,} bytes, {besides:,.0f} besides the weights: allocating anew")
        outcome = run(_changed(outcome.job, lambda pass_, told=overhead: replace(pass_, overhead=told)))
    return outcome


def average_bits(outcome: Outcome) -> float | None:
    """Bits per weight over the weights that were allocated, with all parts that solvers and transforms added.

    Returns:
        None when nothing was allocated.
    """
    if outcome.allocated is None:
        return None
    parts = {node.name: node.meta.get("decomposition") for node in outcome.quantized.nodes}
    bits: dict[str, float] = {}
    counts: dict[str, int] = {}
    for node in outcome.allocated.nodes:
        assigned, asked = _assigned(node), "asked" in node.meta
        weight = outcome.allocated.bind(node).get("weight")
        if isinstance(weight, Node) and weight.op == "get_attr" and asked and _was_offered(node):
            shape = [int(size) for size in outcome.allocated.shape(weight)]
            made, spec = parts.get(node.name), assigned.inputs.get("weight") if assigned is not None else None
            each = _FLOAT_BITS if spec is None else bits_per_element(spec, shape)
            each = made.bits if isinstance(made, Decomposition) else each
            counts[str(weight.target)] = math.prod(shape)
            bits[str(weight.target)] = each * math.prod(shape)
    added = math.fsum(_added_bits(outcome.quantized, {node.name for node in outcome.allocated.nodes}))
    return (math.fsum(bits.values()) + added) / sum(counts.values()) if counts else None


def _added_bits(program: Program, known: Collection[str]) -> Iterator[float]:
    """Bits of the weights of layers that were not there when formats were chosen, such as branches."""
    varying = set(program.inputs)
    for node in program.nodes:
        if varying.isdisjoint(node.all_input_nodes):
            # What only puts a weight together was counted with it.
            continue
        varying.add(node)
        for source in node.all_input_nodes if node.name not in known else ():
            for param in _behind(source) if source not in varying else ():
                type_ = program.tensor_type(param)
                shape = [int(size) for size in type_.shape]
                each = 8 * type_.dtype.itemsize if type_.spec is None else bits_per_element(type_.spec, shape)
                yield each * math.prod(shape) if type_.rank > 1 else 0.0


def _behind(constant: Node) -> Iterator[Node]:
    """The parameters that a constant is made of; scales are part of the codes that they belong to."""
    if constant.op == "get_attr":
        yield constant
    sources = constant.all_input_nodes
    for source in sources[:1] if constant.target is ops.dequantize else sources:
        yield from _behind(source)


def latency_report(outcome: Outcome, folder: Path) -> LatencyReport | None:
    """Predicted and, where the target runs here, measured seconds of one call; None when latency did not matter.

    Args:
        outcome: of the job.
        folder: with the emitted files.
    """
    allocation = next((pass_ for pass_ in outcome.job.passes if isinstance(pass_, MixedPrecision | UsePlan)), None)
    program, target = outcome.allocated or outcome.canonical, outcome.job.target
    budget = None if allocation is None else allocation.budget
    sought = isinstance(allocation, MixedPrecision) and allocation.minimise == "latency"
    if allocation is None or budget is None or not (budget.latency or sought):
        return None
    predictor = allocation.predictor(program, target)
    plan = {node.name: assigned for node in program.nodes if (assigned := _assigned(node)) is not None}
    reference = predictor.seconds({})
    limit = budget.resolve("latency", reference)
    source, table = predictor.described(), predictor.table
    if table is not None and table.device != _device(target, table.device.threads):
        source += f"; which is not where this ran: {_device(target) or 'a machine that cannot time the target'}"
    found = LatencyReport(predictor.seconds(plan), reference, limit, predictor.kind, source)
    clocks = target.backend
    if not isinstance(clocks, Clocks) or _device(target) is None:
        return found
    bench = Bench(target)
    with tempfile.TemporaryDirectory(prefix="qcompiler-float-") as place:
        bench.emit(program, {}, Path(place) / "float")
        folders, sample = [Path(place) / "float", folder], sample_inputs(program)
        whole, made = (summary(taken)[0] for taken in clocks.calls(folders, [sample] * 2, 1, bench.runs))
    # Without a table a part of what float takes is a part of what it was measured to take.
    limit = limit if table is not None else budget.resolve("latency", whole)
    return replace(found, limit=limit, measured=made, float_measured=whole)


def layer_seconds(outcome: Outcome) -> tuple[dict[str, float], str]:
    """Predicted seconds of each operator of the canonical program, and where they come from; nothing without peaks.

    Args:
        outcome: of the job; its allocation's table of latencies counts where it has one.
    """
    target = outcome.job.target
    allocation = next((pass_ for pass_ in outcome.job.passes if isinstance(pass_, MixedPrecision)), MixedPrecision())
    try:
        predictor = allocation.predictor(outcome.canonical, target)
    except UnsupportedError:
        return {}, ""
    plan = {
        node.name: assigned
        for node in outcome.quantized.nodes
        if node.name in predictor.nodes and (assigned := _assigned(node)) is not None
    }
    return predictor.each(plan), predictor.described()


def with_latency(report: Report, latency: LatencyReport | None) -> Report:
    """The report, latency noted in it; a measured one above the limit is a warning, for a busy machine is slow."""
    if latency is None:
        return report
    warnings = report.warnings
    if latency.limit is not None and latency.measured is not None and latency.measured > latency.limit:
        over = f"measured latency is {1e3 * latency.measured:.4g} ms and the budget allows {1e3 * latency.limit:.4g} ms"
        warnings = (*warnings, f"{over}: the machine was busy, or the table of latencies is off")
    return replace(report, latency=latency, notes=(*report.notes, str(latency)), warnings=warnings)


def _file_bytes(outcome: Outcome) -> int:
    target = outcome.job.target
    with tempfile.TemporaryDirectory(prefix="qcompiler-size-") as folder:
        names = target.backend.emit(outcome.lowered, target, Path(folder))
        return sum((Path(folder) / name).stat().st_size for name in names)


def _device(target: Target, threads: int = 1) -> Device | None:
    """The machine at hand, None when the target cannot be timed on it."""
    return target.backend.device(target, threads) if isinstance(target.backend, Clocks) else None


def _assigned(node: Node) -> Assignment | None:
    found = node.meta.get("assignment")
    return found if isinstance(found, Assignment) else None


def _was_offered(node: Node) -> bool:
    return node.meta.get("asked") != "float" or node.meta.get("refusal") in (LEFT_IN_FLOAT, EXCLUDED)


def _changed(job: Job, change: Callable[[MixedPrecision], Pass]) -> Job:
    passes = tuple(change(pass_) if isinstance(pass_, MixedPrecision) else pass_ for pass_ in job.passes)
    return replace(job, passes=passes)
