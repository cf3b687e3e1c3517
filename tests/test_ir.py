"""The ground floor: programs and their edits, structures, fills, the interpreter, patterns, and the runner's checks."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.data import sample_inputs
from qcompiler.errors import InputError, ParseError, PassError, QCompilerError, SpecError, UnsupportedError, VerifyError
from qcompiler.ir import ops
from qcompiler.ir.fill import Fill, digest_of
from qcompiler.ir.interp import evaluate, run
from qcompiler.ir.parse import parse_program
from qcompiler.ir.pattern import Any, Const, Match, Param, Refusal, match, matches, op
from qcompiler.ir.program import Program, Stage
from qcompiler.ir.structure import Structure, describe, from_json
from qcompiler.ir.types import Symbol, TensorType
from qcompiler.ir.verify import verify
from qcompiler.job import backends
from qcompiler.pass_text import make_pass, parse_pass, parse_passes, pass_text
from qcompiler.pipeline import Context, Exact, Lossy, Options, Pass, Promise, Structural, difference, run_passes
from qcompiler.targets import load_target

CHAIN = """
dim s0 = 2 in 1..
program @chain stage=traced {
  input %x : f32[s0,4]
  param %w "layer.weight" : f32[3,4] = normal(seed=1)
  param %dead : f32[3] = zeros()
  %linear = aten.linear %x, %w, none : f32[s0,3]  ; from layer
  %again = aten.linear %x, %w, none : f32[s0,3]
  %total = aten.add.Tensor %linear, %again : f32[s0,3]
  %unread = aten.neg %total : f32[s0,3]
  return %total
}
"""
CONTEXT = Context(load_target("onnxruntime", backends()))
Point = namedtuple("Point", ["x", "y"])


@dataclasses.dataclass
class Box:
    """A dataclass that a model may take or return."""

    width: object
    height: object = None


def chain() -> Program:
    return parse_program(CHAIN)


# -- program ----------------------------------------------------------------------------------------------------------


def test_a_copy_is_edited_alone() -> None:
    program = chain()
    text = str(program)
    other = program.copy()
    other.replace(other.node("again"), other.node("linear"))
    other.erase_dead()
    assert str(program) == text
    assert len(other.nodes) == 2
    assert other.params["layer.weight"] is program.params["layer.weight"]


def test_erasing_dead_nodes_takes_parameters_along() -> None:
    program = chain()
    assert program.erase_dead() == 2
    assert list(program.params) == ["layer.weight"]
    assert [node.name for node in program.nodes] == ["linear", "again", "total"]


def test_a_read_node_cannot_be_erased() -> None:
    program = chain()
    with pytest.raises(VerifyError, match="%total still read it"):
        program.erase(program.node("linear"))


def test_a_new_type_travels_downstream() -> None:
    program = chain()
    weight = next(node for node in program.param_nodes if node.name == "w")
    program.set_param(weight, torch.zeros(5, 4))
    assert program.shape(program.node("total"))[-1] == 5
    verify(program)


def test_a_shared_parameter_is_copied_for_one_reader() -> None:
    program = chain()
    linear, weight = program.node("linear"), program.node("w")
    own = program.own_param(linear, weight, "some_pass")
    program.set_param(own, torch.zeros(3, 4))
    verify(program)
    found = evaluate(program, [torch.ones(2, 4)])[0]
    assert torch.equal(found, torch.ones(2, 4) @ program.param(weight).t())
    assert program.own_param(linear, own) is own


def test_new_nodes_inherit_their_module_and_name_their_step() -> None:
    program = chain()
    node = program.before(program.node("linear"), "some_pass").call("aten.relu", program.inputs[0], name="relu")
    assert program.origin(node).module == "layer"
    assert program.origin(node).step == "some_pass"
    assert [other.name for other in program.nodes][:2] == ["relu", "linear"]


def test_a_builder_behind_a_tuple_stands_behind_its_results() -> None:
    program = Program()
    x = program.add_input("x", TensorType(torch.float32, (2, 4)))
    split = program.append().call("aten.split_with_sizes", x, [1, 3], 1)
    program.set_outputs([program.append().items(split)[0] or x])
    after = program.after(split).call("aten.relu", program.append().items(split)[0])
    verify(program)
    assert after.args[0] in split.users


def test_bad_arguments_are_refused_where_they_are_written() -> None:
    program = chain()
    with pytest.raises(VerifyError, match=r"do not fit aten.matmul"):
        program.append().call("aten.matmul", program.inputs[0], program.inputs[0])


def test_an_unknown_node_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no node '%nothing'"):
        chain().node("nothing")


def test_a_symbol_keeps_its_expression() -> None:
    program = Program()
    batch = program.dimensions.add("B", Symbol(3, 1, 8))
    x = program.add_input("x", TensorType(torch.float32, (batch, 4)))
    flat = program.append().call("aten.reshape", x, [-1])
    program.set_outputs([flat])
    assert program.shape(flat) == (4 * batch,)
    assert program.dimensions.hint(4 * batch) == 12
    assert program.dimensions.hint(4 * batch, {"B": 5}) == 20


def test_arguments_by_name_have_their_defaults() -> None:
    program = chain()
    bound = program.bind(program.node("total"))
    assert bound["alpha"] == 1
    assert bound["self"] is program.node("linear")


def test_op_names_invert() -> None:
    for name in ("aten.add.Tensor", "aten.relu", "sym.floordiv", "qc.quantize", "getitem"):
        assert ops.op_name(ops.op_target(name)) == name
    with pytest.raises(ParseError, match="unknown operator"):
        ops.op_target("aten.nothing")
    with pytest.raises(UnsupportedError, match="not an operator"):
        ops.op_name(print)


# -- fills ------------------------------------------------------------------------------------------------------------


def test_seeded_fills_repeat() -> None:
    type_ = TensorType(torch.float32, (4,))
    assert torch.equal(Fill("normal", seed=3).materialize(type_), Fill("normal", seed=3).materialize(type_))
    assert not torch.equal(Fill("normal", seed=3).materialize(type_), Fill("normal", seed=4).materialize(type_))


@pytest.mark.parametrize(("kind", "complaint"), [("unset", "never set"), ("digest", "not at hand")])
def test_fills_without_a_value_say_so(kind: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Fill(kind, digest="00").materialize(TensorType(torch.float32, (1,)))  # pyright: ignore[reportArgumentType]


def test_a_digest_tells_dtype_shape_and_bytes_apart() -> None:
    base = torch.zeros(4)
    others = [torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.tensor([0.0, 0, 0, 1])]
    assert len({digest_of(base), *map(digest_of, others)}) == 4
    assert digest_of(base.reshape(2, 2).t()) == digest_of(torch.zeros(2, 2))


def test_weights_return_to_a_printed_program() -> None:
    program = Program()
    weight = torch.rand(4, 4)
    node = program.add_param("w", weight)
    program.set_outputs([node])
    back = parse_program(str(program), {"w": weight})
    assert torch.equal(back.param(back.param_nodes[0]), weight)
    with pytest.raises(InputError, match="not the one"):
        parse_program(str(program), {"w": weight + 1})
    with pytest.raises(InputError, match="missing"):
        parse_program(str(program), {})


# -- structures -------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just("tensor"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Box, inner, inner)
    ),
    max_leaves=6,
)


def _filled(value: object) -> object:
    """The value with a tensor in place of each word."""
    if value == "tensor":
        return torch.zeros(1)
    if isinstance(value, Point):
        return Point(*map(_filled, value))
    if isinstance(value, Box):
        return Box(_filled(value.width), _filled(value.height))
    if isinstance(value, list | tuple):
        return type(value)(_filled(item) for item in value)
    return {key: _filled(item) for key, item in value.items()} if isinstance(value, dict) else value


@settings(deadline=None, max_examples=50)
@given(VALUES)
def test_a_structure_takes_apart_and_puts_together(value: object) -> None:
    structure, leaves, paths = describe(_filled(value))
    assert len(leaves) == len(paths) == structure.leaf_count()
    names = [f"leaf {index}" for index in range(len(leaves))]
    built = structure.build(names)
    assert structure.flatten(built) == names
    assert from_json(structure.to_json()) == structure
    assert type(built) is type(value) or value == "tensor"


def test_a_wrong_structure_names_the_path() -> None:
    structure, _, _ = describe({"a": [torch.zeros(1), torch.zeros(1)], "b": 3})
    with pytest.raises(InputError, match=r"inputs.a must be a list of 2 values, got list of 1"):
        structure.flatten({"a": [0], "b": 3})
    with pytest.raises(InputError, match="unknown c"):
        structure.flatten({"a": [0, 1], "b": 3, "c": 4})
    with pytest.raises(InputError, match="was 3 when the model was traced and is 4"):
        structure.flatten({"a": [0, 1], "b": 4})


def test_a_class_that_is_gone_becomes_a_dict() -> None:
    structure = Structure("named", (Structure("leaf"),), ("x",), class_name="nowhere:Nothing")
    assert structure.build([7]) == {"x": 7}


def test_a_strange_value_is_refused() -> None:
    with pytest.raises(InputError, match="a value of type object"):
        describe({"a": object()})


# -- interpreter ------------------------------------------------------------------------------------------------------


def test_a_program_runs_as_its_model_was_called() -> None:
    text = """
program @named stage=traced {
  signature {"args": {"tuple": []}, "kwargs": {"dict": {"x": 0}}, "result": {"dict": {"y": 0}}}
  input %x : f32[2]
  %y = aten.neg %x : f32[2]
  return %y
}
"""
    found = run(parse_program(text), x=torch.ones(2))
    assert isinstance(found, dict)
    assert torch.equal(found["y"], -torch.ones(2))
    positional = run(parse_program(text), torch.ones(2))
    assert isinstance(positional, dict)


def test_widening_computes_in_float64() -> None:
    program = chain()
    assert evaluate(program, [torch.ones(2, 4)], widen=True)[0].dtype == torch.float64


def test_only_asked_nodes_are_observed() -> None:
    seen: list[str] = []
    evaluate(
        chain(), [torch.ones(2, 4)], observe=lambda node, value: seen.append(node.name), observed=frozenset({"total"})
    )
    assert seen == ["total"]


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ([], "takes 1 inputs"),
        ([torch.ones(2, 5)], r"must be f32\[s0,4\]"),
        ([torch.ones(2, 4).double()], "must be f32"),
        ([torch.ones(4)], "must be f32"),
    ],
)
def test_wrong_inputs_are_named(inputs: list[torch.Tensor], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        evaluate(chain(), inputs)


def test_a_failing_operator_is_named() -> None:
    text = """
program @p stage=traced {
  input %i : i64[2]
  param %w : f32[3,4] = zeros()
  %rows = aten.embedding %w, %i : f32[2,4]
  return %rows
}
"""
    with pytest.raises(InputError, match=r"running '%rows = aten\.embedding' failed"):
        evaluate(parse_program(text), [torch.tensor([0, 9])])


def test_the_float_stream_passes_quantizers() -> None:
    text = """
spec @q0 = int8 sym block=(-1,-1) scale=f32
program @p stage=quantized {
  input %x : f32[2,4]
  param %s : f32[1,1] = ones()
  %q = qc.quantize %x, %s, none : @q0[2,4]
  %d = qc.dequantize %q, %s, none : f32[2,4]
  return %d
}
"""
    program, x = parse_program(text), torch.full((2, 4), 0.6)
    assert torch.equal(evaluate(program, [x])[0], torch.ones(2, 4))
    assert torch.equal(evaluate(program, [x], bypass_quantization=True)[0], x)


def test_a_kernel_means_what_its_table_says() -> None:
    program = Program(stage=Stage.LOWERED)
    x = program.add_input("x", TensorType(torch.float32, (2,)))
    type_ = TensorType(torch.float32, (2,))
    program.set_outputs([program.append().call("qc.kernel", "twice", x, type_=type_)])
    assert torch.equal(evaluate(program, [torch.ones(2)], kernels={"twice": lambda x: 2 * x})[0], 2 * torch.ones(2))
    with pytest.raises(UnsupportedError, match="no kernel 'twice'"):
        evaluate(program, [torch.ones(2)], kernels={})


# -- patterns ---------------------------------------------------------------------------------------------------------

GATE = """
program @gate stage=traced {
  input %x : f32[2]
  param %half : f32[1] = values(0.5)
  %s = aten.sigmoid %x : f32[2]
  %m = aten.mul.Tensor %s, %x : f32[2]
  %h = aten.mul.Tensor %m, %half : f32[2]
  %n = aten.neg %s : f32[2]
  return %h, %n
}
"""


def test_a_commutative_operator_matches_both_ways() -> None:
    program = parse_program(GATE)
    silu = op("aten.mul.Tensor", Any("x"), op("aten.sigmoid", Any("x"), shared=True))
    found = match(silu, program, program.node("m"))
    assert isinstance(found, Match)
    assert found.node("x") is program.inputs[0]
    assert {node.name for node in found.nodes} == {"m", "s"}


def test_one_name_stands_for_one_value() -> None:
    program = parse_program(GATE)
    twice = op("aten.mul.Tensor", op("aten.sigmoid", Any("x"), shared=True), op("aten.sigmoid", Any("x"), shared=True))
    assert not match(twice, program, program.node("m"))


@pytest.mark.parametrize(
    ("pattern", "node", "reason"),
    [
        (op("aten.mul.Tensor", op("aten.sigmoid", Any()), Any()), "m", "%s has other readers"),
        (op("aten.relu", Any()), "m", "%m is aten.mul.Tensor, not aten.relu"),
        (op("aten.neg", Param("p")), "n", "is not a parameter"),
        (op("aten.mul.Tensor", Any(), Const.near(0.25)), "h", "where about 0.25 was expected"),
        (op("aten.sigmoid", op("aten.relu", Any())), "s", "where aten.relu was expected"),
    ],
)
def test_a_refusal_says_why(pattern: object, node: str, reason: str) -> None:
    program = parse_program(GATE)
    found = match(pattern, program, program.node(node))  # pyright: ignore[reportArgumentType]
    assert isinstance(found, Refusal)
    assert reason in found.reason


def test_a_parameter_with_one_element_is_a_number() -> None:
    program = parse_program(GATE)
    found = match(op("aten.mul.Tensor", Any("m"), Const("c")), program, program.node("h"))
    assert isinstance(found, Match)
    assert found.number("c") == 0.5


def test_matching_goes_on_while_the_program_changes() -> None:
    program = chain()
    names = []
    for found in matches(op("aten.linear", Any("x"), Param("w")), program):
        names.append(found.root.name)
        if len(names) == 1:
            program.replace(program.node("again"), found.root)
    assert names == ["linear"]


# -- runner -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scale:
    """Multiplies the first result; a bug unless it said so."""

    factor: float = 1.0
    name: ClassVar[str] = "scale"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        result = program.outputs[0]
        scaled = program.append(self.name).call("aten.mul.Tensor", result, self.factor)
        program.graph.inserting_before(None)
        output = next(node for node in program.graph.nodes if node.op == "output")
        output.prepend(scaled)
        program.set_outputs([scaled, *program.outputs[1:]])
        return program


@dataclasses.dataclass(frozen=True)
class Lose(Scale):
    """The same, announced."""

    name: ClassVar[str] = "lose"
    promise: ClassVar[Promise] = Lossy()


@dataclasses.dataclass(frozen=True)
class Break:
    """Leaves a node whose type is wrong."""

    name: ClassVar[str] = "break"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Structural()

    def run(self, program: Program, ctx: Context) -> Program:
        program.node("total").meta["type"] = TensorType(torch.float32, (7,))
        program.edits += 1
        return program


@pytest.mark.parametrize("check", ["each", "stretch"])
def test_a_broken_promise_names_the_pass(check: str) -> None:
    passes: list[Pass] = [Scale(1.0), Scale(1.5), Scale(1.0)]
    with pytest.raises(PassError, match=r"scale\{factor=1.5\} promised .* changed it by 0.5"):
        run_passes(chain(), passes, CONTEXT, options=Options(check=check))  # pyright: ignore[reportArgumentType]


def test_unchecked_and_announced_changes_pass() -> None:
    run_passes(chain(), [Scale(1.5)], CONTEXT, options=Options(check="off"))
    after, steps = run_passes(chain(), [Lose(1.5)], CONTEXT, options=Options(check="each"))
    assert difference(chain(), after, sample_inputs(after)) == pytest.approx(0.5)
    assert steps[0].error is None


def test_an_illegal_program_names_pass_node_and_neighbours() -> None:
    with pytest.raises(PassError, match="break left an illegal program: %total says") as caught:
        run_passes(chain(), [Break()], CONTEXT)
    assert "-> %total" in caught.value.where
    assert "--stop-after 1" in caught.value.mend


def test_a_pass_at_the_wrong_stage_is_refused() -> None:
    program = chain()
    program.stage = Stage.CANONICAL
    with pytest.raises(PassError, match="needs stage traced"):
        run_passes(program, [Scale()], CONTEXT)


def test_steps_are_numbered_dumped_and_stopped(tmp_path: Path) -> None:
    shown: list[int] = []
    options = Options(dump_dir=tmp_path, stop_after=2, show=lambda step, program: shown.append(step.number))
    _, steps = run_passes(chain(), [Scale(), Scale(), Scale()], CONTEXT, options=options)
    assert shown == [step.number for step in steps] == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00-traced.qir", "01-scale.qir", "02-scale.qir"]
    assert parse_program((tmp_path / "02-scale.qir").read_text()).nodes


def test_the_given_program_is_not_touched() -> None:
    program = chain()
    text = str(program)
    run_passes(program, [Lose(2.0)], CONTEXT)
    assert str(program) == text


def test_a_pass_prints_and_parses() -> None:
    assert pass_text(Scale()) == "scale"
    assert parse_pass("scale{factor=2.5}", [Scale]) == Scale(2.5)
    assert parse_passes("scale,scale{factor=2.0}", [Scale]) == [Scale(), Scale(2.0)]
    assert parse_pass(pass_text(Scale(0.1)), [Scale]) == Scale(0.1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("nothing", "no pass 'nothing'"), ("scale{size=1}", "no option 'size'"), ("scale{factor=big}", "not a value")],
)
def test_a_bad_pass_text_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        parse_pass(text, [Scale])


def test_options_may_come_as_values() -> None:
    assert make_pass(Scale, {"factor": 3.0}) == Scale(3.0)


def test_sampled_masks_hold_both_kinds_in_every_row() -> None:
    program = Program()
    program.set_outputs([program.add_input("mask", TensorType(torch.bool, (5, 4)))])
    mask = sample_inputs(program)[0]
    assert bool(mask.any(-1).all())
    assert not bool(mask.all(-1).any())


def test_a_difference_is_relative_and_sees_nan() -> None:
    program = chain()
    zero = program.copy()
    zero.set_param(zero.node("w"), torch.full((3, 4), float("nan")))
    assert difference(program, program, sample_inputs(program)) == 0
    assert difference(program, zero, sample_inputs(program)) == float("inf")


def test_an_error_is_one_message_of_four_parts() -> None:
    error = QCompilerError("what", where="there", step="pass", mend="so")
    assert str(error).splitlines() == ["what", "  where: there", "  in:    pass", "  mend:  so"]


def test_a_node_may_bear_the_label_of_a_parameter_that_is_called_otherwise() -> None:
    text = (
        "program @p stage=canonical {\n"
        "  input %x : f32[2]\n"
        '  param %row_2 "row_1" : f32[2] = values(1, 2)\n'
        "  %row_1 = aten.add.Tensor %x, %row_2 : f32[2]\n"
        "  return %row_1\n"
        "}\n"
    )
    assert str(parse_program(text)) == text
