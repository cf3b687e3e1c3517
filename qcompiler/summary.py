"""Puts the report of a compilation together: plan, audit and measurements, a record per layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from qcompiler.ir.interp import check_inputs, evaluate
from qcompiler.ir.ops import runs_regions
from qcompiler.ir.program import Node, Program
from qcompiler.ir.region import INSIDE, MEND_INSIDE, inner_layers, nested_programs
from qcompiler.ir.types import TensorType
from qcompiler.layout import channels_last
from qcompiler.manifest import library_versions
from qcompiler.measure import LayerError, limit_samples, measure_layers, output_sqnr_db, sample_count
from qcompiler.pipeline import Step
from qcompiler.plan import Assignment, Decomposition
from qcompiler.qparams import stored_spec
from qcompiler.report import LayerReport, Report
from qcompiler.report.symmetry import symmetry_report
from qcompiler.spec import bits_per_element
from qcompiler.stats import Batch
from qcompiler.target import LayerAudit, Runner, Target

MEASURED_SAMPLES = 8
MEASURED_ELEMENTS = 1 << 18
"""Errors are averaged over places as well as samples: few samples do where each of them is large."""


def summarize(
    canonical: Program,
    quantized: Program,
    target: Target,
    recipe: str,
    seed: int,
    steps: Sequence[Step],
    audits: Sequence[LayerAudit],
    files: Sequence[Path],
    runner: Runner,
    batches: Sequence[Batch],
    warnings: Sequence[str],
    float_bytes: int,
) -> Report:
    """The report, without task metric and time.

    Args:
        canonical: the float program that everything is compared with.
        quantized: the program as the recipe left it.
        target: the device.
        recipe: name of the recipe.
        seed: of every random choice.
        steps: the passes that ran.
        audits: what the runtime really runs.
        files: what the backend wrote; their size is the deployed size.
        runner: runs them.
        batches: samples to measure on; a few are enough.
        warnings: what the user should know.
        float_bytes: of the parameters before the recipe; branches and wider weights of transforms are not the model's.
    """
    samples = samples_to_measure(canonical, canonical.outputs, batches[0])
    few = list(limit_samples(canonical, batches, samples))
    inside = samples_to_measure(canonical, [*canonical.inputs, *canonical.outputs], batches[0])
    measured = measure_layers(canonical, quantized, few, samples=inside)
    references = measured.references if inside == samples else float_results(canonical, few)
    by_name = {audit.name: audit for audit in audits}
    return Report(
        model=canonical.name,
        target=target.name,
        recipe=recipe,
        layers=layer_reports(canonical, quantized, by_name, measured.layers, target),
        sqnr_db=deployed_sqnr_db(references, runner, few),
        float_bytes=float_bytes,
        quantized_bytes=sum(path.stat().st_size for path in files),
        steps=tuple(replace(step, refusals=()) for step in steps),
        warnings=tuple(warnings),
        symmetries=symmetry_report(canonical, quantized_layers(quantized)),
        seed=seed,
        versions=library_versions(),
    )


def parameter_bytes(program: Program) -> int:
    """Bytes of all parameters, those of regions included."""
    return sum(tensor_bytes(each, node) for _, each in nested_programs(program) for node in each.param_nodes)


def quantized_layers(program: Program) -> frozenset[str]:
    """Names of the operators for which a format was chosen."""
    return frozenset(node.name for node in program.nodes if isinstance(node.meta.get("assignment"), Assignment))


def samples_to_measure(program: Program, nodes: Sequence[Node], batch: Batch) -> int:
    """How many samples make a fair measurement, by the size that these values have for one sample of a batch."""
    bound = check_inputs(program, batch)
    shapes = [type_.shape for type_ in map(program.type, nodes) if isinstance(type_, TensorType)]
    elements = sum(math.prod(program.dimensions.hint(dim, bound) for dim in shape) for shape in shapes)
    each = elements / max(sample_count(batch), 1)
    return min(max(math.ceil(MEASURED_ELEMENTS / max(each, 1.0)), 1), MEASURED_SAMPLES)


def first_rows(program: Program, batch: Batch, rows: int) -> Batch:
    """The first samples of a batch, when the first dimension of every input is free; else the whole batch."""
    dims = [program.shape(node)[0] if program.shape(node) else 0 for node in program.inputs]
    if any(isinstance(dim, int) for dim in dims) or len(set(dims)) > 1:
        return batch
    return [tensor[:rows] for tensor in batch]


def float_results(canonical: Program, batches: Sequence[Batch]) -> list[list[torch.Tensor]]:
    """The results of the float program for each batch."""
    with torch.no_grad():
        return [evaluate(canonical, channels_last(batch)) for batch in batches]


def deployed_sqnr_db(
    references: Sequence[Sequence[torch.Tensor]], runner: Runner, batches: Sequence[Batch]
) -> float | None:
    """Output SQNR of what runs on the device against the float results; None when nothing floats in them."""
    wanted: list[torch.Tensor] = []
    found: list[torch.Tensor] = []
    for expected, batch in zip(references, batches, strict=True):
        for reference, value in zip(expected, runner(batch), strict=True):
            if reference.is_floating_point():
                wanted.append(reference)
                found.append(value)
    return output_sqnr_db(wanted, found) if wanted else None


def simulated_line(canonical: Program, ships: Runner, batches: Sequence[Batch], real: float | None) -> str:
    """What the simulation of the lowered program predicts, beside what was measured on the files."""
    few = list(limit_samples(canonical, batches, samples_to_measure(canonical, canonical.outputs, batches[0])))
    found = deployed_sqnr_db(float_results(canonical, few), ships, few)
    told = ["none" if value is None else f"{value:.2f} dB" for value in (found, real)]
    return f"output SQNR by the meanings of the kernels that ship: {told[0]}; of the files as they ran: {told[1]}"


def layer_reports(
    canonical: Program,
    quantized: Program,
    audits: Mapping[str, LayerAudit],
    errors: Mapping[str, LayerError],
    target: Target,
) -> tuple[LayerReport, ...]:
    """All layers of a program: what was asked, what runs and how far off they are, where that is known."""
    sources = {node.name: node for node in canonical.nodes}
    layers = [
        layer_report(canonical, node, sources.get(node.name), audits.get(node.name), errors.get(node.name), target)
        for node in quantized.nodes
        if not runs_regions(node.target)
        and ("assignment" in node.meta or "refusal" in node.meta or node.name in audits)
    ]
    return (*layers, *(row for node in quantized.nodes for row in inner_reports(node)))


def layer_report(
    canonical: Program,
    node: Node,
    source: Node | None,
    audit: LayerAudit | None,
    error: LayerError | None,
    target: Target,
) -> LayerReport:
    """One layer: what was asked, what runs, what it costs; `source` is the node in the canonical program."""
    assigned = node.meta.get("assignment")
    weights = [value for value in source.all_input_nodes if _is_weight(canonical, value)] if source is not None else []
    float_bytes = sum(tensor_bytes(canonical, weight) for weight in weights)
    asked = str(node.meta.get("asked", "float")) if "refusal" in node.meta else "float"
    requested = requested_text(assigned) if isinstance(assigned, Assignment) else asked
    bits, size = 32.0, float_bytes
    if isinstance(assigned, Assignment) and source is not None:
        bits, size = _deployed(canonical, source, assigned, node.meta.get("decomposition"), float_bytes, target)
    realised = audit.realised if audit is not None else ("not checked" if isinstance(assigned, Assignment) else "float")
    reason = str(node.meta.get("refusal", "")) or (audit.reason if audit is not None else "")
    return LayerReport(
        name=node.name,
        module=canonical.origin(node).module,
        op=canonical.op(node),
        requested=requested,
        realised=realised,
        kernel=assigned.kernel if isinstance(assigned, Assignment) else "",
        bits=bits,
        sqnr_db=error.sqnr_db if error is not None else None,
        error_share=error.share if error is not None else None,
        bytes=size,
        float_bytes=float_bytes,
        reason=reason,
        mend=audit.mend if audit is not None else "",
    )


def inner_reports(node: Node) -> Iterator[LayerReport]:
    """One record for each layer inside the regions of an operator: all of them stay in float."""
    for name, program, inner in inner_layers(node):
        weights = [param for param in inner.all_input_nodes if param.op == "get_attr"]
        size = sum(tensor_bytes(program, param) for param in weights)
        yield LayerReport(
            name=name,
            module=program.origin(inner).module,
            op=program.op(inner),
            requested=str(node.meta.get("asked", "float")),
            bytes=size,
            float_bytes=size,
            reason=INSIDE,
            mend=MEND_INSIDE,
        )


def requested_text(assigned: Assignment) -> str:
    """The numbers asked for, weights first: `weight int8 x input uint8`."""
    names: Mapping[str, str] = {name: spec.numbers for name, spec in assigned.inputs.items()}
    ordered = sorted(names, key=lambda name: (name != "weight", name))
    return " x ".join(f"{name} {names[name]}" for name in ordered)


def tensor_bytes(program: Program, node: Node) -> int:
    """Bytes of a parameter as the model holds it."""
    type_ = program.tensor_type(node)
    return _count(type_) * type_.dtype.itemsize


def _is_weight(program: Program, value: Node) -> bool:
    return value.op == "get_attr" or stored_spec(program, value) is not None


def _count(type_: TensorType) -> int:
    count = 1
    for dim in type_.shape:
        count *= int(dim)
    return count


def _deployed(
    canonical: Program, source: Node, assigned: Assignment, parts: object, float_bytes: int, target: Target
) -> tuple[float, int]:
    """Bits per weight with scales and zero points, and bytes of all parameters as the target stores them."""
    arguments = canonical.bind(source)
    bits, size = 32.0, float_bytes
    for name, spec in assigned.inputs.items():
        weight = arguments[name]
        if isinstance(weight, Node) and _is_weight(canonical, weight):
            type_ = canonical.tensor_type(weight)
            stored = parts.bits if isinstance(parts, Decomposition) else None
            shape = [int(dim) for dim in type_.shape]
            bits = stored or bits_per_element(spec, shape)
            held = stored or target.stored_bits(assigned.kernel, spec, shape)
            size += round(held * _count(type_) / 8) - tensor_bytes(canonical, weight)
    return bits, size
