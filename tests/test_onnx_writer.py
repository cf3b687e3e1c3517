"""The written model: names, provenance, memory, files and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context
from qcompiler.backends.onnx.metadata import annotate
from qcompiler.backends.onnx.ops import EMITTERS, THEMES
from qcompiler.backends.onnx.writer import save_model, write_model
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir import ops
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
    with pytest.raises(UnsupportedError, match="opset 12"):
        write_model(build(single("aten.relu"), X), opset=12)


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


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        save_model(write_model(build(single("aten.relu"), X)), tmp_path / "missing" / "model.onnx")


def test_every_emitter_names_an_operator_of_the_ir_once() -> None:
    assert sum(len(theme) for theme in THEMES) == len(EMITTERS)
    for name in EMITTERS:
        assert ops.op_name(ops.op_target(name)) == name


def test_names_that_are_no_identifiers_and_keys_that_are_numbers_are_kept() -> None:
    program = Program(stage=Stage.CANONICAL)
    x = program.add_input("in put:0", typed(2, 3))
    builder = program.append()
    program.set_outputs([builder.call("aten.relu", x), builder.call("aten.neg", x), builder.call("aten.abs", x)])
    leaves = tuple(Structure("leaf", index=at) for at in range(3))
    result = Structure("dict", leaves, ("out/1:0", "2", "in put:0"))
    program.signature = Signature(Structure("tuple", leaves[:1]), Structure("dict"), result)
    model = write_model(program)
    assert [value.name for value in model.graph.inputs] == ["in put:0"]
    # One graph cannot call two values alike.
    assert [value.name for value in model.graph.outputs] == ["out/1:0", "2", "in put:0_1"]
    assert len(run_onnx(model, [torch.ones(2, 3)])) == 3


def test_a_file_says_what_made_it(tmp_path: Path) -> None:
    program = build(single("aten.relu"), X)
    save_model(write_model(program), tmp_path / "model.onnx")
    annotate(tmp_path / "model.onnx", {"recipe_hash": "12ab"}, {program.nodes[0].name: {"sqnr_db": "40.1"}})
    model = ir.load(tmp_path / "model.onnx")
    assert model.metadata_props["qcompiler.recipe_hash"] == "12ab"
    (node,) = model.graph
    assert node.metadata_props["qcompiler.sqnr_db"] == "40.1"
    annotate(tmp_path / "model.onnx", {"recipe_hash": "34cd"}, {})
    assert ir.load(tmp_path / "model.onnx").metadata_props["qcompiler.recipe_hash"] == "34cd"
