"""Whole models in generated C beside the same models in ONNX Runtime, one thread, one sample a call.

    python -m benchmarks.speed_cpu [--models resnet20,vit_mnist] [--recipe w8a8] [--rounds 41] [--levels avx2,avx512]

All of one model are run in turns in one process; a ratio is the median over rounds of the time of generated C to that
of ONNX Runtime's int8 within the round, as CPU time of the calling thread. `codes` counts values of the lowered program
that differ from its kernels' meanings; `arena` is what the memory plan says and what the model takes, `text` the bytes
of code in the library without weights, `build` seconds of generation and compilers.

    python -m benchmarks.speed_cpu --arm        the same bits under an emulator on NEON, dot products and i8mm
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np
import onnxruntime
import torch

import qcompiler
from benchmarks.common import print_table, write_results
from benchmarks.decode import one_thread
from benchmarks.models import CASES, Case
from qcompiler.backends.c.backend import FOLDER, runner
from qcompiler.backends.c.emission import write_module
from qcompiler.backends.c.host import HostRunner, build_host
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.project import read_project, write_project
from qcompiler.backends.c.settings import Settings
from qcompiler.backends.c.sizes import sizes_of
from qcompiler.backends.onnx.settings import settings_of
from qcompiler.backends.onnx.writer import save_model, write_model
from qcompiler.backends.reference import MEANINGS
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program
from qcompiler.ir.types import TensorType
from qcompiler.job import prepare, run_job
from qcompiler.passes.recipes import Recipe

ARM_LEVELS = (Isa.NEON, Isa.DOTPROD, Isa.I8MM)
Row = dict[str, object]


def thread_seconds(calls: Sequence[Callable[[], object]], rounds: int) -> np.ndarray:
    """CPU seconds of the calling thread, [rounds, calls]; two of each before the first round."""
    seconds = np.zeros((rounds + 2, len(calls)))
    for row in seconds:
        for index, call in enumerate(calls):
            started = time.thread_time()
            call()
            row[index] = time.thread_time() - started
    return seconds[2:]


def sample_of(program: Program, case: Case) -> list[torch.Tensor]:
    """One sample of the sizes for which the model is written."""
    sizes = sizes_of(program, 1)
    shapes = [
        [program.dimensions.hint(dim, sizes) for dim in type_.shape]
        for node in program.inputs
        if isinstance(type_ := program.type(node), TensorType)
    ]
    return [
        value[tuple(slice(size) for size in shape)].contiguous()
        for value, shape in zip(case.calibration[0], shapes, strict=True)
    ]


def differing(program: Program, inputs: Sequence[torch.Tensor], level: Isa | str) -> int:
    """How many elements of codes differ between generated C and the meanings, over all values of a program."""
    watched = program.copy()
    nodes = [node for node in watched.nodes if isinstance(watched.type(node), TensorType)]
    coded = [node for node in nodes if watched.tensor_type(node).spec is not None]
    watched.set_outputs(coded)
    with tempfile.TemporaryDirectory() as place:
        write_project(write_module(watched, Settings(isa=level)), Path(place))  # pyright: ignore[reportArgumentType]
        found = runner(Path(place))(inputs)
    wanted = evaluate(watched, inputs, kernels=MEANINGS)
    return sum(int((one != other).sum()) for one, other in zip(found, wanted, strict=True))


def text_bytes(library: Path) -> int:
    """Bytes of code and constants in a library, which holds no weights."""
    sizes = subprocess.run(["size", "-A", str(library)], capture_output=True, text=True, check=True).stdout
    kinds = dict(line.split()[:2] for line in sizes.splitlines() if line.startswith("."))
    return sum(int(kinds.get(name, 0)) for name in (".text", ".rodata"))


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), one_thread(), providers=["CPUExecutionProvider"])


def _fed(path: Path, inputs: Sequence[torch.Tensor]) -> tuple[onnxruntime.InferenceSession, dict[str, np.ndarray]]:
    opened = session(path)
    names = [value.name for value in opened.get_inputs()]
    return opened, dict(zip(names, map(np.asarray, inputs), strict=True))


def rows_of(case: Case, recipe: str, rounds: int, levels: Sequence[str]) -> list[Row]:
    """One row per level."""
    calibration = [tuple(value[:4] for value in batch) for batch in case.calibration[:4]]
    job = prepare(case.module, "onnxruntime", calibration=calibration, recipe=Recipe("none", ()))
    holder = tempfile.TemporaryDirectory()
    floats = Path(holder.name) / "float.onnx"
    save_model(write_model(run_job(job)[1], opset=settings_of(job.target).opset), floats)
    integers = qcompiler.compile(case.module, "onnxruntime", calibration=calibration, recipe=recipe)
    rows: list[Row] = []
    for level in levels:
        ours = qcompiler.compile(case.module, f"host{{isa={level}}}", calibration=calibration, recipe=recipe)
        inputs = sample_of(ours.program, case)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            write_project(write_module(ours.program, Settings(isa=level)), Path(place))  # pyright: ignore[reportArgumentType]
            build_host(Path(place))
            built = time.perf_counter() - started
        folder = ours.folder / FOLDER
        model = HostRunner(folder)
        feeds = [_fed(path, inputs) for path in (floats, integers.onnx)]
        calls = [partial(model, inputs), *(partial(opened.run, None, feed) for opened, feed in feeds)]
        seconds = thread_seconds(calls, rounds)
        rows.append(
            {
                "model": case.name,
                "level": model.level,
                "fp32 ms": median(seconds[:, 1]) * 1e3,
                "int8 ms": median(seconds[:, 2]) * 1e3,
                "C ms": median(seconds[:, 0]) * 1e3,
                "C / int8": median(seconds[:, 0] / seconds[:, 2]),
                "C / fp32": median(seconds[:, 0] / seconds[:, 1]),
                "SQNR C": ours.report.sqnr_db,
                "SQNR int8": integers.report.sqnr_db,
                "codes": differing(ours.program, inputs, level),
                "arena kB": read_project(folder).arena_bytes / 1024,
                "text kB": text_bytes(build_host(folder)) / 1024,
                "build s": built,
            }
        )
    return rows


def arm_rows(case: Case, recipe: str) -> list[Row]:
    """Whether the bits are the same on every level of ARM as on this machine."""
    calibration = [tuple(value[:4] for value in batch) for batch in case.calibration[:4]]
    here = qcompiler.compile(case.module, "host", calibration=calibration, recipe=recipe)
    inputs = sample_of(here.program, case)
    wanted = runner(here.folder / FOLDER)(inputs)
    rows: list[Row] = []
    for level in ARM_LEVELS:
        with tempfile.TemporaryDirectory() as place:
            write_project(write_module(here.program, Settings(isa=level)), Path(place))
            started = time.perf_counter()
            found = runner(Path(place))(inputs)
            taken = time.perf_counter() - started
        same = all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
        rows.append(
            {
                "model": case.name,
                "level": level.value,
                "results equal": same,
                "codes": differing(here.program, inputs, level),
                "build and run s": taken,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--recipe", default="w8a8")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--levels", default="native")
    parser.add_argument("--arm", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in options.models.split(","):
        case = CASES[name]()
        made = (
            arm_rows(case, options.recipe)
            if options.arm
            else rows_of(case, options.recipe, options.rounds, options.levels.split(","))
        )
        rows += made
        print_table(made)
    if not options.arm:
        ratios = [float(str(row["C / int8"])) for row in rows]
        print(f"geometric mean of C / int8: {geometric_mean(ratios):.3f}, worst {max(ratios):.3f}")
    print(write_results("speed_cpu_arm" if options.arm else "speed_cpu", rows))


if __name__ == "__main__":
    main()
