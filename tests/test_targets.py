"""Device files: each row names what exists, and errors say which line is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qcompiler.backends.c.backend import CBackend
from qcompiler.backends.cuda.backend import CudaBackend
from qcompiler.backends.onnx.backend import OnnxBackend
from qcompiler.backends.onnx.kernels import WRITERS
from qcompiler.backends.onnx.settings import settings_of
from qcompiler.backends.onnx.unpack.rows import STORED_ROWS
from qcompiler.backends.reference import MEANINGS
from qcompiler.backends.reference.backend import ReferenceBackend
from qcompiler.errors import SpecError
from qcompiler.ir.ops import op_target
from qcompiler.job import backends
from qcompiler.spec import parse_scheme
from qcompiler.target import Kernel, Target
from qcompiler.targets import load_target, target_names
from qcompiler.tracer import trace

BACKENDS = {"c": CBackend(), "cuda": CudaBackend(), "onnx": OnnxBackend(), "reference": ReferenceBackend()}
ROWS = [
    (target, kernel) for name in target_names() for target in [load_target(name, BACKENDS)] for kernel in target.kernels
]
IDS = [f"{target.name}-{kernel.name}" for target, kernel in ROWS]
WRITTEN = [row for row in ROWS if row[0].backend.name == "onnx" and row[1].name not in STORED_ROWS]
FILE = """
name: mine
backend: onnx
kernels:
  - name: linear
    ops: [aten.linear]
    slots:
      input: {accepts: [uint8 asym tensor]}
      weight: {accepts: [int8 sym channel], weight: true}
"""


def test_known_devices():
    assert {"onnxruntime", "jetson"} <= set(target_names())


@pytest.mark.parametrize(("target", "kernel"), WRITTEN, ids=[f"{t.name}-{k.name}" for t, k in WRITTEN])
def test_row_is_meant_and_written(target: Target, kernel: Kernel):
    assert kernel.name in MEANINGS
    assert kernel.name in WRITERS
    assert set(kernel.guards) <= set(target.backend.guards)


@pytest.mark.parametrize(("target", "kernel"), ROWS, ids=IDS)
def test_row_names_operators_and_arguments_that_exist(target: Target, kernel: Kernel):
    for op in (*kernel.ops, *kernel.absorbs):
        overload = op_target(op)
        assert isinstance(overload, torch._ops.OpOverload)
        if op in kernel.ops:
            assert set(kernel.slots) <= {argument.name for argument in overload._schema.arguments}


@pytest.mark.parametrize("name", sorted({target.name for target, _ in WRITTEN}))
def test_settings_are_known(name):
    assert settings_of(load_target(name, BACKENDS)).opset >= 21


def test_jetson_is_symmetric_and_signed():
    target = load_target("jetson", BACKENDS)
    slots = [slot for kernel in target.kernels for slot in (*kernel.slots.values(), kernel.result)]
    accepts = [accept for slot in slots for accept in slot.accepts]
    assert accepts
    assert all(accept.symmetric and accept.format.startswith("int") for accept in accepts)


def test_own_file(tmp_path):
    target = load_target(_written(tmp_path, FILE), BACKENDS)
    assert target.name == "mine"
    assert [kernel.name for kernel in target.kernels] == ["linear"]


BROKEN = {
    "accepts: [uint8 asym tensor]": ("accepts: [uint9 asym tensor]", "kernel 'linear'"),
    "weight: true": ("weigth: true", "weigth"),
    "backend: onnx": ("backend: tpu", "tpu"),
    "ops: [aten.linear]": ("ops: [aten.linear]\n    guards: [lucky]", "lucky"),
    "kernels:": ("kernels:\n  - {name: linear, ops: [aten.mm], slots: {}}", "two kernel rows"),
    "name: mine": ("name: [", "cannot read"),
}


@pytest.mark.parametrize("old", BROKEN)
def test_broken_file_says_what_is_wrong(tmp_path, old):
    new, says = BROKEN[old]
    with pytest.raises(SpecError, match=says):
        load_target(_written(tmp_path, FILE.replace(old, new, 1)), BACKENDS)


def test_missing_file_and_unknown_name(tmp_path):
    with pytest.raises(SpecError, match="cannot read"):
        load_target(tmp_path / "none.yaml", BACKENDS)
    with pytest.raises(SpecError, match="onnxruntime"):
        load_target("abacus", BACKENDS)


def test_unknown_setting_is_refused(tmp_path):
    target = load_target(_written(tmp_path, FILE + "settings: {linear: fastest}\n"), BACKENDS)
    with pytest.raises(SpecError, match="linear"):
        settings_of(target)


def _written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_settings_in_braces_take_the_place_of_the_files() -> None:
    known = backends()
    target = load_target("onnxruntime{weight_only=fast, opset=17}", known)
    assert target.settings["weight_only"] == "fast"
    assert target.settings["opset"] == 17
    assert target.settings["attention"] == load_target("onnxruntime", known).settings["attention"]
    assert load_target(target.name, known) == target


@pytest.mark.parametrize("text", ["onnxruntime{opset=17", "onnxruntime opset=17}"])
def test_braces_of_a_target_must_match(text: str) -> None:
    with pytest.raises(SpecError):
        load_target(text, backends())


@pytest.mark.parametrize("name", ["cuda", "host", "cortex-m0"])
def test_table_of_a_function_takes_no_keywords(name: str) -> None:
    program = trace(torch.nn.GELU(approximate="tanh"), torch.randn(1, 4, 5, 5))
    (node,) = [node for node in program.nodes if program.op(node) == "aten.gelu"]
    found = load_target(name, BACKENDS).choose(program, node, parse_scheme("w8a8"))
    assert "has no kernel for its 'approximate'" in str(found)
