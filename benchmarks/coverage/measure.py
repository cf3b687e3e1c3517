"""One architecture, all the way: trace, text form, float ONNX, two compilations. Run it in a process of its own."""

from __future__ import annotations

import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

import qcompiler
from benchmarks.coverage.architecture import Architecture, Inputs
from benchmarks.coverage.corpus import find
from benchmarks.coverage.isolated import Row
from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.onnx.writer import save_model, write_model
from qcompiler.data import as_inputs, flat_batch
from qcompiler.errors import QCompilerError
from qcompiler.ir.interp import flatten_inputs
from qcompiler.ir.program import Program
from qcompiler.ir.structure import describe
from qcompiler.job import backends
from qcompiler.measure import output_sqnr_db
from qcompiler.passes.canonical import CANONICAL
from qcompiler.pipeline import Context, run_passes
from qcompiler.target import Target
from qcompiler.targets import load_target

CALIBRATION = 8
HELD_OUT = 2
NOISE = 1e-3


def measure(architecture: Architecture, recipes: Sequence[str]) -> Row:
    """The row of one architecture; what fails is written into it, and what follows from it left out."""
    torch.set_num_threads(1)
    row: Row = {"model": architecture.name, "family": architecture.family}
    module = architecture.module()
    samples = architecture.samples(CALIBRATION + HELD_OUT)
    calibration, held_out = samples[:CALIBRATION], samples[CALIBRATION:]
    traced = program = None
    with stage(row, "trace"):
        started = time.process_time()
        traced = qcompiler.trace(module, calibration[0])
        row["trace s"] = time.process_time() - started
        row["free"] = len(traced.dimensions.symbols)
        program, _ = run_passes(
            traced, CANONICAL, Context(_target()), sample=flat_batch(traced, calibration[0], "inputs")
        )
        row["nodes"] = len(program.nodes)
    if traced is None or program is None:
        return row
    with stage(row, "text"):
        text = str(program)
        row["text"] = "same" if str(qcompiler.parse(text)) == text else "differs"
    with stage(row, "float"):
        row["float dB"] = float_sqnr(program, module, held_out)
    with stage(row, "sensitivity"):
        row["sensitivity dB"] = sensitivity(module, held_out)
    for recipe in recipes:
        with stage(row, recipe):
            row.update(compiled(traced, module, calibration, held_out, recipe))
    return row


def float_sqnr(program: Program, module: torch.nn.Module, samples: Sequence[Inputs]) -> float:
    """SQNR in dB of the float program in ONNX Runtime against eager torch."""
    opset = int(str(_target().settings.get("opset", 21)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_model(write_model(program, opset=opset), path)
        session = open_session(path, threads=1)
        found: list[list[torch.Tensor]] = []
        for sample in samples:
            call = as_inputs(sample)
            flat = flatten_inputs(program, call.args, call.kwargs)
            found.append(session.run(dict(zip(program.input_names, flat, strict=True))))
    return worst_sqnr([results(module, sample) for sample in samples], found)


def compiled(
    traced: Program,
    module: torch.nn.Module,
    calibration: Sequence[Inputs],
    held_out: Sequence[Inputs],
    recipe: str,
) -> Row:
    """Compiles and runs: output SQNR on samples that calibration did not see, and what fell back."""
    started = time.process_time()
    artifact = qcompiler.compile(traced, calibration=list(calibration), recipe=recipe)
    seconds = time.process_time() - started
    found = [describe(artifact(**sample))[1] for sample in held_out]
    report = artifact.report
    return {
        f"{recipe} dB": worst_sqnr([results(module, sample) for sample in held_out], found),
        f"{recipe} layers": sum(layer.requested != "float" for layer in report.layers),
        f"{recipe} fallbacks": len(report.fallbacks),
        f"{recipe} reasons": sorted({layer.reason for layer in report.fallbacks}),
        f"{recipe} s": seconds,
    }


def sensitivity(module: torch.nn.Module, samples: Sequence[Inputs]) -> float:
    """Output SQNR in dB when every weight is multiplied by `1 + 0.001 n`, n normal: 60 dB in, how much comes out."""
    wanted = [results(module, sample) for sample in samples]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1 + NOISE * torch.randn(parameter.shape, generator=generator))
    found = [results(module, sample) for sample in samples]
    module.load_state_dict(state)
    if not all(bool(tensor.isfinite().all()) for tensor in wanted[0] if tensor.is_floating_point()):
        raise ValueError("the float model yields NaN or infinity")
    return worst_sqnr(wanted, found)


def results(module: torch.nn.Module, sample: Inputs) -> list[torch.Tensor]:
    """The flat results of eager torch."""
    with torch.no_grad():
        return describe(module(**sample))[1]


def worst_sqnr(wanted: Sequence[Sequence[torch.Tensor]], found: Sequence[Sequence[torch.Tensor]]) -> float:
    """The lowest SQNR in dB among the floating-point results of a model, each taken over all samples."""
    pairs = zip(zip(*wanted, strict=True), zip(*found, strict=True), strict=True)
    return min(output_sqnr_db(ours, theirs) for ours, theirs in pairs if ours[0].is_floating_point())


def _target() -> Target:
    return load_target("onnxruntime", backends())


@contextmanager
def stage(row: Row, name: str) -> Iterator[None]:
    """Writes what goes wrong within into a row, and lets the rest go on."""
    try:
        yield
    except Exception as error:
        row[f"{name} error"] = _told(error)
        row.setdefault("failed", name)


def _told(error: Exception) -> str:
    if isinstance(error, QCompilerError):
        return error.what[:600]
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}"[:500] + f" ({Path(last.filename).name}:{last.lineno})"


def measure_named(name: str, recipes: Sequence[str]) -> Row:
    """The row of the architecture of that name."""
    warnings.simplefilter("ignore")
    return measure(find(name), recipes)
