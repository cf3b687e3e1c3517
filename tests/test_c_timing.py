"""Times of generated C: calls of whole models, and lone layers step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qcompiler
from qcompiler.backends.c.backend import FOLDER, CBackend
from qcompiler.backends.c.timing import clocked, part_of
from qcompiler.backends.c.toolchain import find_compiler
from qcompiler.errors import UnsupportedError
from qcompiler.targets import load_target

QUANTIZE = "    {\n        const float *restrict x0 = c->inputs[0];\n        out[0] = qc_code(x0[0], 1.0f);\n    }\n"
KERNEL = (
    "    {\n        const qc_gemm_i8_args args = {.input = c->inputs[0]};\n        QC_RUN(c, gemm_i8, &args);\n    }\n"
)
REALS = "    {\n        const qc_act *restrict x0 = c->arena;\n        float *restrict out = c->outputs[0];\n    }\n"
COPY = "    {\n        const float *restrict x0 = c->arena;\n        float *restrict out = c->outputs[0];\n    }\n"
MODEL = f'#include "model.h"\n\n/* top: all */\nstatic void all(const qc_context *c) {{\n{QUANTIZE}{KERNEL}}}\n\n'
END = "static void qc_run_layers(const qc_context *c) {\n    {\n        all(c);\n    }\n}\n"


@pytest.mark.parametrize(
    ("step", "part"), [(QUANTIZE, "enter"), (KERNEL, "operator"), (REALS, "leave"), (COPY, "layout out")]
)
def test_steps_are_told_apart_by_what_they_touch(step: str, part: str) -> None:
    assert part_of(step) == part


def test_every_step_of_a_layer_has_its_counter() -> None:
    text, parts = clocked(MODEL + END, "CLOCK_MONOTONIC")
    assert parts == ["enter", "operator"]
    assert text.endswith(END)
    assert text.count("= qc_now();") == 2
    assert "qc_seconds[2]" in text.splitlines()[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        find_compiler("portable")
    except UnsupportedError as error:
        pytest.skip(error.what)
    place = tmp_path_factory.mktemp("timed") / "model"
    torch.manual_seed(0)
    batches = [torch.randn(2, 64) for _ in range(2)]
    qcompiler.compile(torch.nn.Linear(64, 256), target="host", calibration=batches, output=place)
    return place


def test_parts_of_a_layer_sum_to_less_than_the_call(folder: Path) -> None:
    inputs = [[torch.randn(2, 64)]]
    (parts,) = CBackend().parts([folder], inputs, threads=1, runs=5)
    (calls,) = CBackend().calls([folder], inputs, threads=1, runs=5)
    assert len(parts) == len(calls) == 5
    assert all(part["operator"] > 0 for part in parts)
    # Around the layer lie the checks of the call, which take microseconds in Python.
    assert min(sum(part.values()) for part in parts) < max(calls)


def test_timing_leaves_the_artefact_as_it_was(folder: Path) -> None:
    before = (folder / FOLDER / "model.c").read_bytes()
    CBackend().parts([folder], [[torch.randn(2, 64)]], threads=1, runs=1)
    assert (folder / FOLDER / "model.c").read_bytes() == before


def test_another_processor_has_no_clock_here() -> None:
    assert CBackend().device(load_target("arm64", {"c": CBackend()}), 1) is None
    here = CBackend().device(load_target("host", {"c": CBackend()}), 1)
    assert here is not None
    assert here.runtime.startswith("generated C, ")
