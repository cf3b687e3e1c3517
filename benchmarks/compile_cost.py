"""Cost of a compilation beside the quantizer of ONNX Runtime: CPU time, peak memory, output SQNR.

    python -m benchmarks.compile_cost [--models squeezenet,resnet56,imdn] [--rounds 3]

Both get the same ONNX file and the same calibration batches, and run on one core. Every run is a fresh process; the
clock starts when the libraries are imported. Compilers take turns, so that a busy machine hurts them alike.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import ROOT, print_table, write_results

MINMAX = ("assign{scheme=w8a8}", "apply_plan", "calibrate{method=minmax}", "nearest")
BASE = "quantize_static"
HELD_OUT = 64
FREE = {
    "squeezenet": {0: "batch"},
    "resnet56": {0: "batch"},
    "imdn": {0: "batch", 2: "height", 3: "width"},
}
Compiler = Callable[[Path, list[np.ndarray], Path], Path]


@dataclass(frozen=True)
class Cost:
    """One run of one compiler.

    Args:
        cpu: seconds of CPU time of the call, all threads, in user and kernel.
        wall: seconds.
        peak: largest resident memory of the process in MB, imports included.
        imports: resident memory in MB before the call.
        sqnr: output signal-to-noise ratio in dB on held-out samples, in ONNX Runtime.
        size: of the file in MB.
    """

    cpu: float
    wall: float
    peak: float
    imports: float
    sqnr: float
    size: float


def ours(recipe: str) -> Compiler:
    """Our compiler, everything included: file, audit, measurements, report."""
    import torch

    from qcompiler import compile
    from qcompiler.passes.recipes import Recipe

    torch.set_num_threads(1)
    chosen = Recipe.of("minmax", MINMAX) if recipe == "minmax" else recipe

    def call(model: Path, batches: list[np.ndarray], folder: Path) -> Path:
        samples = [(torch.from_numpy(batch),) for batch in batches]
        return compile(str(model), calibration=samples, recipe=chosen, output=folder / "artifact").onnx

    return call


def runtime(preprocess: bool) -> Compiler:
    """The quantizer of ONNX Runtime with the settings that its documentation gives for this processor."""
    import onnxruntime
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class OneThread(onnxruntime.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = 1

    # The quantizer has no option for the threads of its calibration session, and they ignore the process's affinity.
    onnxruntime.SessionOptions = OneThread
    onnxruntime.set_default_logger_severity(3)
    logging.disable(logging.WARNING)

    class Reader(CalibrationDataReader):
        def __init__(self, batches: list[np.ndarray]) -> None:
            self.batches: Iterator[np.ndarray] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            batch = next(self.batches, None)
            return None if batch is None else {"x": batch}

    def call(model: Path, batches: list[np.ndarray], folder: Path) -> Path:
        if preprocess:
            quant_pre_process(str(model), str(folder / "preprocessed.onnx"), skip_symbolic_shape=True)
            model = folder / "preprocessed.onnx"
        quantize_static(
            str(model),
            str(folder / "quantized.onnx"),
            Reader(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return folder / "quantized.onnx"

    return call


COMPILERS: dict[str, Callable[[], Compiler]] = {
    BASE: lambda: runtime(preprocess=False),
    "preprocessing and quantize_static": lambda: runtime(preprocess=True),
    "ours, same settings": lambda: ours("minmax"),
    "ours, recipe w8a8": lambda: ours("w8a8"),
}


def export(name: str, folder: Path) -> None:
    """Writes the model, its calibration batches and held-out inputs; a process of its own runs this."""
    import torch

    from benchmarks.models import CASES

    case = CASES[name]()
    inputs = case.calibration[0]
    torch.onnx.export(
        case.module,
        inputs,
        str(folder / "model.onnx"),
        dynamo=True,
        external_data=False,
        opset_version=21,
        input_names=["x"],
        dynamic_shapes=(FREE[name],),
        verbose=False,
    )
    np.savez(folder / "calibration.npz", *[batch[0].numpy() for batch in case.calibration])
    np.savez(folder / "held_out.npz", *held_out(name))


def held_out(name: str) -> list[np.ndarray]:
    """Inputs that calibration has not seen."""
    from benchmarks.common import shared_folder

    shared = shared_folder()
    if name == "imdn":
        from eval_sr_psnr import pairs  # pyright: ignore[reportMissingImports]

        small = [low for low, _ in pairs(shared / "data/set5_x4.npz").values()]
        return [(image.transpose(2, 0, 1)[None] / 255).astype(np.float32) for image in small[:3]]
    if name == "squeezenet":
        from squeezenet import photo_crops, preprocess  # pyright: ignore[reportMissingImports]

        return [preprocess(photo_crops(str(shared / "data"))[0:16:2]).numpy()]
    from eval_cifar import load_cifar  # pyright: ignore[reportMissingImports]
    from resnet_cifar import normalize  # pyright: ignore[reportMissingImports]

    images, _ = load_cifar(shared / "data/cifar10_test.npz")
    return [normalize(images[:HELD_OUT]).numpy()]


def run_once(compiler: str, folder: Path) -> Cost:
    """One compilation in this process, measured."""
    call = COMPILERS[compiler]()
    with np.load(folder / "calibration.npz") as archive:
        batches = [archive[key] for key in archive.files]
    imports = memory_mb("VmRSS")
    with tempfile.TemporaryDirectory() as work:
        started, cpu = time.perf_counter(), time.process_time()
        path = call(folder / "model.onnx", batches, Path(work))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - started
        peak = memory_mb("VmHWM")
        return Cost(cpu, wall, peak, imports, sqnr(folder, path), path.stat().st_size / 1e6)


def sqnr(folder: Path, quantized: Path) -> float:
    """Output SQNR in dB of a file against the float file, on the held-out inputs."""
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(str(path)) for path in (folder / "model.onnx", quantized)]
    signal = noise = 0.0
    with np.load(folder / "held_out.npz") as archive:
        for key in archive.files:
            wanted, found = (np.asarray(session.run(None, {"x": archive[key]})[0]) for session in sessions)
            signal += float(np.square(wanted, dtype=np.float64).sum())
            noise += float(np.square(wanted.astype(np.float64) - found).sum())
    return 10 * float(np.log10(signal / noise))


def memory_mb(field: str) -> float:
    """A memory figure of this process; unlike `getrusage` it does not begin with that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1e3


def summary(model: str, compiler: str, costs: list[Cost], base: list[Cost]) -> dict[str, object]:
    """One row: medians, and ratios to `quantize_static`."""

    def middle(runs: list[Cost], field: str) -> float:
        return median(getattr(run, field) for run in runs)

    return {
        "model": model,
        "compiler": compiler,
        "CPU s": middle(costs, "cpu"),
        "CPU ratio": middle(costs, "cpu") / middle(base, "cpu"),
        "wall s": middle(costs, "wall"),
        "peak MB": middle(costs, "peak"),
        "peak ratio": middle(costs, "peak") / middle(base, "peak"),
        "before the call MB": middle(costs, "imports"),
        "SQNR dB": middle(costs, "sqnr"),
        "file MB": middle(costs, "size"),
    }


def compare(model: str, rounds: int) -> list[dict[str, object]]:
    """All compilers on one model, taking turns."""
    costs: dict[str, list[Cost]] = {compiler: [] for compiler in COMPILERS}
    with tempfile.TemporaryDirectory() as folder:
        _spawn("--export", model, folder)
        for _ in range(rounds):
            for compiler, found in costs.items():
                found.append(Cost(**json.loads(_spawn("--once", compiler, folder).splitlines()[-1])))
    return [summary(model, compiler, found, costs[BASE]) for compiler, found in costs.items()]


def main() -> None:
    """Compares, prints and writes `results/compile_cost.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(FREE))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--export", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        export(options.export[0], Path(options.export[1]))
    elif options.once:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(run_once(options.once[0], Path(options.once[1])).__dict__))
    else:
        rows = [row for model in options.models.split(",") for row in compare(model, options.rounds)]
        print_table(rows)
        print(
            write_results(
                "compile_cost", rows, f"median of {options.rounds} fresh processes each, one core, taking turns"
            )
        )


def _spawn(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.compile_cost", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
