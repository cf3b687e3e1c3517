"""Hadamard matrices of many orders, products with them, and the operators that change bases at run time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import SpecError, VerifyError
from qcompiler.hadamard import additions, block_of, core, factors, hadamard, multiply, random_signs
from qcompiler.ir.online import kronecker
from qcompiler.ir.program import Builder, Node
from tests.onnx_tools import assert_same, build, typed
from tests.torch_models import noise

MISSING = {188, 236}


@pytest.mark.parametrize("order", [1, 2, *range(4, 257, 4), 512, 768, 924])
def test_rows_are_orthogonal_and_of_ones(order: int) -> None:
    if order in MISSING:
        assert core(order) == 0
        return
    matrix = hadamard(order).long()
    assert matrix.abs().unique().tolist() == [1]
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.int64))


@pytest.mark.parametrize("order", [0, -4, 3, 6, 10, 188])
def test_orders_without_a_matrix_are_refused(order: int) -> None:
    assert core(order) == 0
    with pytest.raises(SpecError, match=f"order {order}"):
        hadamard(order)


@pytest.mark.parametrize(
    ("width", "size", "sums"),
    [(4096, 1, 12), (14336, 28, 36), (11008, 172, 177), (768, 12, 17), (1152, 36, 40), (5120, 20, 27)],
)
def test_widths_of_real_layers_have_cheap_matrices(width: int, size: int, sums: int) -> None:
    assert (core(width), additions(width), block_of(width)) == (size, sums, width)
    assert math.prod(len(factor) for factor in factors(width)) == width
    assert max(len(factor) for factor in factors(width)) <= max(64, size)


def test_blocks_are_powers_of_two_or_what_divides_where_nothing_better_is_cheap() -> None:
    assert [block_of(width) for width in (1, 6, 65, 188, 672, 29568, 188 * 3)] == [1, 2, 1, 4, 672, 128, 12]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([1, 2, 4, 12, 20, 28, 36, 64, 92, 96, 160, 256, 1344]), st.integers(1, 3), st.integers(0, 9))
def test_a_product_is_that_with_the_normalised_matrix(block: int, count: int, seed: int) -> None:
    x = noise(2, 3, count * block, seed=seed).double()
    wanted = (x.unflatten(-1, (count, block)) @ hadamard(block).double() / block**0.5).flatten(-2)
    torch.testing.assert_close(multiply(x, block), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(multiply(x, block).norm(), x.norm())


def test_half_precision_is_summed_in_single() -> None:
    x = torch.full((1, 4096), 30.0, dtype=torch.float16)
    assert multiply(x, 4096)[0, 0].item() == 30 * 64
    with pytest.raises(SpecError, match="do not divide"):
        multiply(x, 12)


def test_signs_are_the_same_every_time() -> None:
    assert torch.equal(random_signs(64, 3), random_signs(64, 3))
    assert not torch.equal(random_signs(64, 3), random_signs(64, 4))
    assert random_signs(64, 3).abs().unique().tolist() == [1]


@pytest.mark.parametrize(("width", "block"), [(8, 8), (24, 12), (24, 4), (768, 768), (2048, 2048)])
def test_onnx_turns_as_the_interpreter_does(width: int, block: int) -> None:
    def body(b: Builder, x: Node) -> Node:
        return b.call("qc.hadamard", x, b.param("signs", random_signs(width, 1).float()), block)

    assert_same(build(body, typed("s0", "s1", width)), [noise(2, 3, width)])


@pytest.mark.parametrize("sides", ["left", "right", "both"])
def test_onnx_multiplies_by_kronecker_products(sides: str) -> None:
    def body(b: Builder, x: Node) -> Node:
        left = b.param("left", noise(3, 3, seed=1)) if sides != "right" else None
        right = b.param("right", noise(4, 4, seed=2)) if sides != "left" else None
        return b.call("qc.kronecker", x, left, right)

    assert_same(build(body, typed("s0", 5, 12)), [noise(2, 5, 12)])


def test_a_kronecker_product_is_one_of_matrices() -> None:
    x, left, right = noise(2, 5, 12).double(), noise(3, 3, seed=1).double(), noise(4, 4, seed=2).double()
    one, two = torch.eye(3).double(), torch.eye(4).double()
    torch.testing.assert_close(kronecker(x, left, right), x @ torch.kron(left, right))
    torch.testing.assert_close(kronecker(x, None, right), x @ torch.kron(one, right))
    torch.testing.assert_close(kronecker(x, left, None), x @ torch.kron(left, two))


@pytest.mark.parametrize(
    ("op", "arguments", "problem"),
    [
        ("qc.hadamard", (None, 5), "do not divide"),
        ("qc.hadamard", (None, 3), "order 3"),
        ("qc.kronecker", (None, None), "do not make up"),
    ],
)
def test_what_does_not_fit_is_refused_where_it_is_built(op: str, arguments: tuple[object, ...], problem: str) -> None:
    with pytest.raises(VerifyError, match=problem):
        build(lambda b, x: b.call(op, x, *arguments), typed(2, 12))
