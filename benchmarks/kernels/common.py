"""What all families share: kernels as functions of this process, and contests timed in turns.

A contest is one piece of work and several ways to do it. All of them run in every round, in one thread, timed as CPU
time of that thread; a ratio is the median over rounds of the ratio within the round, so that a busy machine hurts all
alike.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime

from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.kernels.row import ROOT
from qcompiler.backends.c.toolchain import find_compiler

SLACK = 256
SECONDS_PER_TURN = 0.004
_FLAGS = {Isa.AVX2: "avx2", Isa.AVX512: "avx512_vnni", Isa.AMX: "amx_int8"}
_REPEAT = """
#include <stddef.h>
#include <string.h>
typedef struct { const char *from; char *to; size_t lines, bytes, stride; } image;
void qc_repeat(void (*kernel)(const void *, size_t, size_t), const void *args, size_t tasks, size_t count,
               const image *inside) {
    for (size_t i = 0; i < count; ++i) {
        for (size_t y = 0; inside && y < inside->lines; ++y)
            memcpy(inside->to + y * inside->stride, inside->from + y * inside->bytes, inside->bytes);
        kernel(args, 0, tasks);
    }
}
"""


class Epilogue(ctypes.Structure):
    """`qc_epilogue`."""

    _fields_ = (
        ("finish", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("bias", "factor", "float_bias", "row_scale", "row_zero", "column_sum")),
        *((name, ctypes.c_float) for name in ("scale", "zero_point", "low", "high")),
    )


class Image(ctypes.Structure):
    """An image that is copied inside its border before every call of a kernel; part of the time of a convolution."""

    _fields_ = (
        ("source", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("lines", "bytes", "stride")),
    )


Run = Callable[[int], None]
"""Does the work as many times as told."""


@dataclass(frozen=True)
class Contest:
    """One piece of work.

    Args:
        kernel: name of the micro-kernel.
        case: the work in words.
        operations: multiplications and additions of doing it once.
        ours: versions of our kernel by level.
        peers: others; the value says why, where one cannot run.
    """

    kernel: str
    case: str
    operations: float
    ours: Mapping[str, Run]
    peers: Mapping[str, Run | str] = field(default_factory=dict)


def levels_here(kernel: str) -> list[Isa]:
    """The x86 levels above portable C that a kernel has a version for and this processor executes, best first."""
    flags = Path("/proc/cpuinfo").read_text().split()
    found = [isa for isa, flag in _FLAGS.items() if flag in flags and isa in MICRO_KERNELS[kernel].variants]
    return found[::-1]


def buffer(values: np.ndarray) -> np.ndarray:
    """The same values at a multiple of 64 bytes, with readable memory behind them."""
    room = np.zeros(values.nbytes + SLACK + 64, dtype=np.uint8)
    start = -room.ctypes.data % 64
    placed = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    placed[...] = values
    return placed


def runner(
    kernel: str, isa: Isa, args: ctypes.Structure, tasks: int, keep: Sequence[np.ndarray], image: Image | None = None
) -> Run:
    """A version of a kernel on given arguments; `keep` are the arrays that these point into."""
    library = _library(kernel, isa)
    function = ctypes.cast(library[f"qc_{kernel}_{isa.value}"], ctypes.c_void_p)
    inside = None if image is None else ctypes.byref(image)

    def run(count: int) -> None:
        library.qc_repeat(function, ctypes.byref(args), ctypes.c_size_t(tasks), ctypes.c_size_t(count), inside)
        assert keep

    return run


@cache
def _library(kernel: str, isa: Isa) -> ctypes.CDLL:
    return library((ROOT / MICRO_KERNELS[kernel].variants[isa]).read_text(), isa, ROOT / "x86")


def library(text: str, isa: Isa, *include: Path) -> ctypes.CDLL:
    """A C file, compiled for a level and loaded into this process, with what calls kernels."""
    compiler = find_compiler(LEVELS[isa].architecture)
    folder = Path(tempfile.mkdtemp(prefix="qc_bench_"))
    flags = ("-fPIC", f"-I{ROOT / 'c' / 'runtime'}", *(f"-I{path}" for path in include))
    objects = []
    for name, source, level in (("kernel", text, isa), ("repeat", _REPEAT, Isa.PORTABLE)):
        (folder / f"{name}.c").write_text(source)
        compiler.compile(folder / f"{name}.c", folder / f"{name}.o", level, flags)
        objects.append(folder / f"{name}.o")
    compiler.link(objects, folder / "kernel.so", ("-shared",))
    return ctypes.CDLL(str(folder / "kernel.so"))


def onnx_runner(
    node: onnx.NodeProto, inputs: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray], output: np.dtype
) -> Run:
    """One node in ONNX Runtime, on one thread, inputs and outputs bound beforehand."""
    graph = onnx.helper.make_graph(
        [node],
        "contest",
        [_tensor(name, value.dtype, list(value.shape)) for name, value in inputs.items()],
        [_tensor(node.output[0], output, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
    binding.bind_output(node.output[0])
    session.run_with_iobinding(binding)
    binding.bind_ortvalue_output(node.output[0], binding.get_outputs()[0])

    def run(count: int) -> None:
        for _ in range(count):
            session.run_with_iobinding(binding)

    return run


def _tensor(name: str, dtype: np.dtype, shape: list[int] | None) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(dtype), shape)


def compete(contest: Contest, rounds: int) -> dict[str, object]:
    """One row of the table: GOP/s of all, medians over rounds, and how much faster our best level is than each peer."""
    refusals = {name: run for name, run in contest.peers.items() if isinstance(run, str)}
    runs = {**contest.ours, **{name: run for name, run in contest.peers.items() if not isinstance(run, str)}}
    counts = {name: _count(run) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(_seconds(run, counts[name]))
    best = next(iter(contest.ours))
    row: dict[str, object] = {"kernel": contest.kernel, "case": contest.case}
    for name in (*contest.ours, *contest.peers):
        row[name] = refusals.get(name) or contest.operations / median(seconds[name]) / 1e9
    for name in contest.peers:
        if name not in refusals:
            ratios = (theirs / ours for theirs, ours in zip(seconds[name], seconds[best], strict=True))
            row[f"x {name}"] = median(ratios)
        else:
            row[f"x {name}"] = None
    return row


def _count(run: Run) -> int:
    run(1)
    once = max(_seconds(run, 1), 1e-7)
    return max(1, round(SECONDS_PER_TURN / once))


def _seconds(run: Run, count: int) -> float:
    start = time.thread_time()
    run(count)
    return (time.thread_time() - start) / count
