"""How long generated C takes: whole calls, and a lone layer apart from what is around it.

Models run in turns, so that a busy machine slows all of them alike. With one thread a call is timed by the time that
the processor spent on it, which other processes do not change. The parts of a lone layer are steps of its functions:
each step of a copy of `model.c` adds what it takes to a counter of its own. A call has the batch of the model.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from qcompiler.backends.c.building import BUILD
from qcompiler.backends.c.host import HostRunner, build_host
from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.project import read_project
from qcompiler.backends.c.toolchain import find_compiler
from qcompiler.clocks import Part, Times

WARM_UP = 5
MODEL = "model.c"
_SECONDS = "qc_seconds"
_CLOCK = """#define _POSIX_C_SOURCE 199309L
#include <time.h>
__attribute__((visibility("default"))) double {seconds}[{count}];
static double qc_now(void) {{
    struct timespec now;
    clock_gettime({clock}, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}}
"""
_STEP = re.compile(r"^    \{\n.*?^    \}\n", re.MULTILINE | re.DOTALL)
_CODES_MADE = "qc_code("
_CODES_READ = re.compile(r"const (?:qc_act|u?int8_t) \*restrict")


def runtime_here(isa: Isa) -> str:
    """What runs models of a level here, as times are labelled."""
    compiler = find_compiler(LEVELS[isa].architecture).version().splitlines()
    return f"generated C, {isa.value}, {compiler[0] if compiler else 'unknown compiler'}"


def time_calls(
    folders: Sequence[Path], inputs: Sequence[Sequence[torch.Tensor]], threads: int, runs: int
) -> list[list[float]]:
    """Seconds of each call of each folder's model; arguments as of `clocks.Clocks.calls`."""
    models = [HostRunner(folder, threads) for folder in folders]
    inputs = [_batch(folder, given) for folder, given in zip(folders, inputs, strict=True)]
    clock = time.thread_time if threads == 1 else time.perf_counter
    found: list[list[float]] = [[] for _ in models]
    for _ in range(WARM_UP + runs):
        for model, given, taken in zip(models, inputs, found, strict=True):
            # The second call in a row counts: as when one model runs again and again.
            model(given)
            started = clock()
            model(given)
            taken.append(clock() - started)
    return [taken[WARM_UP:] for taken in found]


def time_parts(
    folders: Sequence[Path], inputs: Sequence[Sequence[torch.Tensor]], threads: int, runs: int
) -> list[list[Times]]:
    """Seconds of the parts of each call of each folder's layer; arguments as of `clocks.Clocks.parts`."""
    with tempfile.TemporaryDirectory(prefix="qcompiler-clock-") as place:
        layers = [_Clocked(folder, Path(place) / str(n), threads) for n, folder in enumerate(folders)]
        inputs = [_batch(folder, given) for folder, given in zip(folders, inputs, strict=True)]
        found: list[list[Times]] = [[] for _ in layers]
        for _ in range(WARM_UP + runs):
            for layer, given, taken in zip(layers, inputs, found, strict=True):
                layer.call(given)
                taken.append(layer.call(given))
        return [taken[WARM_UP:] for taken in found]


class _Clocked:
    """A layer that times its steps."""

    def __init__(self, folder: Path, copy: Path, threads: int) -> None:
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(BUILD))
        clock = "CLOCK_THREAD_CPUTIME_ID" if threads == 1 else "CLOCK_MONOTONIC"
        text, self._parts = clocked((copy / MODEL).read_text(), clock)
        (copy / MODEL).write_text(text)
        library = build_host(copy)
        self._model = HostRunner(copy, threads, library)
        count = max(1, len(self._parts))
        self._seconds = (ctypes.c_double * count).in_dll(ctypes.CDLL(str(library)), _SECONDS)

    def call(self, inputs: Sequence[torch.Tensor]) -> Times:
        """One call."""
        self._seconds[:] = [0.0] * len(self._seconds)
        self._model(inputs)
        found: dict[Part, float] = dict.fromkeys(("enter", "layout in", "operator", "layout out", "leave"), 0.0)
        for part, seconds in zip(self._parts, self._seconds, strict=False):
            found[part] += seconds
        return found


def _batch(folder: Path, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The first rows of a larger batch, as many as a call takes."""
    ports = read_project(folder).input_ports
    firsts = [port.shape[0] if port.shape else None for port in ports]
    return [
        value.narrow(0, 0, first).contiguous() if isinstance(first, int) and value.shape[0] > first else value
        for value, first in zip(inputs, firsts, strict=True)
    ]


def clocked(text: str, clock: Literal["CLOCK_THREAD_CPUTIME_ID", "CLOCK_MONOTONIC"]) -> tuple[str, list[Part]]:
    """A `model.c` whose steps are timed by a clock, and what each step is."""
    parts: list[Part] = []

    def timed(match: re.Match[str]) -> str:
        place = len(parts)
        parts.append(part_of(match[0]))
        before = f"    const double qc_before_{place} = qc_now();\n"
        return f"{before}{match[0]}    {_SECONDS}[{place}] += qc_now() - qc_before_{place};\n"

    functions, rest, end = _functions(text)
    body = _STEP.sub(timed, functions)
    head = _CLOCK.format(seconds=_SECONDS, count=max(1, len(parts)), clock=clock)
    return head + rest + body + end, parts


def part_of(step: str) -> Part:
    """What a step of a lone layer is: what touches inputs or results of the model without computing is around it."""
    if "QC_RUN(" in step:
        return "operator"
    if "->outputs[" in step:
        return "leave" if _CODES_READ.search(step) else "layout out"
    if "->inputs[" in step:
        return "enter" if _CODES_MADE in step else "layout in"
    return "operator"


def _functions(text: str) -> tuple[str, str, str]:
    """The functions of layers, what stands before them, and what stands behind them."""
    end = text.index("static void qc_run_layers(")
    start = text.find("/* ", text.index("#include"), end)
    start = end if start < 0 else start
    return text[start:end], text[:start], text[end:]
