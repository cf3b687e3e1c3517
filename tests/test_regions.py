"""Regions: branches, loops and scans in the IR, from both front-ends, through the canonical passes, and as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import external_data_helper, numpy_helper, parser
from torch._higher_order_ops import while_loop
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan as torch_scan

import qcompiler
from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.onnx.writer import save_model, write_model
from qcompiler.cli.diffing import structural
from qcompiler.errors import InputError, ParseError, UnsupportedError, VerifyError
from qcompiler.frontends.onnx_import import import_onnx
from qcompiler.ir import ops
from qcompiler.ir.fill import Fill
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program, Stage
from qcompiler.ir.region import copy_deep, inner_layers, nested_params, nested_programs, regions_of
from qcompiler.ir.verify import verify
from qcompiler.job import backends
from qcompiler.passes.canonical import CANONICAL
from qcompiler.pipeline import Context, Options, run_passes
from qcompiler.targets import load_target
from qcompiler.weights import read_program, write_program
from tests.onnx_models import assert_same, reference, results

CONTEXT = Context(load_target("onnxruntime", backends()))
LOOP = """
dim s0 = 2 in 1..
dim s1 = 3 in 1..
program @repeat stage=traced {
  input %x : f32[s0,4]
  input %count : i64[]
  region @step {
    input %number : i64[]
    input %going : bool[]
    input %state : f32[s0,4]
    param %w : f32[4,4] = normal(seed=1)
    %linear = aten.linear %state, %w, none : f32[s0,4]
    %seen = aten.amax %linear, [1] : f32[s0]
    return %going, %linear, %seen
  }
  %last, %peaks = qc.loop %count, none, [%x], [] {body=@step} : (f32[s0,4], f32[s1,s0])
  return %last, %peaks
}
"""
BRANCH = """
program @branch stage=traced {
  input %x : f32[3,4]
  input %flag : bool[]
  param %w : f32[4,4] = normal(seed=2)
  region @product {
    input %a : f32[3,4]
    input %b : f32[4,4]
    %made = aten.linear %a, %b, none : f32[3,4]
    return %made
  }
  region @none_of_it {
    input %a : f32[3,4]
    input %b : f32[4,4]
    return %a
  }
  %first = qc.cond %flag, [%x, %w] {otherwise=@none_of_it, then=@product} : (f32[3,4])
  %second = qc.cond %flag, [%x, %w] {otherwise=@none_of_it, then=@product} : (f32[3,4])
  %total = aten.add.Tensor %first, %second : f32[3,4]
  return %total
}
"""
GROWING = """<ir_version: 8, opset_import: ["": 17]>
growing (float[N,4] x, int64 n) => (float[M,4] y, float[K,4] sums)
<float[4,4] w = {1,0,0,0, 0,0.5,0,0, 0,0,2,0, 0,1,0,1}, bool yes = {1}>
{
  y, sums = Loop (n, yes, x) <
    body = step (int64 i, bool c, float[R,4] acc) => (bool c2, float[R2,4] acc2, float[4] total)
  {
    c2 = Identity(c)
    prod = MatMul(x, w)
    number = Cast<to=1>(i)
    shifted = Add(prod, number)
    acc2 = Concat<axis=0>(acc, shifted)
    axes = Constant<value_ints=[0]>()
    total = ReduceSum<keepdims=0>(acc2, axes)
  }>
}"""
WHILE = """<ir_version: 8, opset_import: ["": 17]>
while (float[4] x) => (float[4] y)
<bool yes = {1}, float ten = {10.0}, float[4] w = {1.5,1.5,2.0,3.0}>
{
  y = Loop ("", yes, x) <body = step (int64 i, bool c, float[4] v) => (bool c2, float[4] v2)
  {
    v2 = Mul(v, w)
    s = ReduceSum<keepdims=0>(v2)
    a = Abs(s)
    c2 = Less(a, ten)
  }>
}"""
NESTED = """<ir_version: 8, opset_import: ["": 17]>
nested (float[N,4] x, bool p) => (float[M,4] y)
<float zero = {0.0}>
{
  s = ReduceSum<keepdims=0>(x)
  q = Greater(s, zero)
  y = If (p) <then_branch = t () => (float[A,4] ty) {
        ty = If (q) <then_branch = tt () => (float[B,4] t1) { t1 = Neg(x) },
                     else_branch = te () => (float[C,4] t2) { t2 = Concat<axis=0>(x, x) }>
      },
      else_branch = e () => (float[D,4] ey) { ey = Identity(x) }>
}"""
SIZED = """<ir_version: 8, opset_import: ["": 17]>
sized (float[N,4] x, bool p) => (float[A,B] y)
{
  sh = Shape(x)
  y = If (p) <then_branch = t () => (float[A,B] t1) {
        ones = ConstantOfShape(sh)
        t1 = Add(ones, x)
      },
      else_branch = e () => (float[C,B] t2) { t2 = Relu(x) }>
}"""
RANKS = """<ir_version: 8, opset_import: ["": 17]>
ranks (float[N,4] x, bool p) => (float y)
{
  axes = Constant<value_ints=[0]>()
  z = If (p) <then_branch = t () => (float[A] t1) { t1 = ReduceSum<keepdims=0>(x, axes) },
              else_branch = e () => (float[C,B] t2) { t2 = Relu(x) }>
  y = ReduceSum<keepdims=0>(z)
}"""
SQUEEZING = """<ir_version: 8, opset_import: ["": 17]>
squeezing (float[N,4,T] x) => (float[A,B] y)
<int64[1] last = {2}, int64[1] one = {1}>
{
  sh = Shape(x)
  size = Gather(sh, last)
  single = Equal(size, one)
  z = If (single) <then_branch = t () => (float[C,D] t1) { t1 = Squeeze(x, last) },
                   else_branch = e () => (float[E,F,G] t2) { t2 = Identity(x) }>
  y = Transpose<perm=[1,0]>(z)
}"""
BACKWARDS = """<ir_version: 8, opset_import: ["": 17]>
backwards (float[4] start, float[N,4] x) => (float[4] last, float[4,N] all)
{
  last, all = Scan (start, x) <num_scan_inputs = 1, scan_input_directions = [1], scan_output_axes = [1],
      scan_output_directions = [1],
      body = step (float[4] s, float[4] row) => (float[4] s2, float[4] out) {
        half = Constant<value_float=0.5>()
        kept = Mul(s, half)
        s2 = Add(kept, row)
        out = Tanh(s2)
      }>
}"""

BATCHED = """<ir_version: 3, opset_import: ["": 8]>
batched (float[B,4] start, float[B,T,4] x) => (float[B,4] last, float[B,T,4] all)
{
  last, all = Scan ("", start, x) <num_scan_inputs = 1, directions = [1],
      body = step (float[4] s, float[4] row) => (float[4] s2, float[4] out) {
        s2 = Add(s, row)
        out = Tanh(s2)
      }>
}"""
SLICED = """<ir_version: 8, opset_import: ["": 17]>
sliced (float[N,6] x, int64 n) => (float[N,6] y)
<bool yes = {1}, int64[1] one = {1}, float half = {0.5}>
{
  y = Loop (n, yes, x) <body = step (int64 i, bool c, float[N,6] acc) => (bool c2, float[N,6] acc2) {
    c2 = Identity(c)
    shape = Constant<value_ints=[1]>()
    at = Reshape(i, shape)
    end = Add(at, one)
    before = Neg(end)
    column = Slice(acc, at, end, one)
    last = Slice(acc, before, at, one)
    sum = ReduceSum<keepdims=1>(column, one)
    rest = ReduceSum<keepdims=1>(last, one)
    both = Add(sum, rest)
    scaled = Mul(both, half)
    acc2 = Add(acc, scaled)
  }>
}"""


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


CASES = {
    "growing": (GROWING, [{"x": rows(2, 4), "n": np.array(3)}, {"x": rows(5, 4), "n": np.array(0)}]),
    "while": (WHILE, [{"x": rows(4)}, {"x": rows(4) * 9}]),
    "nested": (NESTED, [{"x": s * rows(2, 4), "p": np.array(p)} for s in (1, -1) for p in (True, False)]),
    "sized": (SIZED, [{"x": rows(3, 4), "p": np.array(p)} for p in (True, False)]),
    "sliced": (SLICED, [{"x": rows(2, 6), "n": np.array(n)} for n in (3, 6)]),
    "batched": (BATCHED, [{"start": rows(2, 4), "x": rows(2, n, 4)} for n in (3, 1)]),
    "backwards": (BACKWARDS, [{"start": rows(4), "x": rows(n, 4)} for n in (3, 1)]),
}


def weighted(text: str) -> str:
    """`NESTED` with a weight for its branches to read."""
    numbers = ", ".join(map(str, range(16)))
    return text.replace("<float zero = {0.0}>", f"<float zero = {{0.0}}, float[4,4] w = {{{numbers}}}>")


def canonical(program: Program, sample: list[torch.Tensor]) -> Program:
    return run_passes(program, CANONICAL, CONTEXT, options=Options(check="each"), sample=sample)[0]


def emitted(program: Program, folder: Path) -> Path:
    path = folder / "model.onnx"
    save_model(write_model(program), path)
    onnx.checker.check_model(str(path), full_check=True)
    return path


# -- the IR -----------------------------------------------------------------------------------------------------------


@given(count=st.integers(0, 4), size=st.integers(1, 3), widen=st.booleans())
@settings(deadline=None, max_examples=15)
def test_a_loop_runs_its_region_as_often_as_told(count: int, size: int, widen: bool) -> None:
    program = parse_program(LOOP)
    x = torch.randn(size, 4)
    weight = program.regions["step"].param(program.regions["step"].param_nodes[0])
    state, peaks = x.double() if widen else x, []
    for _ in range(count):
        state = state @ weight.to(state.dtype).t()
        peaks.append(state.amax(1))
    last, stacked = evaluate(program, [x, torch.tensor(count)], widen=widen)
    torch.testing.assert_close(last, state)
    # free sizes of what never ran are unknown
    assert stacked.shape[0] == count
    if count:
        torch.testing.assert_close(stacked, torch.stack(peaks))
    assert last.dtype == stacked.dtype == (torch.float64 if widen else torch.float32)


def test_a_region_reads_its_captures_and_not_the_other_branch() -> None:
    program = parse_program(BRANCH)
    x, weight = torch.randn(3, 4), program.param(program.param_nodes[0])
    torch.testing.assert_close(evaluate(program, [x, torch.tensor(True)])[0], 2 * (x @ weight.t()))
    torch.testing.assert_close(evaluate(program, [x, torch.tensor(False)])[0], 2 * x)


def test_copies_share_regions_until_one_is_copied_deep() -> None:
    program = parse_program(LOOP)
    node = next(node for node in program.nodes if ops.runs_regions(node.target))
    copy, deep = program.copy(), copy_deep(program)
    assert regions_of(copy.node(node.name))["body"] is regions_of(node)["body"]
    deep.regions["step"].params["w"] = torch.zeros(4, 4)
    assert str(copy) == str(program) != str(deep)


def test_a_changed_region_is_a_difference() -> None:
    program = parse_program(LOOP)
    changed = copy_deep(program)
    changed.regions["step"].params["w"] = Fill("zeros")
    ((change,), _), (none, _) = structural(program, changed), structural(program, copy_deep(program))
    assert change.kind == "changed"
    assert "@step" in change.after
    assert not none


def test_regions_have_names_of_their_own() -> None:
    text = BRANCH.replace("@product", "@q0").replace(
        "region @none_of_it {",
        "region @same {\n    input %a : f32[3,4]\n    input %b : f32[4,4]\n    return %a\n  }\n  region @none_of_it {",
    )
    program = parse_program(
        text.replace(
            "%second = qc.cond %flag, [%x, %w] {otherwise=@none_of_it",
            "%second = qc.cond %flag, [%x, %w] {otherwise=@same",
        )
    )
    program.regions["same"].name = "none_of_it"
    assert set(program.regions) == {"q0_region", "none_of_it", "none_of_it_1"}
    assert str(parse_program(str(program))) == str(program)


def test_equal_calls_of_one_region_become_one_and_unread_regions_go() -> None:
    program = canonical(parse_program(BRANCH), [torch.randn(3, 4), torch.tensor(True)])
    assert [program.op(node) for node in program.nodes].count("qc.cond") == 1
    assert set(program.regions) == {"product", "none_of_it"}
    program.set_outputs(program.inputs[:1])
    program.erase_dead()
    assert not program.regions
    assert not program.params


def test_regions_go_through_the_canonical_passes() -> None:
    text = LOOP.replace(
        "%linear = aten.linear %state, %w, none", "%mm = aten.t %w : f32[4,4]\n    %linear = aten.mm %state, %mm"
    )
    program = canonical(parse_program(text), [torch.randn(2, 4), torch.tensor(2)])
    step = program.regions["step"]
    assert step.stage is Stage.CANONICAL
    assert [step.op(node) for node in step.nodes] == ["aten.linear", "aten.amax"]


def test_a_random_operator_inside_a_region_is_refused() -> None:
    text = (
        LOOP.replace("aten.amax %linear, [1]", "aten.rand [2]")
        .replace("f32[s0]\n", "f32[2]\n")
        .replace("f32[s1,s0]", "f32[s1,2]")
    )
    with pytest.raises(UnsupportedError, match="random"):
        run_passes(parse_program(text), CANONICAL, CONTEXT, options=Options(check="off"))


def test_parameters_of_regions_are_stored_with_the_program(tmp_path: Path) -> None:
    program = parse_program(LOOP)
    step = program.regions["step"]
    step.params["w"] = torch.randn(4, 4)
    assert set(nested_params(program)) == {"step/w"}
    write_program(program, tmp_path)
    read = read_program(tmp_path)
    assert str(read) == str(program)
    torch.testing.assert_close(read.regions["step"].params["w"], step.params["w"])
    assert isinstance(step.params["w"], torch.Tensor)
    with pytest.raises(InputError, match="missing"):
        parse_program(str(program), weights={})


def test_an_error_inside_a_region_names_the_region() -> None:
    program = parse_program(
        LOOP.replace("%seen =", "%double = aten.add.Tensor %linear, %linear : f32[s0,4]\n    %seen =")
    )
    step = program.regions["step"]
    step.node("double").meta["type"] = step.tensor_type(step.node("seen"))
    with pytest.raises(VerifyError, match="%double says") as caught:
        verify(program)
    assert "@step" in caught.value.step


@pytest.mark.parametrize("line", ["region step {", "region @step"])
def test_a_malformed_region_is_a_parse_error(line: str) -> None:
    with pytest.raises(ParseError, match="a region begins"):
        parse_program(LOOP.replace("region @step {", line))


def test_a_region_that_is_not_closed_is_a_parse_error() -> None:
    with pytest.raises(ParseError, match="closing"):
        parse_program(LOOP.rstrip().removesuffix("}"))


# -- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_control_flow_is_read_and_written(name: str, tmp_path: Path) -> None:
    text, feeds = CASES[name]
    model = parser.parse_model(text)
    program = import_onnx(model)
    verify(program)
    weights = {key: value for key, value in nested_params(program).items() if isinstance(value, torch.Tensor)}
    assert str(parse_program(str(program), weights)) == str(program)
    low = canonical(program, [torch.from_numpy(value) for value in feeds[0].values()])
    session = open_session(emitted(low, tmp_path))
    for each in feeds:
        assert_same(program, model, each)
        assert_same(low, model, each)
        found = session.run({key: torch.from_numpy(value) for key, value in each.items()})
        for expected, actual in zip(reference(model, each), found, strict=True):
            np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_local_functions_inside_a_branch_are_inlined() -> None:
    text = NESTED.replace('["": 17]', '["": 17, "local": 1]').replace("ey = Identity(x)", "ey = local.act(x, s)")
    text += """<domain: "local", opset_import: ["": 17]>
    act (a, b) => (c) { m = Mul(a, b)
    c = Sigmoid(m) }"""
    model = parser.parse_model(text)
    program = import_onnx(model)
    assert_same(program, model, {"x": rows(2, 4), "p": np.array(False)})
    assert [program.regions["y_else"].op(node) for node in program.regions["y_else"].nodes][-1] == "aten.sigmoid"


def test_weights_of_a_branch_may_lie_in_another_file(tmp_path: Path) -> None:
    model = parser.parse_model(NESTED.replace("ey = Identity(x)", "ey = MatMul(x, w)"))
    weight = rows(4, 4)
    inner = next(attribute.g for attribute in model.graph.node[2].attribute if attribute.name == "else_branch")
    inner.initializer.append(numpy_helper.from_array(weight, "w"))
    external_data_helper.set_external_data(inner.initializer[0], "weights.bin")
    (tmp_path / "weights.bin").write_bytes(inner.initializer[0].raw_data)
    inner.initializer[0].ClearField("raw_data")
    inner.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    x = rows(2, 4)
    (found,) = results(import_onnx(tmp_path / "model.onnx"), {"x": x, "p": np.array(False)})
    np.testing.assert_allclose(found, x @ weight, rtol=1e-5, atol=1e-5)


def test_a_model_whose_layers_all_lie_in_regions_says_so() -> None:
    text = NESTED.replace("ey = Identity(x)", "ey = MatMul(x, w)")
    text = weighted(text)
    calls = [{"x": rows(2, 4), "p": np.array(True)}]
    with pytest.raises(UnsupportedError, match="no operator") as caught:
        qcompiler.compile(import_onnx(parser.parse_model(text)), calibration=calls)
    assert "inside a region" in caught.value.where


def test_sizes_that_a_run_changes_become_symbols() -> None:
    program = import_onnx(parser.parse_model(GROWING))
    batch, grown = program.shape(program.inputs[0])[0], program.shape(program.outputs[0])[0]
    carried = program.regions["y_body"].shape(program.regions["y_body"].inputs[2])[0]
    assert len({batch, grown, carried}) == 3
    assert program.shape(program.outputs[0])[1] == 4


def test_a_known_trip_count_gives_the_stack_its_size() -> None:
    text = GROWING.replace(", int64 n) =>", ") =>").replace("bool yes = {1}>", "bool yes = {1}, int64 n = {3}>")
    text = text.replace("acc2 = Concat<axis=0>(acc, shifted)", "acc2 = Add(acc, shifted)")
    program = import_onnx(parser.parse_model(text))
    assert program.shape(program.outputs[1]) == (3, 4)
    assert program.shape(program.outputs[0]) == program.shape(program.inputs[0])


def test_a_weight_of_both_branches_is_written_once(tmp_path: Path) -> None:
    text = NESTED.replace("t1 = Neg(x)", "t1 = MatMul(x, w)").replace("ey = Identity(x)", "ey = MatMul(x, w)")
    text = weighted(text)
    program = canonical(import_onnx(parser.parse_model(text)), [torch.randn(2, 4), torch.tensor(True)])
    written = onnx.load(str(emitted(program, tmp_path))).graph
    assert sum(list(tensor.dims) == [4, 4] for tensor in written.initializer) == 1
    assert len([path for path, each in nested_programs(program) if each.params and path]) == 2


def test_branches_of_different_ranks_are_refused_with_the_node_and_a_mend() -> None:
    with pytest.raises(UnsupportedError, match="no type says both") as caught:
        import_onnx(parser.parse_model(RANKS))
    assert "sizes=" in caught.value.mend


def test_a_branch_on_sizes_after_which_the_model_has_no_shapes_is_not_meant() -> None:
    model = parser.parse_model(SQUEEZING)
    program = import_onnx(model)
    assert not program.regions
    assert [type(dim).__name__ for dim in program.shape(program.inputs[0])] == ["Symbol", "int", "Symbol"]
    assert_same(program, model, {"x": rows(2, 4, 1)})
    with pytest.raises(UnsupportedError, match="no type says both"):
        import_onnx(parser.parse_model(SQUEEZING.replace("Transpose<perm=[1,0]>(z)", "Relu(z)")))


# -- torch ------------------------------------------------------------------------------------------------------------


class Everything(torch.nn.Module):
    """Each kind of control flow once, so that one trace serves all tests."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = torch.nn.Linear(4, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.first(x)

        def step(state: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            state = self.second(state) + row
            return state, state.relu()

        chosen = torch.cond(x.sum() > 0, lambda v: self.second(v).relu(), lambda v: v.neg(), (y,))
        z = self.last(chosen)
        start = torch.tensor(0)
        state, states = torch_scan(step, y[0], y, dim=0)
        return {
            "chosen": z,
            "by_size": torch.cond(z.shape[0] > 3, lambda v: v + 1, lambda v: v * 2, (z,)),
            "repeated": while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, v.sin() + i), (start, z))[1],
            "mapped": torch_map(lambda row, scale: row * scale, z, z.sum()),  # pyright: ignore[reportArgumentType]
            "state": state,
            "states": states,
        }


@torch.no_grad()
def plainly(model: Everything, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What `Everything` computes, in Python: torch compiles its own control flow anew for every call."""
    y = model.first(x)
    z = model.last(model.second(y).relu() if x.sum() > 0 else y.neg())
    repeated, state, states = z, y[0], []
    for number in range(3):
        repeated = repeated.sin() + number
    for row in y:
        state = model.second(state) + row
        states.append(state.relu())
    return {
        "chosen": z,
        "by_size": z + 1 if len(z) > 3 else z * 2,
        "repeated": repeated,
        "mapped": z * z.sum(),
        "state": state,
        "states": torch.stack(states),
    }


@pytest.fixture(scope="module")
def everything() -> tuple[Everything, Program]:
    torch.manual_seed(3)
    model = Everything().eval()
    return model, qcompiler.trace(model, (torch.randn(3, 4),))


def test_control_flow_of_torch_is_traced_and_written(everything: tuple[Everything, Program], tmp_path: Path) -> None:
    model, program = everything
    verify(program)
    assert str(parse_program(str(program))) == str(program)
    low = canonical(program, [torch.randn(3, 4)])
    assert [low.op(node) for node in low.nodes if ops.runs_regions(node.target)].count("qc.cond") == 2
    session = open_session(emitted(low, tmp_path))
    for x in [sign * torch.rand(size, 4) for size in (3, 5) for sign in (1, -1)]:
        wanted = plainly(model, x)
        found = program.run(x)
        assert isinstance(found, dict)
        for name, value in zip(wanted, session.run({"x": x}), strict=True):
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-5)
        for value, name in zip(evaluate(low, [x]), wanted, strict=True):
            torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-5)


def test_weights_that_torch_hands_to_a_branch_are_its_own_parameters(everything: tuple[Everything, Program]) -> None:
    model, program = everything
    held = [value for path, each in nested_programs(program) for value in each.params.values() if path]
    shared = [value for value in held if isinstance(value, torch.Tensor) and value.shape == (8, 8)]
    assert shared
    assert {value.data_ptr() for value in shared} == {model.second.weight.data_ptr()}


def test_a_model_with_branches_compiles_and_says_what_stays_in_float(
    everything: tuple[Everything, Program], tmp_path: Path
) -> None:
    calls = [(torch.randn(8, 4),) for _ in range(6)]
    artifact = qcompiler.compile(everything[1], calibration=calls)
    inside = [layer for layer in artifact.report.layers if "/" in layer.name]
    assert len(inside) == 2
    for layer in inside:
        assert (layer.op, layer.requested, layer.realised) == ("aten.linear", "w8a8", "float")
        assert layer.reason.startswith("inside a region")
        assert layer.fell_back
        assert layer.float_bytes == 4 * (8 * 8 + 8)
    assert any("inside a region" in reason for reason in artifact.plan.refusals.values())
    assert any(layer.realised == "QGemm" for layer in artifact.report.layers)
    assert artifact.report.sqnr_db is not None
    assert artifact.report.sqnr_db > 25
    loaded = qcompiler.load(artifact.save(tmp_path / "artifact").folder)
    assert str(loaded.program) == str(artifact.program)
    simulated = evaluate(loaded.program, list(calls[0]), kernels=CONTEXT.target.backend.meanings())
    found = artifact(*calls[0])
    assert isinstance(found, dict)
    for value, name in zip(simulated, found, strict=True):
        torch.testing.assert_close(value, found[name], rtol=1e-5, atol=1e-5)


def test_inner_layers_are_found_at_any_depth() -> None:
    text = NESTED.replace("t1 = Neg(x)", "t1 = MatMul(x, w)")
    text = weighted(text)
    program = import_onnx(parser.parse_model(text))
    (name,) = [name for node in program.nodes for name, _, _ in inner_layers(node)]
    assert name.count("/") == 3
    assert results(program, {"x": rows(2, 4), "p": np.array(False)})[0].shape == (2, 4)
