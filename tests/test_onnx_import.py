"""The ONNX front-end beyond single operators: shape arithmetic, structure, provenance and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qcompiler.errors import InputError, UnsupportedError
from qcompiler.frontends.onnx_import import import_onnx
from qcompiler.frontends.onnx_ops import OPERATORS
from qcompiler.ir.interp import run
from tests.onnx_models import assert_same, build, normal

# -- shapes -----------------------------------------------------------------------------------------------------------


def chain_model(opset: int = 21) -> onnx.ModelProto:
    """`Reshape(x, [Shape(x)[0] * Shape(x)[1], -1])` with every step as its own node."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", 4])
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Gather", ["shape", "one"], ["tokens"], axis=0),
        helper.make_node("Mul", ["batch", "tokens"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "axis"], ["row_list"]),
        helper.make_node("Concat", ["row_list", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"zero": np.array(0), "one": np.array(1), "axis": np.array([0]), "rest": np.array([-1])}
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "chain", [x], [onnx.ValueInfoProto(name="y")], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    return model


def test_shape_arithmetic_leaves_only_size_operators() -> None:
    program = import_onnx(chain_model())
    assert [program.op(node) for node in program.nodes] == [
        "aten.sym_size.int",
        "aten.sym_size.int",
        "sym.mul",
        "aten.reshape",
    ]
    assert not program.params


@settings(deadline=None, max_examples=20)
@given(batch=st.integers(1, 9), tokens=st.integers(1, 9))
def test_free_dimensions_take_any_size(batch: int, tokens: int) -> None:
    program = import_onnx(chain_model())
    x = torch.arange(batch * tokens * 4).reshape(batch, tokens, 4).float()
    torch.testing.assert_close(run(program, x), x.reshape(batch * tokens, 4))


def test_a_free_dimension_can_be_fixed() -> None:
    program = import_onnx(chain_model(), sizes={"tokens": 3})
    assert program.shape(program.inputs[0])[1] == 3
    assert next(iter(program.dimensions.symbols.values())).hint == 2
    assert len(program.dimensions.symbols) == 1


def test_sizes_that_become_data_are_right() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["real"], ["y"]),
    ]
    feeds = {"x": normal(5, 4)}
    model = build(nodes, feeds, ["y"], {}, free=(0,))
    assert_same(import_onnx(model), model, feeds)


def test_range_and_constant_of_shape_follow_the_input() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["length"], start=0, end=1),
        helper.make_node("Squeeze", ["length"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["positions"]),
        helper.make_node("ConstantOfShape", ["length"], ["zeros"]),
    ]
    feeds = {"x": normal(5, 4)}
    model = build(nodes, feeds, ["positions", "zeros"], {"zero": np.array(0), "one": np.array(1)}, free=(0,))
    assert_same(import_onnx(model), model, feeds)


def test_the_traced_expand_idiom_folds() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "two"], ["wanted"], axis=0),
        helper.make_node("Equal", ["wanted", "minus"], ["open"]),
        helper.make_node("Where", ["open", "ones", "wanted"], ["target"]),
        helper.make_node("Expand", ["token", "target"], ["y"]),
    ]
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "minus": np.array([-1, -1]),
        "ones": np.array([1, 1]),
        "token": normal(1, 2),
    }
    feeds = {"x": normal(5, 4)}
    model = build(nodes, feeds, ["y"], constants, free=(0,))
    program = import_onnx(model)
    assert [program.op(node) for node in program.nodes] == ["aten.sym_size.int", "aten.expand"]
    assert_same(program, model, feeds)


def test_a_window_wider_than_the_first_example_sizes_is_imported() -> None:
    nodes = [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[31, 31], strides=[1, 1])]
    feeds = {"x": normal(1, 1, 40, 33)}
    model = build(nodes, feeds, ["y"], {}, free=(0, 2, 3))
    assert_same(import_onnx(model), model, feeds)


def test_unnamed_axes_of_two_inputs_are_matched_when_they_must() -> None:
    feeds = {"a": normal(3, 4), "b": normal(3, 4)}
    model = build([helper.make_node("Add", ["a", "b"], ["y"])], feeds, ["y"], {}, free=(0,))
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].Clear()
    program = import_onnx(model)
    assert len(program.dimensions.symbols) == 1
    assert_same(program, model, feeds)


# -- structure --------------------------------------------------------------------------------------------------------


def test_constant_matrices_become_linear_layers_with_their_bias() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["p"], name="fc"),
        helper.make_node("Add", ["bias", "p"], ["y"]),
    ]
    feeds = {"x": normal(2, 3, 8)}
    model = build(nodes, feeds, ["y"], {"weight": normal(8, 5), "bias": normal(5)}, free=(0,))
    program = import_onnx(model)
    assert [program.op(node) for node in program.nodes] == ["aten.linear"]
    assert tuple(program.param(program.nodes[0].args[1]).shape) == (5, 8)  # pyright: ignore[reportArgumentType]
    assert program.origin(program.nodes[0]).module == "fc"
    assert_same(program, model, feeds)


def test_a_product_read_twice_keeps_its_own_value() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["p"]),
        helper.make_node("Add", ["p", "bias"], ["y"]),
        helper.make_node("Relu", ["p"], ["z"]),
    ]
    feeds = {"x": normal(2, 8)}
    model = build(nodes, feeds, ["y", "z"], {"weight": normal(8, 5), "bias": normal(5)})
    assert_same(import_onnx(model), model, feeds)


def test_a_shared_weight_is_one_parameter() -> None:
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["p"]), helper.make_node("MatMul", ["p", "weight"], ["y"])]
    program = import_onnx(build(nodes, {"x": normal(2, 8)}, ["y"], {"weight": normal(8, 8)}))
    assert list(program.params) == ["weight"]


def test_constants_fold_and_dead_nodes_vanish() -> None:
    nodes = [
        helper.make_node("Transpose", ["weight"], ["turned"]),
        helper.make_node("Exp", ["turned"], ["grown"]),
        helper.make_node("Relu", ["x"], ["unused"]),
        helper.make_node("Add", ["x", "grown"], ["y"]),
    ]
    feeds = {"x": normal(4, 3)}
    model = build(nodes, feeds, ["y"], {"weight": normal(3, 4)})
    program = import_onnx(model)
    assert [program.op(node) for node in program.nodes] == ["aten.add.Tensor"]
    assert_same(program, model, feeds)


def test_names_and_several_results_are_kept() -> None:
    nodes = [helper.make_node("Relu", ["images"], ["scores"]), helper.make_node("Neg", ["images"], ["boxes"])]
    program = import_onnx(build(nodes, {"images": normal(2, 3)}, ["scores", "boxes"], {}))
    x = torch.randn(2, 3)
    result = run(program, images=x)
    assert isinstance(result, dict)
    assert list(result) == ["scores", "boxes"]
    torch.testing.assert_close(result["boxes"], -x)
    torch.testing.assert_close(run(program, x)["scores"], x.relu())  # pyright: ignore[reportIndexIssue]


def test_initializers_listed_as_inputs_are_parameters() -> None:
    feeds = {"x": normal(2, 3)}
    model = build([helper.make_node("Mul", ["x", "scale"], ["y"])], feeds, ["y"], {"scale": normal(3)}, opset=9)
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [3]))
    program = import_onnx(model)
    assert program.input_names == ["x"]
    assert_same(program, model, feeds)


def branch_model(condition: np.ndarray) -> onnx.ModelProto:
    branches = {}
    for name, op in (("then_branch", "Neg"), ("else_branch", "Relu")):
        node = helper.make_node(op, ["x"], [f"{name}_y"])
        value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [2, 3])
        branches[name] = helper.make_graph([node], name, [], [value])
    nodes = [helper.make_node("If", ["condition"], ["y"], name="choice", **branches)]
    return build(nodes, {"x": normal(2, 3)}, ["y"], {"condition": condition})


@pytest.mark.parametrize(("taken", "op"), [(True, "aten.neg"), (False, "aten.relu")])
def test_a_branch_with_a_constant_condition_is_taken(taken: bool, op: str) -> None:
    program = import_onnx(branch_model(np.array(taken)))
    assert [program.op(node) for node in program.nodes] == [op]


def test_local_functions_are_inlined() -> None:
    body = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "Silu", ["a"], ["b"], body, opsets[:1])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph([helper.make_node("Silu", ["x"], ["y"], domain="local")], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=opsets, functions=[function])
    given_model = onnx_ir.from_proto(model)
    program = import_onnx(given_model)
    assert [program.op(node) for node in program.nodes] == ["aten.sigmoid", "aten.mul.Tensor"]
    assert given_model.functions


def test_module_paths_come_from_the_exporter() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="node_relu")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'blocks', 'blocks.0.act', 'relu']")
    program = import_onnx(build([node], {"x": normal(2, 3)}, ["y"], {}))
    assert program.origin(program.nodes[0]).module == "blocks.0.act"


def test_a_weight_that_the_exporter_numbered_is_named_after_its_module() -> None:
    node = helper.make_node("MatMul", ["x", "val_3"], ["y"])
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'blocks.0.fc', 'linear']")
    program = import_onnx(build([node], {"x": normal(2, 3)}, ["y"], {"val_3": normal(3, 4)}))
    assert list(program.params) == ["blocks.0.fc.weight"]


def test_external_data_is_read_from_beside_the_file(tmp_path: Path) -> None:
    model = build([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": normal(2, 64)}, ["y"], {"w": normal(64, 64)})
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    program = import_onnx(path)
    expected = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    np.testing.assert_array_equal(program.param(program.param_nodes[0]).numpy(), expected.T)
    (tmp_path / "model.data").unlink()
    with pytest.raises(InputError, match="'w'"):
        import_onnx(path)


# -- errors -----------------------------------------------------------------------------------------------------------


def simple_model() -> onnx.ModelProto:
    return build([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": normal(2, 8)}, ["y"], {"w": normal(8, 8)})


@pytest.mark.parametrize("keep", [0, 10, 40, 200])
def test_a_cut_off_file_is_an_input_error(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(simple_model().SerializeToString()[:keep])
    with pytest.raises(InputError, match=r"cut\.onnx"):
        import_onnx(path)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx"):
        import_onnx(tmp_path / "none.onnx")


def test_all_unsupported_operators_are_named_with_their_node() -> None:
    nodes = [
        helper.make_node("Multinomial", ["x"], ["a"], name="first"),
        helper.make_node("RandomNormalLike", ["a"], ["b"], name="second"),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    with pytest.raises(UnsupportedError, match="Multinomial, RandomNormalLike") as caught:
        import_onnx(build(nodes, {"x": normal(3)}, ["y"], {}))
    assert "'first'" in caught.value.where
    assert f"{len(OPERATORS)} ONNX operators" in caught.value.mend


def test_an_old_opset_is_refused() -> None:
    model = simple_model()
    model.opset_import[0].version = 6
    with pytest.raises(UnsupportedError, match="opset 6"):
        import_onnx(model)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(poison: float) -> None:
    weight = normal(8, 8)
    weight[3, 4] = poison
    model = build([helper.make_node("MatMul", ["x", "bad"], ["y"])], {"x": normal(2, 8)}, ["y"], {"bad": weight})
    with pytest.raises(InputError, match="'bad'"):
        import_onnx(model)


def test_a_mask_may_hold_infinities() -> None:
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    feeds = {"x": normal(4, 4)}
    model = build([helper.make_node("Add", ["x", "mask"], ["y"])], feeds, ["y"], {"mask": mask})
    assert_same(import_onnx(model), model, feeds)


def test_an_undefined_value_is_an_input_error() -> None:
    model = simple_model()
    model.graph.node[0].input[0] = "ghost"
    with pytest.raises(InputError, match="'ghost'"):
        import_onnx(model)


def test_shapes_that_do_not_fit_name_the_node() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="misfit")
    weight = numpy_helper.from_array(normal(7, 3), "w")
    graph = helper.make_graph([node], "g", [x], [onnx.ValueInfoProto(name="y")], [weight])
    with pytest.raises(InputError, match="'misfit'"):
        import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
