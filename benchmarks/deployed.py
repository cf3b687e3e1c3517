"""Whole models: the simulation of what ships against onnxruntime, and whether it predicts the accuracy that ships.

    python -m benchmarks.deployed [--models resnet20,silero] [--recipes w8a8,w4a16g32] [--samples 300]
    python -m benchmarks.deployed --fast        the prediction for activations that the runtime quantizes by itself

One row per model and recipe: decisions (top class of each sample, token, box or frame) that differ, largest difference
of the results, elements of codes that differ, the first operator whose codes do, and the output SQNR against the float
model, simulated and real.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
import torch

import qcompiler
from benchmarks.common import Row, merged, print_table, write_results
from benchmarks.models import CASES, Case
from benchmarks.onnx_models import ONNX_CASES, Inputs, OnnxCase
from qcompiler.artifact import Artifact
from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.reference import MEANINGS
from qcompiler.backends.reference.floats import FLOAT_MEANINGS
from qcompiler.errors import UnsupportedError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node
from qcompiler.ir.types import TensorType
from qcompiler.job import backends
from qcompiler.measure import output_sqnr_db
from qcompiler.simulate import simulation
from qcompiler.targets import load_target
from qcompiler.tracer import trace

RECIPES = ("w8a8", "w8a8_dynamic", "w4a16g32")
FAST_RECIPES = ("w8a16", "w4a16g32", "w4a16g128")
FAST_MODELS = ("vit_mnist", "dit", "code_lm", "stories")
NOTE = "the simulation of what ships against onnxruntime on the CPU, default session"
_CALIBRATION = 128
_SHIPPED = {**MEANINGS, **FLOAT_MEANINGS}


class Enough(Exception):
    """Raised when a metric has shown as many samples as were wanted."""


@dataclass(frozen=True)
class Comparison:
    """One model as it is compared.

    Args:
        name: short.
        model: what `qcompiler.compile` takes.
        calibration: flat inputs.
        samples: flat inputs, some of several samples.
        decisions: of flat results; None where nothing is decided.
    """

    name: str
    model: object
    calibration: Sequence[Inputs]
    samples: Sequence[Inputs]
    decisions: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None


def comparison(name: str, samples: int) -> Comparison:
    """The model of that name with the inputs that its metric would use."""
    if name in ONNX_CASES:
        case: OnnxCase = ONNX_CASES[name]()
        count = max(1, min(samples, 64))
        return Comparison(name, case.path, case.calibration[:count], case.samples[:count], case.decisions)
    found: Case = CASES[name]()
    axis = {"cnn": 1, "vit": 1, "lm": -1}.get(found.kind)
    decide = None if axis is None else (lambda results: results[0].argmax(axis))
    calibration, seen = [], 0
    for batch in found.calibration:
        calibration.append(batch)
        seen += batch[0].shape[0]
        if seen >= _CALIBRATION:
            break
    return Comparison(name, found.module, calibration, inputs_of(found, samples), decide)


def inputs_of(case: Case, samples: int) -> list[Inputs]:
    """The first inputs that a metric hands to its model."""
    found: list[Inputs] = []

    def record(*args: torch.Tensor) -> object:
        found.append(args)
        if sum(each[0].shape[0] for each in found) >= samples or len(found) >= 32:
            raise Enough
        return case.module(*args)

    try:
        with torch.no_grad():
            case.metric(record)
    except Enough:
        pass
    return [tuple(value[:samples] for value in each) for each in found]


def compare(subject: Comparison, recipe: str, weight_only: str) -> Row:
    """Compiles once, runs both ways on every sample."""
    target = load_target("onnxruntime", backends())
    target = replace(target, settings={**target.settings, "weight_only": weight_only})
    artifact = qcompiler.compile(subject.model, target, calibration=list(subject.calibration), recipe=recipe)
    reference = trace(subject.model, subject.samples[0], "auto", None)
    run, simulate = artifact.runner, simulation(artifact.program, _SHIPPED)
    wanted: list[torch.Tensor] = []
    real: list[torch.Tensor] = []
    simulated: list[torch.Tensor] = []
    decided = differing = 0
    seconds = [0.0, 0.0]
    for sample in subject.samples:
        started = time.perf_counter()
        ran = list(run(sample))
        seconds[0] += time.perf_counter() - started
        started = time.perf_counter()
        meant = simulate(sample)
        seconds[1] += time.perf_counter() - started
        if subject.decisions is not None:
            pair = [subject.decisions(results) for results in (ran, meant)]
            decided, differing = decided + pair[0].numel(), differing + int((pair[0] != pair[1]).sum())
        with torch.no_grad():
            wanted += evaluate(reference, list(sample))
        real, simulated = real + ran, simulated + meant
    places = [
        (a, b, c)
        for a, b, c in zip(wanted, real, simulated, strict=True)
        if a.is_floating_point() and a.shape == b.shape == c.shape
    ]
    largest = max(float((b - c).abs().max() / b.abs().max().clamp(min=1e-30)) for _, b, c in places)
    found = [output_sqnr_db([a for a, *_ in places], [each[at] for each in places]) for at in (1, 2)]
    codes, unequal, first = differences(artifact, subject.samples[0])
    return {
        "model": subject.name,
        "recipe": recipe,
        "weight only": weight_only,
        "decisions": decided,
        "other decisions": differing,
        "largest difference": largest,
        "codes": codes,
        "unequal codes": unequal,
        "first": first,
        "SQNR real dB": found[0],
        "SQNR simulated dB": found[1],
        "off by dB": abs(found[0] - found[1]),
        "runtime s": seconds[0],
        "simulation s": seconds[1],
    }


def differences(artifact: Artifact, sample: Inputs) -> tuple[int, int, str]:
    """Codes that are computed on the way, how many differ, and the first operator that yields others."""
    program = artifact.program
    coded = {node.name: node for node in program.nodes if is_coded(node) and node.op == "call_function"}
    model = onnx.load(str(artifact.onnx))
    made = {name: value for value in model.graph.node for name in value.output}
    known = {value.name for value in model.graph.output}
    shown = [name for name in coded if name in made and name not in known]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in shown)
    if model.ByteSize() > 1 << 30 or not shown:
        return 0, 0, ""
    values: dict[str, torch.Tensor] = {}
    simulation(program, _SHIPPED, lambda node, value: values.__setitem__(node.name, value), frozenset(shown))(sample)
    session = open_session(onnx.shape_inference.infer_shapes(model).SerializeToString())
    names = [value.name for value in model.graph.input]
    results = dict(zip(session.outputs, session.run(dict(zip(names, sample, strict=True))), strict=True))
    total = unequal = 0
    first = ""
    for name in shown:
        bad = int((results[name].float() != values[name].float()).sum())
        total, unequal = total + values[name].numel(), unequal + bad
        first = first or (f"%{name} ({bad} of {values[name].numel()})" if bad else "")
    return total, unequal, first


def is_coded(node: Node) -> bool:
    """Whether a node yields codes."""
    type_ = node.meta.get("type")
    return isinstance(type_, TensorType) and type_.spec is not None


def verdict(rows: Sequence[Mapping[str, object]]) -> bool:
    """Whether no decision differs and every prediction is within half a decibel."""
    return all(not row["other decisions"] and float(str(row["off by dB"])) < 0.5 for row in rows)


def main() -> None:
    """Compares the models asked for; rows of `results/deployed.json` replace those of the same model and recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="")
    parser.add_argument("--recipes", default="")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--fast", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.models.split(",") if options.models else FAST_MODELS if options.fast else [*CASES, *ONNX_CASES]
    recipes = options.recipes.split(",") if options.recipes else FAST_RECIPES if options.fast else RECIPES
    rows: list[Row] = []
    for name in names:
        subject = comparison(name, options.samples)
        for recipe in recipes:
            try:
                rows.append(compare(subject, recipe, "fast" if options.fast else "exact"))
            except UnsupportedError as error:
                print(f"{name} {recipe}: {error.what}", flush=True)
            else:
                print(rows[-1], flush=True)
                result = "deployed_fast" if options.fast else "deployed"
                write_results(result, merged(result, rows, ("model", "recipe")), NOTE)
    print_table(rows)
    sys.exit(not verdict(rows))


if __name__ == "__main__":
    main()
