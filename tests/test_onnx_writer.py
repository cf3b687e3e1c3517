"""The written model: names, provenance, memory, files and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from qcompiler.backends.onnx.call import Call
from qcompiler.backends.onnx.context import Context
from qcompiler.backends.onnx.ops import EMITTERS, THEMES
from qcompiler.backends.onnx.writer import save_model, write_model
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Builder, Node, Program, Signature, Stage
from qcompiler.ir.structure import Structure
from tests.onnx_tools import (
    F32,
    IMAGE,
    X,
    assert_same,
    build,
    kinds,
    parameters,
    run_onnx,
    session,
    single,
    typed,
)


def test_names_and_provenance_are_kept() -> None:
    program = Program(stage=Stage.CANONICAL)
    x = program.add_input("image", typed(2, 6))
    builder = program.append(step="smooth", module="layers.0.fc1")
    silu = builder.call("aten.silu", x, name="act")
    program.set_outputs([builder.call("aten.linear", silu, builder.param("layers.0.fc1.weight", torch.randn(3, 6)))])
    leaf = Structure("leaf", index=0)
    program.signature = Signature(
        Structure("tuple", (leaf,)), Structure("dict"), Structure("dict", (leaf,), ("logits",))
    )
    model = write_model(program)
    nodes = list(model.graph)
    assert [value.name for value in model.graph.inputs] == ["image"]
    assert [value.name for value in model.graph.outputs] == ["logits"]
    assert [node.name for node in nodes] == [
        "layers.0.fc1/act.Sigmoid",
        "layers.0.fc1/act",
        "layers.0.fc1/linear_default",
    ]
    assert nodes[1].outputs[0].name == "act"
    assert "layers.0.fc1.weight" in model.graph.initializers
    assert nodes[2].metadata_props["qcompiler.module"] == "layers.0.fc1"
    assert nodes[2].metadata_props["qcompiler.step"] == "smooth"


def test_symbolic_dimensions_stay_in_the_interface() -> None:
    model = write_model(build(single("aten.relu"), typed("s0", 4)))
    assert [str(dim) for dim in session(model).get_outputs()[0].shape] == ["s0", "4"]


def test_input_weight_and_repeated_result_can_be_outputs() -> None:
    def body(b: Builder, x: Node) -> list[Node]:
        y = b.call("aten.relu", x)
        return [x, y, y, b.param("w", torch.tensor([1.0, 2.0]))]

    program = build(body, typed("s0", 2))
    model = assert_same(program, [torch.randn(3, 2)])
    assert [value.name for value in model.graph.outputs] == ["output_0", "output_1", "output_2", "output_3"]


def test_unused_operators_and_weights_are_not_written() -> None:
    def body(b: Builder, x: Node) -> Node:
        b.call("aten.add.Tensor", x, b.param("unused", torch.randn(4)))
        return b.call("aten.relu", x)

    model = write_model(build(body, typed(2, 4)))
    assert kinds(model) == ["Relu"]
    assert not model.graph.initializers


def test_weights_share_the_memory_of_the_program() -> None:
    weight = torch.randn(40, 40)
    model = write_model(build(lambda b, x: b.call("aten.add.Tensor", x, b.param("w", weight)), typed(40, 40)))
    stored = model.graph.initializers["w"].const_value
    assert stored is not None
    assert np.shares_memory(stored.numpy(), weight.numpy())


def test_linear_of_a_matrix_is_gemm_with_turned_weight() -> None:
    model = write_model(build(parameters("aten.linear", (3, 6), (3,)), typed("s0", 6)))
    assert kinds(model) == ["Gemm"]
    stored = model.graph.initializers["w0"].const_value
    assert stored is not None
    assert list(stored.shape) == [6, 3]


def test_unknown_operator_is_named_with_its_module() -> None:
    program = Program(stage=Stage.CANONICAL)
    x = program.add_input("x", typed(4, 4))
    program.set_outputs([program.append(module="head").call("aten.linalg_inv", x, name="inverse")])
    with pytest.raises(UnsupportedError, match=r"aten\.linalg_inv") as caught:
        write_model(program)
    assert "%inverse = aten.linalg_inv from module head" in str(caught.value)


def test_opset_outside_the_known_range_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="opset 20"):
        write_model(build(single("aten.relu"), X), opset=20)


def test_kernels_are_written_by_the_emitters_that_are_handed_in() -> None:
    def doubled(context: Context, call: Call) -> ir.Value:
        source = call.inputs[0]
        assert isinstance(source, Node)
        factor = context.scalar(call.number("factor"), F32)
        return context.op("Mul", [context.value(source), factor])

    def body(b: Builder, x: Node) -> Node:
        return b.call("qc.kernel", "double", x, kwargs={"factor": 2.0}, type_=typed("s0", 3))

    program = build(body, typed("s0", 3), stage=Stage.LOWERED)
    (result,) = run_onnx(write_model(program, kernel_emitters={"double": doubled}), [torch.ones(2, 3)])
    assert torch.equal(result, torch.full((2, 3), 2.0))
    with pytest.raises(UnsupportedError, match="kernel 'double'"):
        write_model(program)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    program = build(parameters("aten.conv2d", (5, 4, 3, 3), (5,)), IMAGE)
    for name in ("a.onnx", "b.onnx"):
        save_model(write_model(program), tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_large_weights_go_to_a_file_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.backends.onnx.writer.EXTERNAL_DATA_BYTES", 1000)
    program = build(parameters("aten.linear", (30, 30)), typed("s0", 30))
    save_model(write_model(program), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size == 3600
    x = torch.randn(2, 30)
    running = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(running.run(None, {"x0": x.numpy()})[0]), evaluate(program, [x])[0])


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        save_model(write_model(build(single("aten.relu"), X)), tmp_path / "missing" / "model.onnx")


def test_every_emitter_names_an_operator_of_the_ir_once() -> None:
    assert sum(len(theme) for theme in THEMES) == len(EMITTERS)
    for name in EMITTERS:
        assert ops.op_name(ops.op_target(name)) == name
