"""Canonical passes beyond their golden texts: laws over all of them, and many shapes and spellings at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from qcompiler.data import Inputs
from qcompiler.errors import PassError, UnsupportedError
from qcompiler.frontends.torch_trace import trace_module
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.ir.text import print_program
from qcompiler.ir.types import TensorType
from qcompiler.job import backends
from qcompiler.pass_text import parse_pass, parse_passes, pass_text
from qcompiler.passes.canonical import CANONICAL, PASSES
from qcompiler.passes.canonical.canonicalize import Canonicalize
from qcompiler.passes.canonical.common_subexpressions import CommonSubexpressions
from qcompiler.passes.canonical.fold_batch_norm import FoldBatchNorm
from qcompiler.passes.canonical.fold_constants import FoldConstants
from qcompiler.passes.canonical.fuse_permutes import FusePermutes
from qcompiler.passes.canonical.merge_pads import MergePads
from qcompiler.passes.canonical.name_activations import NameActivations
from qcompiler.passes.canonical.name_attention import NameAttention
from qcompiler.passes.canonical.normalize import Normalize
from qcompiler.passes.canonical.site import apply_rules
from qcompiler.passes.canonical.sizes import Sizes
from qcompiler.passes.canonical.spell_group import grouped_product
from qcompiler.passes.canonical.split_complex import SplitComplex
from qcompiler.pipeline import Context, Exact, Options, Pass, Structural, run_passes
from qcompiler.targets import load_target

CONTEXT = Context(load_target("onnxruntime", backends()))
GOLDEN = sorted((Path(__file__).parent / "golden" / "canonical").glob("*.qir"))
FLOAT = torch.float32


def start(*shapes: Sequence[int]) -> tuple[Program, list[Node]]:
    """A program with one float input per shape."""
    program = Program()
    return program, [program.add_input(f"x{i}", TensorType(FLOAT, tuple(shape))) for i, shape in enumerate(shapes)]


def call(program: Program, op: str, *args: object, **kwargs: object) -> Node:
    """Appends one operator."""
    return program.append().call(op, *args, kwargs=kwargs)


def checked(program: Program, *passes: Pass) -> Program:
    """The program after the passes, each held to its promise."""
    return run_passes(program, passes, CONTEXT, options=Options(check="each"))[0]


def names(program: Program) -> list[str]:
    """Operator names in order."""
    return [program.op(node) for node in program.nodes]


# -- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", PASSES, ids=lambda cls: cls.name)
def test_every_pass_keeps_the_function(cls: type[Pass]) -> None:
    assert isinstance(cls.promise, Exact | Structural)
    assert parse_pass(pass_text(cls()), PASSES) == cls()


@pytest.mark.parametrize("cls", PASSES, ids=lambda cls: cls.name)
def test_every_pass_explains_itself(cls: type[Pass]) -> None:
    text = import_module(cls.__module__).__doc__ or ""
    headings = [line.split()[0] for line in text.splitlines() if line[:1].isupper()]
    assert headings[-5:] == ["Formula", "Shapes", "Promise", "Needs", "Source"]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_second_run_finds_nothing(path: Path) -> None:
    given, _, _ = path.read_text().partition("# ---\n")
    line = next(line for line in given.splitlines() if line.startswith("# RUN: "))
    passes = parse_passes(line.removeprefix("# RUN: "), PASSES)
    if passes[-1].gives != passes[0].needs:
        pytest.skip("the stage changed")
    once = run_passes(parse_program(given), passes, CONTEXT)[0]
    assert print_program(run_passes(once, passes, CONTEXT)[0]) == print_program(once)


def test_the_default_order_ends_canonical() -> None:
    assert CANONICAL[0].needs == Stage.TRACED
    assert CANONICAL[-1].gives == Stage.CANONICAL
    assert {type(pass_) for pass_ in CANONICAL} <= set(PASSES)


# -- spelling ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.lists(st.permutations(range(4)), min_size=1, max_size=4))
def test_permutes_in_a_row_are_one(orders: list[list[int]]) -> None:
    program, [value] = start((2, 3, 4, 5))
    for order in orders:
        value = call(program, "aten.permute", value, list(order))
    program.set_outputs([call(program, "aten.relu", value)])
    after = checked(program, FusePermutes())
    total = list(range(4))
    for order in orders:
        total = [total[axis] for axis in order]
    assert names(after) == (["aten.relu"] if total == [0, 1, 2, 3] else ["aten.permute", "aten.relu"])


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_write_into_rows_is_a_concatenation(data: st.DataObject) -> None:
    program, [x] = start((2, 5))
    for _ in range(data.draw(st.integers(1, 3))):
        first, last, step = (data.draw(st.integers(low, high)) for low, high in ((-6, 5), (-6, 8), (1, 3)))
        rows = call(program, "aten.slice.Tensor", x, 1, first, last, step)
        x = call(program, "aten.slice_scatter", x, call(program, "aten.neg", rows), 1, first, last, step)
    program.set_outputs([x])
    assert "aten.slice_scatter" not in names(checked(program, Normalize()))


@torch.library.custom_op("qcompiler_tests::grouped", mutates_args=())
def _grouped(rows: Tensor, matrices: Tensor, offs: Tensor) -> Tensor:
    result = rows.new_zeros(rows.shape[0], matrices.shape[2])
    first = 0
    for group, end in enumerate(offs.tolist()):
        result[first:end] = rows[first:end] @ matrices[group]
        first = end
    return result


@_grouped.register_fake
def _(rows: Tensor, matrices: Tensor, offs: Tensor) -> Tensor:
    return rows.new_zeros(rows.shape[0], matrices.shape[2])


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0, 2))
def test_a_grouped_product_is_one_product_per_group(counts: list[int], unused: int) -> None:
    program, [rows] = start((sum(counts) + unused, 3))
    matrices = program.append().param("w", torch.randn(len(counts), 3, 2))
    ends = program.append().param("ends", torch.tensor(counts).cumsum(0))
    program.set_outputs([call(program, "qcompiler_tests.grouped", rows, matrices, ends)])
    inputs = [torch.randn(sum(counts) + unused, 3)]
    [before] = evaluate(program, inputs)
    rule = grouped_product(Sizes(program, "test"), "rows", "matrices")
    apply_rules(program, {"qcompiler_tests.grouped": rule}, "test")
    [after] = evaluate(program, inputs)
    assert names(program).count("aten.mm") == len(counts)
    torch.testing.assert_close(after, before)


def test_complex_weights_become_real_ones() -> None:
    program, [x] = start((2, 3, 2))
    weight = program.append().param("w", torch.randn(3, dtype=torch.complex64))
    product = call(program, "aten.mul.Tensor", weight, call(program, "aten.view_as_complex", x))
    program.set_outputs([call(program, "aten.view_as_real", product)])
    after = checked(program, SplitComplex())
    assert not any(after.tensor_type(node).dtype.is_complex for node in (*after.nodes, *after.param_nodes))


def test_complex_numbers_without_a_rule_stay() -> None:
    program, [x] = start((2, 3, 2))
    z = call(program, "aten.view_as_complex", x)
    program.set_outputs([call(program, "aten.view_as_real", call(program, "aten.exp", z))])
    assert names(checked(program, SplitComplex())) == ["aten.view_as_complex", "aten.exp", "aten.view_as_real"]


@settings(deadline=None, max_examples=25)
@given(st.integers(-4, 3), st.integers(-4, 3))
def test_a_transpose_is_a_permute(first: int, second: int) -> None:
    program, [x] = start((2, 3, 4, 5))
    program.set_outputs([call(program, "aten.transpose.int", x, first, second)])
    after = checked(program, Normalize())
    dims = list(range(4))
    dims[first % 4], dims[second % 4] = dims[second % 4], dims[first % 4]
    assert [node.args[1] for node in after.nodes] == [dims]


@pytest.mark.parametrize("op", ["aten.mul.Tensor", "aten.add.Tensor"])
def test_a_constant_moves_to_the_right(op: str) -> None:
    program, [x] = start((2, 4))
    weight = program.append().param("w", torch.rand(4))
    program.set_outputs([call(program, op, weight, x)])
    after = checked(program, Normalize())
    assert [node.op for node in after.nodes[0].args if isinstance(node, Node)] == ["placeholder", "get_attr"]


def test_a_number_that_would_change_the_type_stays_a_tensor() -> None:
    program, [x] = start((2, 4))
    wide = program.append().param("w", torch.full((1,), 2.0, dtype=torch.float64))
    program.set_outputs([call(program, "aten.mul.Tensor", x, wide)])
    after = checked(program, Normalize())
    assert after.tensor_type(after.outputs[0]).dtype == torch.float64


def test_training_norms_are_refused() -> None:
    program, [x] = start((2, 4, 3, 3))
    norm = call(program, "aten.batch_norm", x, None, None, None, None, True, 0.1, 1e-5, True)
    program.set_outputs([norm])
    with pytest.raises(UnsupportedError, match="statistics of the batch"):
        checked(program, Normalize())


def test_random_operators_are_refused() -> None:
    program, [x] = start((2, 4))
    program.set_outputs([call(program, "aten.add.Tensor", x, call(program, "aten.rand_like", x))])
    with pytest.raises(UnsupportedError, match="draws random numbers"):
        run_passes(program, [Canonicalize()], CONTEXT)


def test_dropout_in_training_is_refused() -> None:
    program, [x] = start((2, 4))
    program.set_outputs([call(program, "aten.dropout", x, 0.5, True)])
    with pytest.raises((UnsupportedError, PassError)):
        run_passes(program, CANONICAL, CONTEXT, options=Options(check="off"))


def test_random_calls_are_not_merged() -> None:
    program, [x] = start((2, 4))
    drawn = [call(program, "aten.rand_like", x) for _ in range(2)]
    program.set_outputs([call(program, "aten.sub.Tensor", *drawn)])
    assert len(CommonSubexpressions().run(program, CONTEXT).nodes) == 3


# -- constants --------------------------------------------------------------------------------------------------------


def test_a_folded_view_copies_nothing() -> None:
    program, [x] = start((2, 4))
    weight = torch.rand(4, 3)
    turned = call(program, "aten.permute", program.append().param("w", weight), [1, 0])
    program.set_outputs([call(program, "aten.linear", x, turned, None)])
    after = checked(program, FoldConstants())
    assert names(after) == ["aten.linear"]
    assert after.param(after.param_nodes[0]).untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()


def test_a_constant_that_would_swell_stays_computed() -> None:
    program, [x] = start((1, 4))
    wide = call(program, "aten.expand", program.append().param("w", torch.rand(1, 4)), [200000, 4])
    program.set_outputs([call(program, "aten.add.Tensor", wide, x)])
    assert "aten.expand" in names(checked(program, FoldConstants()))


def test_folding_rounds_once() -> None:
    program, [x] = start((1,))
    third = program.append().param("w", torch.full((1,), 1 / 3))
    twice = call(program, "aten.mul.Tensor", call(program, "aten.mul.Tensor", third, third), third)
    program.set_outputs([call(program, "aten.add.Tensor", x, twice)])
    after = checked(program, FoldConstants())
    exact = torch.full((1,), 1 / 3).double() ** 3
    assert torch.equal(after.param(after.param_nodes[0]), exact.float())


# -- batch norm -------------------------------------------------------------------------------------------------------


def normed(program: Program, x: Node, affine: bool = True) -> Node:
    """Batch norm with statistics of its own."""
    channels = int(program.shape(x)[1])  # pyright: ignore[reportArgumentType]
    mean, variance, gamma, beta = (program.append().param("p", torch.rand(channels) + 0.5) for _ in range(4))
    weights = (gamma, beta) if affine else (None, None)
    return call(program, "aten.batch_norm", x, *weights, mean, variance, False, 0.1, 1e-5, True)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.booleans(), st.booleans(), st.booleans())
def test_batch_norm_folds_into_any_convolution(
    groups: int, inputs: int, outputs: int, bias: bool, transposed: bool, affine: bool
) -> None:
    program, [x] = start((2, groups * inputs, 5, 5))
    shape = (groups * inputs, outputs, 3, 3) if transposed else (groups * outputs, inputs, 3, 3)
    weight = program.append().param("w", torch.rand(shape))
    row = program.append().param("b", torch.rand(groups * outputs)) if bias else None
    op = "aten.conv_transpose2d.input" if transposed else "aten.conv2d"
    tail = [[0, 0], groups, [1, 1]] if transposed else [[1, 1], groups]
    conv = call(program, op, x, weight, row, [2, 2], [1, 1], *tail)
    program.set_outputs([normed(program, conv, affine)])
    assert names(checked(program, FoldBatchNorm())) == [op]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 2), st.booleans(), st.integers(0, 1))
def test_batch_norm_in_front_folds_where_nothing_is_padded(groups: int, width: int, bias: bool, padding: int) -> None:
    program, [x] = start((2, groups * width, 5, 5))
    norm = normed(program, x)
    weight = program.append().param("w", torch.rand(groups * 2, width, 3, 3))
    row = program.append().param("b", torch.rand(groups * 2)) if bias else None
    program.set_outputs([call(program, "aten.conv2d", norm, weight, row, [1, 1], [padding] * 2, [1, 1], groups)])
    apart = ["aten.mul.Tensor", "aten.add.Tensor"] if padding else []
    assert names(checked(program, FoldBatchNorm())) == [*apart, "aten.conv2d"]


def test_a_norm_whose_input_is_read_elsewhere_leaves_the_layer_alone() -> None:
    class Tapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.conv(x)
            return F.relu(self.norm(y)), y

    model = Tapped().eval()
    after = checked(trace_module(model, Inputs(torch.rand(1, 2, 3, 3))), Normalize(), FoldBatchNorm())
    assert names(after) == ["aten.conv2d", "aten.mul.Tensor", "aten.add.Tensor", "aten.relu"]


def test_half_precision_norms_are_computed_in_float32() -> None:
    program = Program()
    x = program.add_input("x", TensorType(torch.bfloat16, (1, 2, 3, 3)))
    values = [program.append().param(name, torch.rand(2)) for name in ("gamma", "beta", "mean", "var")]
    program.set_outputs([call(program, "aten.batch_norm", x, *values, False, 0.1, 1e-5, True)])
    after = checked(program, FoldBatchNorm())
    assert names(after) == ["aten._to_copy", "aten.mul.Tensor", "aten.add.Tensor", "aten._to_copy"]
    assert after.tensor_type(after.outputs[0]).dtype == torch.bfloat16


# -- names ------------------------------------------------------------------------------------------------------------


def _gate(program: Program, x: Node) -> Node:
    inner = call(program, "aten.erf", call(program, "aten.mul.Tensor", x, math.sqrt(0.5)))
    return call(program, "aten.add.Tensor", inner, 1.0)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("left", [True, False])
def test_gelu_is_seen_in_every_order(order: tuple[int, ...], left: bool) -> None:
    program, [x] = start((2, 4))
    factors: list[object] = [x, _gate(program, x), 0.5]
    first, second, third = (factors[index] for index in order)

    def times(a: object, b: object) -> Node:
        return call(program, "aten.mul.Tensor", *((a, b) if isinstance(a, Node) else (b, a)))

    result = times(times(first, second), third) if left else times(first, times(second, third))
    program.set_outputs([result])
    assert names(checked(program, NameActivations())) == ["aten.gelu"]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_attention_takes_scale_and_mask_in(before: bool, masked: bool, scale: float) -> None:
    program, [query, key, value, mask] = start((2, 3, 4), (2, 5, 4), (2, 5, 6), (2, 3, 5))
    turned = call(program, "aten.permute", key, [0, 2, 1])
    left = call(program, "aten.mul.Tensor", query, scale) if before else query
    scores = call(program, "aten.matmul", left, turned)
    scores = scores if before else call(program, "aten.div.Tensor", scores, 1 / scale)
    scores = call(program, "aten.add.Tensor", mask, scores) if masked else scores
    program.set_outputs([call(program, "aten.matmul", call(program, "aten.softmax.int", scores, 2), value)])
    after = checked(program, NameAttention())
    assert names(after) == ["aten.scaled_dot_product_attention"]
    assert after.nodes[0].kwargs["scale"] == scale


def test_a_refused_attention_says_why() -> None:
    program, [query, key] = start((2, 3, 4), (2, 4, 5))
    scores = call(program, "aten.softmax.int", call(program, "aten.matmul", query, key), 2)
    program.set_outputs([call(program, "aten.matmul", scores, program.append().param("v", torch.rand(2, 5, 6)))])
    said: list[str] = []
    run_passes(program, [NameAttention()], Context(CONTEXT.target, log=said.append))
    assert any("is no transposed key" in line for line in said)


# -- pads -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 2), min_size=4, max_size=4), st.integers(0, 2), st.integers(0, 2))
def test_zero_padding_is_written_once(amounts: list[int], height: int, width: int) -> None:
    program, [x] = start((1, 2, 6, 6))
    padded = call(program, "aten.constant_pad_nd", x, amounts, 0.0)
    weight = program.append().param("w", torch.rand(2, 2, 3, 3))
    program.set_outputs([call(program, "aten.conv2d", padded, weight, None, [1, 1], [height, width], [1, 1], 1)])
    after = checked(program, MergePads())
    conv = after.nodes[-1]
    if amounts[0] == amounts[1] and amounts[2] == amounts[3]:
        assert names(after) == ["aten.conv2d"]
        assert conv.args[4] == [height + amounts[2], width + amounts[0]]
    else:
        assert names(after) == ["aten.constant_pad_nd", "aten.conv2d"]
        assert conv.args[4] == [0, 0] or not (height or width)
