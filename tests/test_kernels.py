"""The arithmetic of every kernel's meaning, and where onnxruntime rounds, on cases made for it."""

from __future__ import annotations

import json

import onnx
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.onnx.kernels import WRITERS
from qcompiler.backends.reference import MEANINGS
from qcompiler.backends.reference.arithmetic import MOST_TERMS, Grid, fused_multiply_add
from qcompiler.backends.reference.dense import linear
from qcompiler.backends.reference.pointwise import logistic
from qcompiler.backends.reference.semantics import SEMANTICS
from qcompiler.backends.reference.weights import blocked, run_time_block
from qcompiler.cli.app import app
from qcompiler.errors import UnsupportedError
from qcompiler.ir.interp import evaluate
from qcompiler.spec import Number, qparams_from_range
from tests.kernel_bench import Bench, Operand, tensor_spec

FEW = settings(deadline=None, max_examples=15)
SEEDS = st.integers(0, 10**6)


def scale_of(bench: Bench, operand: Operand) -> torch.Tensor:
    scale = bench.program.constant(operand[1])
    assert scale is not None
    return scale


def assert_equal(bench: Bench) -> None:
    session, _ = bench.session()
    meant, ran = bench.meant(), bench.ran(session)
    assert torch.equal(meant, ran), f"{(meant != ran).sum()} of {meant.numel()} differ by {(meant - ran).abs().max()}"


@FEW
@given(seed=SEEDS, shift=st.integers(1, 4))
def test_ties_of_requantization(seed, shift):
    """Scales whose quotient is a power of two put many sums right between two codes."""
    bench = Bench(seed)
    (x,) = bench.inputs([64, 5])
    a = bench.activation(x)
    w, _ = bench.weight([16, 5], "int8 sym tensor")
    tied = scale_of(bench, a) * scale_of(bench, w) * 2.0**shift
    result = [bench.builder.param("tied", tied), bench.grid(2)[1]]
    bench.finish("linear", "aten.linear", [a, w, None], [64, 16], result)
    assert_equal(bench)


@FEW
@given(seed=SEEDS, tenths=st.sampled_from([1, 3, 5, 7]), ratio=st.sampled_from([1.0, 2.0, 3.0]))
def test_ties_of_sums(seed, tenths, ratio):
    bench = Bench(seed)
    a, b = (bench.activation(node, 0) for node in bench.inputs([64, 64], [64, 64]))
    scale = scale_of(bench, a)
    b[1] = bench.builder.param("other", scale * ratio)
    result = [bench.builder.param("tied", scale * 10 / tenths), bench.grid(2, 0)[1]]
    bench.finish("add", "aten.add.Tensor", [a, b], [64, 64], result)
    assert_equal(bench)


@FEW
@given(seed=SEEDS)
def test_sums_of_rows_with_single_elements(seed):
    """The kernel swaps its operands then, which shows where it rounds."""
    bench = Bench(seed)
    a, b = (bench.activation(node, 0) for node in bench.inputs([64, 1], [64, 64]))
    scale = scale_of(bench, a)
    b[1] = bench.builder.param("other", scale * 7)
    result = [bench.builder.param("tied", scale * 10), bench.grid(2, 0)[1]]
    bench.finish("add", "aten.add.Tensor", [a, b], [64, 64], result)
    assert_equal(bench)


@FEW
@given(seed=SEEDS, zero=st.integers(0, 255))
def test_halves_of_products_go_to_even_codes(seed, zero):
    bench = Bench(seed)
    a, b = (bench.activation(node, 0) for node in bench.inputs([32, 32], [32, 32], low=0, high=15))
    tied = scale_of(bench, a) * scale_of(bench, b) * 2
    result = [bench.builder.param("tied", tied), bench.grid(2, zero)[1]]
    bench.finish("mul", "aten.mul.Tensor", [a, b], [32, 32], result)
    assert_equal(bench)


@FEW
@given(seed=SEEDS, size=st.sampled_from([3, 5, 6, 7]))
def test_ties_of_means(seed, size):
    bench = Bench(seed)
    (x,) = bench.inputs([4, 64, size, size], low=118, high=138)
    a = bench.activation(x, 128)
    result = [bench.builder.param("tied", scale_of(bench, a) * 2 / size**2), bench.grid(4, 128)[1]]
    bench.finish("global_mean", "aten.mean.dim", [a, [2, 3], True], [4, 64, 1, 1], result)
    assert_equal(bench)


@FEW
@given(seed=SEEDS)
def test_ties_of_joins(seed):
    bench = Bench(seed)
    (x,) = bench.inputs([4, 256])
    a = bench.activation(x, 0)
    result = [bench.builder.param("tied", scale_of(bench, a) * 2), bench.grid(2, 0)[1]]
    bench.finish("cat", "aten.cat", [[a, a], 0], [8, 256], result)
    assert_equal(bench)


def test_padding_writes_the_code_of_the_value():
    bench = Bench(2)
    (x,) = bench.inputs([1, 2, 3, 3])
    a = bench.activation(x)
    bench.finish("pad", "aten.constant_pad_nd", [a, [1, 0, 0, 2], 0.5], [1, 2, 5, 4], [a[1], a[2]])
    assert_equal(bench)
    scale, zero = (bench.program.constant(part) for part in a[1:])
    assert scale is not None
    assert zero is not None
    corner = evaluate(bench.program, bench.feeds, kernels=MEANINGS)[0][0, 0, 0, 0]
    assert corner == ((((0.5 / scale).round() + zero).clamp(0, 255) - zero) * scale).reshape(())


def test_limits_are_a_clip_of_codes():
    bench = Bench(2)
    (x,) = bench.inputs([4, 5])
    a = bench.activation(x)
    bench.finish("limit", "aten.relu", [a], [4, 5], [a[1], a[2]], (40, 180))
    assert_equal(bench)
    assert "Clip" in [node.op_type for node in bench.written().graph]


def test_sums_that_might_overflow_are_refused():
    operand = [torch.zeros(1, MOST_TERMS + 1), torch.ones(()), None]
    with pytest.raises(UnsupportedError, match="int32"):
        linear(operand, operand, op="aten.linear")


def test_largest_sum_is_exact():
    x = [torch.full((1, MOST_TERMS), 255.0), torch.ones(()), None]
    w = [torch.full((1, MOST_TERMS), -128.0), torch.ones(1, 1), None]
    assert linear(x, w, op="aten.linear").item() == -255 * 128 * MOST_TERMS


def test_fused_multiply_add_rounds_once():
    a = torch.tensor(1 + 2**-12)
    assert fused_multiply_add(a, a, torch.tensor(-1.0)).item() == 2**-11 + 2**-24
    assert (a * a - 1).item() == 2**-11


def test_fused_multiply_add_is_not_rounded_to_float64_on_the_way():
    """Float64 makes 1 + 2^-23 + 2^-24 (1 - 2^-46) the middle between two float32, which would go up to the even one."""
    a, b, c = torch.tensor(1 + 2.0**-23), torch.tensor(2.0**-24 * (1 - 2.0**-23)), torch.tensor(1 + 2.0**-23)
    assert (a.double() * b.double() + c.double()).float().item() == 1 + 2**-22
    assert fused_multiply_add(a, b, c).item() == 1 + 2**-23


def test_grid_rounds_half_to_even():
    grid = Grid(torch.tensor(2.0), torch.tensor(3.0), 0, 255)
    assert grid.quantize(torch.tensor([1.0, 3.0, 5.0, -3.0, 1e9])).tolist() == [3, 5, 5, 1, 255]


def test_quantized_reals_come_back():
    scale, zero = qparams_from_range(torch.tensor([-1.0]), torch.tensor([2.0]), tensor_spec("uint8", 1))
    assert isinstance(scale, torch.Tensor)
    grid = Grid.of([scale, zero], 0, 255)
    reals = torch.linspace(-1, 2, 50)
    assert ((grid.quantize(reals) - zero) * scale - reals).abs().max() <= scale.item() / 2 + 1e-6


def test_logistic_is_the_function():
    x = torch.linspace(-17, 17, 1001)
    torch.testing.assert_close(logistic(x), torch.sigmoid(x), rtol=2e-6, atol=3e-7)


def test_blocks_are_rounded_by_the_quotient_rounded_once():
    """88.500006 steps: 127 times the reciprocal of a would make it a half, which goes to the even code 88."""
    block = torch.zeros(1, 16)
    block[0, 0], block[0, 1] = 6.739640235900879, -4.696521282196045
    assert round(float(blocked(block, 16)[0, 1] / (block[0, 0] / 127))) == -89


@pytest.mark.parametrize("value", [0.0, 1e-40, -1e-38])
def test_blocks_of_next_to_nothing_become_zeros(value):
    assert torch.equal(blocked(torch.full((2, 32), value), 32), torch.zeros(2, 32, dtype=torch.float64))


def test_two_bits_have_an_integer_kernel_for_some_blocks():
    narrow, wide = (Number.parse(f"{name} asym group=32 scale=f32").spec(2, 0, 1) for name in ("uint2", "uint4"))
    assert [run_time_block(narrow, block) for block in (16, 32, 256)] == [0, 32, 0]
    assert [run_time_block(wide, block) for block in (16, 32, 256)] == [16, 32, 256]


def test_every_kernel_is_meant_and_written():
    assert set(MEANINGS) == set(WRITERS)


def test_integer_gemm_is_standard():
    bench = Bench(0)
    (x,) = bench.inputs([2, 3, 8])
    a = bench.activation(x)
    w, _ = bench.weight([4, 8], "int8 sym channel")
    bench.finish("linear", "aten.linear", [a, w, bench.bias(a, w, 4)], [2, 3, 4])
    assert_equal(bench)
    proto = ir.to_proto(bench.written())
    assert isinstance(proto, onnx.ModelProto)
    assert {node.domain for node in proto.graph.node} == {""}


def test_every_meaning_says_how_it_rounds():
    assert set(SEMANTICS) == set(MEANINGS)
    sums = [kernel for kernel in SEMANTICS.values() if kernel.accumulator == "int32"]
    assert {kernel.most_terms for kernel in sums} == {MOST_TERMS}
    assert [name for name, kernel in SEMANTICS.items() if kernel.run_time] == ["linear_weight_only"]


def test_targets_list_what_kernels_compute():
    shown = CliRunner().invoke(app, ["targets", "onnxruntime", "--json"])
    assert shown.exit_code == 0, shown.output
    kernels = {kernel["name"]: kernel for kernel in json.loads(shown.output)["kernels"]}
    assert kernels["conv"]["meaning"]["accumulator"] == "int32"
    assert kernels["add"]["meaning"]["fused"]
