"""`qcompiler audit`: what the runtime really runs, layer by layer, against what was asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcompiler.cli.options import examples, print_json, print_table, shared

if TYPE_CHECKING:
    import torch

    from qcompiler.report import LayerReport
    from qcompiler.target import LayerAudit


@click.command(
    "audit",
    epilog=examples(
        "qcompiler audit model_int8",
        "qcompiler audit quantized_elsewhere.onnx --strict",
        "qcompiler audit quantized_elsewhere.onnx --legalise mended.onnx",
        "qcompiler audit --matrix",
    ),
)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--legalise",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Rewrite forms that run in float though integers were asked for, write the model there, and audit that.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="With --legalise: samples, so that results of convolutions that nothing quantizes can be given scales.",
)
@click.option("--matrix", is_flag=True, help="Show what the installed onnxruntime makes of every known pattern.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --matrix: write it as data of this version.",
)
@click.option("--strict", is_flag=True, help="Exit with 3 when a layer does not run as asked, or the matrix changed.")
@shared
def audit_command(
    model: Path | None,
    legalise: Path | None,
    calibration: Path | None,
    matrix: bool,
    output: Path | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Say of each layer of MODEL what was asked for, what onnxruntime runs, why, and what would mend it.

    MODEL is the folder of an artefact or any ONNX file: what is asked for stands in its QuantizeLinear and
    DequantizeLinear nodes.
    """
    if matrix == (model is not None):
        raise click.UsageError("name a model, or ask for --matrix")
    if matrix:
        return _matrix(output, strict, as_json)
    changes: list[dict[str, object]] = []
    if model is not None and legalise is not None:
        from qcompiler.backends.onnx.legalise import legalise_file

        samples = _samples(calibration) if calibration is not None else ()
        changes = [dataclasses.asdict(change) for change in legalise_file(_onnx_file(model), legalise, samples)]
        model = legalise
    layers = _layers(model) if model is not None else ()
    if as_json:
        print_json({"model": str(model), "changes": changes, "layers": [dataclasses.asdict(each) for each in layers]})
    else:
        _print_changes(changes)
        _print_layers(layers)
    return _check(layers) if strict else None


def _layers(model: Path) -> Sequence[LayerAudit]:
    if not model.is_dir():
        from qcompiler.backends.onnx.foreign import audit_file

        return audit_file(model)
    from qcompiler.compiler import load
    from qcompiler.job import backends
    from qcompiler.targets import load_target

    artifact = load(model)
    target = load_target(artifact.manifest.target, backends())
    known = {layer.name: layer for layer in artifact.report.layers}
    layers = target.backend.audit(artifact.program, target, model)
    return [_as_reported(layer, known.get(layer.name)) for layer in layers]


def _as_reported(layer: LayerAudit, known: LayerReport | None) -> LayerAudit:
    """What the audit found, with the wish and the module that the report of the compilation names."""
    return layer if known is None else replace(layer, requested=known.requested, module=known.module)


def _samples(path: Path) -> Sequence[Mapping[str, torch.Tensor]]:
    """All samples of a file as one batch."""
    import torch

    from qcompiler.data import load_npz

    return [{name: torch.from_numpy(array) for name, array in load_npz(path).items()}]


def _onnx_file(model: Path) -> Path:
    if not model.is_dir():
        return model
    from qcompiler.compiler import load

    return load(model).onnx


def _print_changes(changes: Sequence[dict[str, object]]) -> None:
    if changes:
        rows = [(str(change["rule"]), str(change["node"]), str(change["reason"])) for change in changes]
        print_table(("rule", "node", "what the runtime did with it"), rows, f"{len(changes)} rewrites")


def _print_layers(layers: Sequence[LayerAudit]) -> None:
    placed = any(layer.module for layer in layers)
    rows = [
        (
            layer.name,
            *([layer.module] if placed else []),
            layer.op,
            layer.requested,
            layer.realised,
            "yes" if layer.ok else "NO",
            _told(layer),
        )
        for layer in layers
    ]
    places = ("module",) if placed else ()
    print_table(("layer", *places, "operator", "asked for", "runs as", "as asked", "why, and what to do"), rows)
    quantized = [layer for layer in layers if layer.requested != "float"]
    right = sum(layer.ok for layer in quantized)
    click.echo(f"\n{right} of {len(quantized)} quantized layers run as asked, {len(layers) - len(quantized)} are float")


def _told(layer: LayerAudit) -> str:
    return f"{layer.reason}; {layer.mend}" if layer.mend else layer.reason


def _check(layers: Sequence[LayerAudit]) -> None:
    from qcompiler.errors import AuditError

    fallen = [layer for layer in layers if not layer.ok]
    if fallen:
        first = fallen[0]
        raise AuditError(
            f"{len(fallen)} of {len(layers)} layers do not run as asked",
            where=f"{first.name}: {first.requested} runs as {first.realised}",
            step="audit",
            mend=first.mend,
        )


def _matrix(output: Path | None, strict: bool, as_json: bool) -> None:
    from qcompiler.backends.onnx.matrix.patterns import patterns
    from qcompiler.backends.onnx.matrix.probe import changed, golden_versions, probe_all, read_golden, write_golden
    from qcompiler.backends.onnx.realised import RUNTIME_VERSION
    from qcompiler.errors import AuditError

    rows = probe_all(patterns())
    known = RUNTIME_VERSION in golden_versions()
    differences = changed(rows, read_golden()) if known else []
    if output is not None:
        write_golden(rows, output)
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
    else:
        table = [(row.pattern, row.kernel, "yes" if row.integer else "", " ".join(row.operators)) for row in rows]
        print_table(("pattern", "kernel", "integers", "graph that runs"), table, f"onnxruntime {RUNTIME_VERSION}")
        click.echo(
            f"\n{sum(row.integer for row in rows)} of {len(rows)} patterns run on integers; "
            + (f"{len(differences)} differ from the stored matrix" if known else "no stored matrix of this version")
        )
    if strict and differences:
        before, now = differences[0]
        raise AuditError(
            f"{len(differences)} patterns run otherwise than the stored matrix says",
            where=f"{now.pattern}: {before.kernel} became {now.kernel}",
            mend="write the new matrix with -o, and look at the kernel rows of the target",
        )
