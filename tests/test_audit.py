"""Audits of any ONNX file, the matrix of patterns, and both held against what the runtime says it ran."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner

import qcompiler
from qcompiler.backends.onnx.foreign import Wiring, audit_file, numbered, plain_name
from qcompiler.backends.onnx.matrix.patterns import patterns
from qcompiler.backends.onnx.matrix.probe import changed, golden_versions, probe, read_golden, write_golden
from qcompiler.backends.onnx.matrix.sketch import Sketch
from qcompiler.backends.onnx.profile import claimed_kernels, executed, false_answers
from qcompiler.backends.onnx.realised import RUNTIME_VERSION, Realised
from qcompiler.cli.app import run as run_command
from qcompiler.cli.audit import audit_command
from qcompiler.errors import InputError
from qcompiler.target import LayerAudit

KNOWN = {pattern.name: pattern for pattern in patterns()}
SAMPLE = sorted(KNOWN)[::7]
TRAP = "MatMul u8 x s8 channel, bias added behind, float out"
GOOD = "Conv u8 x s8 channel, int32 bias, u8 out"


def written(name: str, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(KNOWN[name].model(), path)
    return path


def inputs_of(path: Path) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    items = onnx.load(str(path)).graph.input
    shapes = {item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim] for item in items}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


# -- the matrix ----------------------------------------------------------------------------------------------------


def test_the_matrix_is_wide():
    assert len(KNOWN) >= 60
    assert len({pattern.name for pattern in patterns()}) == len(patterns())


@pytest.mark.skipif(RUNTIME_VERSION not in golden_versions(), reason="no golden data of the installed onnxruntime")
@pytest.mark.parametrize("name", SAMPLE)
def test_the_stored_matrix_holds(name):
    assert probe(KNOWN[name]) == read_golden()[name]


@pytest.mark.parametrize("version", golden_versions())
def test_stored_matrices_speak_of_known_patterns(version):
    assert set(read_golden(version)) == set(KNOWN)


def test_a_changed_kernel_is_seen(tmp_path):
    row = probe(KNOWN[GOOD])
    write_golden([row], tmp_path / "golden.json")
    assert json.loads((tmp_path / "golden.json").read_text())["patterns"][0]["kernel"] == "QLinearConv"
    assert changed([row], {row.pattern: row}) == []
    other = replace(row, kernel="Conv")
    assert changed([row], {row.pattern: other}) == [(other, row)]


def test_there_is_no_matrix_of_a_version_that_nobody_probed():
    with pytest.raises(InputError, match="no matrix"):
        read_golden("0.0.1")


# -- any file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLE)
def test_audits_agree_with_the_profile(tmp_path, name):
    path = written(name, tmp_path)
    try:
        layers = audit_file(path)
    except InputError:
        assert probe(KNOWN[name]).kernel == "refused"
        return
    assert false_answers(layers, executed(path, inputs_of(path))) == ()


@pytest.mark.parametrize("name", [name for name in SAMPLE if " x " in name])
def test_products_are_as_asked_where_the_matrix_says_integer(tmp_path, name):
    row = read_golden().get(name) if RUNTIME_VERSION in golden_versions() else None
    if row is None or row.kernel == "refused" or "f32" in name or name.startswith("MatMulNBits"):
        pytest.skip("the matrix says nothing of integers here")
    layers = audit_file(written(name, tmp_path))
    assert {layer.ok for layer in layers} == {row.integer}


def test_a_fallen_layer_has_reason_and_mend(tmp_path):
    (layer,) = audit_file(written(TRAP, tmp_path))
    assert not layer.ok
    assert layer.requested == "uint8 per tensor x int8 per channel"
    assert "bias" in layer.reason
    assert "int32" in layer.mend


def test_activations_that_are_quantized_in_secret_are_told(tmp_path):
    (layer,) = audit_file(written("MatMul f32 x s4 block, float out", tmp_path))
    assert (layer.requested, layer.realised, layer.ok) == (
        "float x int4 per block",
        "MatMulNBits accuracy_level=4",
        False,
    )
    assert "int8" in layer.reason


@pytest.mark.parametrize(
    ("op", "kernel"),
    [("Conv", "QLinearConv"), ("Gemm", "QGemm"), ("ConvTranspose", "DequantizeLinear, ConvTranspose")],
)
def test_weights_that_are_quantized_in_secret_are_told(tmp_path, op, kernel):
    (layer,) = audit_file(written(f"{op} u8 x f32, u8 out", tmp_path))
    assert (layer.requested, layer.realised, layer.ok) == ("uint8 per tensor x float -> uint8", kernel, False)
    assert "one scale" in layer.reason


def test_operators_that_leave_the_codes_are_float_by_choice(tmp_path):
    def body(g: Sketch) -> list[str]:
        return [g.op("Sigmoid", [g.pair(g.input((4, 8)), "u8")])]

    g = Sketch()
    onnx.save(g.model(body(g)), tmp_path / "model.onnx")
    assert audit_file(tmp_path / "model.onnx") == ()


def test_names_of_the_file_are_kept(tmp_path):
    path = written(GOOD, tmp_path)
    model = onnx.load(str(path))
    next(node for node in model.graph.node if node.op_type == "Conv").name = "stem/conv#1"
    onnx.save(model, path)
    assert [layer.name for layer in audit_file(path)] == ["stem/conv#1"]
    assert plain_name(numbered(model).graph.node[0].name) == model.graph.node[0].name.rpartition("#")[0]


def test_what_is_asked_for_is_read_through_movements():
    g = Sketch()
    x = g.op("Transpose", [g.pair(g.input((4, 8)), "u8")], {"perm": [1, 0]})
    wiring = Wiring.of(g.model([x]).graph)
    assert str(wiring.operand(x)) == "uint8 per tensor"
    assert str(wiring.operand("x0")) == "float"


def test_external_weights_are_found(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(KNOWN[GOOD].model(), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    assert [layer.realised for layer in audit_file(path)] == ["QLinearConv"]


def test_no_onnx_file_is_refused(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no model at all")
    with pytest.raises(InputError, match="no ONNX file"):
        audit_file(tmp_path / "no.onnx")
    with pytest.raises(InputError, match="cannot read"):
        audit_file(tmp_path / "absent.onnx")


# -- the witness ---------------------------------------------------------------------------------------------------


def test_a_lie_is_a_false_answer(tmp_path):
    path = written(TRAP, tmp_path)
    (layer,) = audit_file(path)
    ran = executed(path, inputs_of(path))
    assert false_answers([layer], ran) == ()
    found = false_answers([replace(layer, realised="QGemm")], ran)
    assert [text.partition(":")[0] for text in found] == ["Gemm", "QGemm"]


@pytest.mark.parametrize(
    ("shown", "kernels"),
    [
        ("DequantizeLinear, Gemm", ["Gemm"]),
        ("MatMulNBits accuracy_level=4", ["MatMulNBits"]),
        ("FusedMatMul + MatMul", ["FusedMatMul", "MatMul"]),
        ("MaxPool", []),
    ],
)
def test_kernels_are_read_out_of_their_words(shown, kernels):
    assert claimed_kernels(LayerAudit("a", "", "MatMul", "", shown, True)) == kernels


def test_all_products_of_a_node_show():
    realised = Realised(("FusedMatMul", "Softmax", "MatMul"))
    assert (realised.kernel, realised.main) == ("FusedMatMul", "FusedMatMul + MatMul")


def test_codes_that_are_moved_are_integers():
    assert Realised(("QuantizeLinear", "MaxPool"), None, frozenset({"MaxPool"})).integer
    assert not Realised(("QuantizeLinear", "DequantizeLinear", "MaxPool")).integer


# -- the command ---------------------------------------------------------------------------------------------------


def test_command_tells_layers_as_json(tmp_path):
    result = CliRunner().invoke(audit_command, [str(written(TRAP, tmp_path)), "--json"])
    (layer,) = json.loads(result.output)["layers"]
    assert (layer["op"], layer["realised"], layer["ok"]) == ("MatMul", "Gemm", False)


def test_strict_command_fails_on_a_fallen_layer(tmp_path, capsys):
    path = written(TRAP, tmp_path)
    assert run_command(["audit", str(path)]) == 0
    assert run_command(["audit", str(path), "--strict"]) == 3
    assert run_command(["audit", str(path), "--legalise", str(tmp_path / "mended.onnx"), "--strict"]) == 0
    assert "matmul_with_bias_as_gemm" in capsys.readouterr().out


def test_command_reads_artefacts(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
    artifact = qcompiler.compile(model, calibration=[torch.randn(4, 3, 8, 8)], recipe="w8a8")
    artifact.save(tmp_path / "compiled")
    result = CliRunner().invoke(audit_command, [str(tmp_path / "compiled"), "--json", "--strict"])
    layers = json.loads(result.output)["layers"]
    assert [layer["realised"] for layer in layers] == ["QLinearConv", "QLinearConv"]
    assert all("uint8" in layer["requested"] for layer in layers)


def test_command_wants_a_model_or_the_matrix():
    assert run_command(["audit"]) == 2


def test_arrays_of_a_sketch_are_the_same_each_time():
    first, second = (KNOWN[GOOD].model().SerializeToString() for _ in range(2))
    assert first == second
