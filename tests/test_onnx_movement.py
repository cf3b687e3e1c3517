"""Data movement, reductions, sizes: written models move and count exactly like the interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.onnx.writer import write_model
from qcompiler.ir.program import Builder, Node
from qcompiler.ir.types import TensorType
from tests.onnx_tools import (
    BOOL,
    F32,
    I64,
    IMAGE,
    Body,
    Case,
    X,
    assert_same,
    build,
    kinds,
    run_onnx,
    sample,
    single,
    typed,
)

SHAPES: list[Case] = [
    ("reshape", single("aten.reshape", [-1, 24]), [X]),
    ("reshape to fewer axes", single("aten.reshape", [-1]), [X]),
    ("permute", single("aten.permute", [2, 0, 1]), [X]),
    ("unsqueeze", single("aten.unsqueeze", -1), [X]),
    ("squeeze", single("aten.squeeze.dims", [1, 2]), [typed("s0", 1, 6)]),
    ("squeeze nothing", single("aten.squeeze.dims", [1]), [X]),
    ("expand", single("aten.expand", [2, -1, 5, -1]), [typed("s0", 1, 6)]),
    ("cat", lambda b, x, y: b.call("aten.cat", [x, y, x], 1), [X, typed("s0", 2, 6)]),
    ("cat promotes", lambda b, x, y: b.call("aten.cat", [x, y]), [X, typed("s1", 4, 6, dtype=I64)]),
    ("stack", lambda b, x, y: b.call("aten.stack", [x, y], -1), [X, X]),
    ("split", lambda b, x: b.items(b.call("aten.split_with_sizes", x, [1, 2, 1], 1)), [X]),
    ("slice", single("aten.slice.Tensor", 2, 1, -1, 2), [X]),
    ("slice from the end", single("aten.slice.Tensor", 1, -2), [X]),
    ("select", single("aten.select.int", 1, -1), [X]),
    ("slice_scatter", single("aten.slice_scatter", 1, 1, 3), [X, typed("s0", 2, 6)]),
    ("pad", single("aten.constant_pad_nd", [1, 2, 0, 3], 0.5), [X]),
    ("pad and crop", single("aten.constant_pad_nd", [-1, 2]), [X]),
    ("reflection_pad2d", single("aten.reflection_pad2d", [1, 2, 3, 0]), [IMAGE]),
    ("replication_pad1d", single("aten.replication_pad1d", [2, 1]), [X]),
    ("repeat", single("aten.repeat", [2, 1, 3, 1]), [X]),
    ("repeat_interleave", single("aten.repeat_interleave.self_int", 3, 1), [X]),
    ("repeat_interleave symbolic", single("aten.repeat_interleave.self_int", 2, 0), [typed("s0", "s1", 3)]),
    ("flip", single("aten.flip", [0, 2]), [X]),
    ("roll", single("aten.roll", [1, -2], [0, 1]), [X]),
    ("roll flat", single("aten.roll", [5]), [X]),
    ("pixel_shuffle", single("aten.pixel_shuffle", 2), [typed("s0", 8, "s1", 3)]),
    ("pixel_unshuffle", single("aten.pixel_unshuffle", 2), [IMAGE]),
    ("tril", single("aten.tril", -1), [X]),
    ("triu", single("aten.triu", 1), [X]),
    (
        "embedding",
        lambda b, i: b.call("aten.embedding", b.param("w", torch.randn(4, 6)), i),
        [typed("s0", "s1", dtype=I64)],
    ),
    ("index_select", lambda b, x, i: b.call("aten.index_select", x, 1, i), [X, typed("s1", dtype=I64)]),
    ("gather", lambda b, x, i: b.call("aten.gather", x, 2, i), [X, typed("s0", 4, 3, dtype=I64)]),
    (
        "scatter",
        lambda b, x, i: b.call("aten.scatter.value", x, 2, i, 7.0),
        [X, typed("s0", 4, 1, dtype=I64)],
    ),
    (
        "index one axis",
        lambda b, x, i: b.call("aten.index.Tensor", x, [None, i]),
        [X, typed("s1", 2, dtype=I64)],
    ),
    (
        "index neighbours",
        lambda b, x, i, j: b.call("aten.index.Tensor", x, [None, i, j]),
        [X, typed("s1", 1, dtype=I64), typed(2, dtype=I64)],
    ),
    (
        "index apart",
        lambda b, x, i, j: b.call("aten.index.Tensor", x, [i, None, j]),
        [typed(4, "s0", 6), typed("s1", dtype=I64), typed("s1", dtype=I64)],
    ),
    (
        "index_put",
        lambda b, x, i, v: b.call("aten.index_put", x, [i], v),
        [typed(5, 3), typed(1, dtype=I64), typed(1, 3)],
    ),
    ("topk", lambda b, x: b.items(b.call("aten.topk", x, 3)), [X]),
    ("sort", lambda b, x: b.items(b.call("aten.sort", x, 0, True)), [X]),
    ("mean over an image", single("aten.mean.dim", [2, 3], True), [IMAGE]),
    ("mean without axes kept", single("aten.mean.dim", [-1, -2]), [IMAGE]),
    ("mean of everything", single("aten.mean"), [X]),
    ("sum", single("aten.sum.dim_IntList", [1], True), [X]),
    ("sum of booleans", single("aten.sum.dim_IntList", [0]), [typed("s0", 4, dtype=BOOL)]),
    ("prod", single("aten.prod.dim_int", 1), [X]),
    ("amax", single("aten.amax", [0, 2]), [X]),
    ("amin", single("aten.amin", [1], True), [X]),
    ("max with index", lambda b, x: b.items(b.call("aten.max.dim", x, 1)), [X]),
    ("min with index", lambda b, x: b.items(b.call("aten.min.dim", x, -1, True)), [X]),
    ("argmax", single("aten.argmax", 1), [X]),
    ("argmin of everything", single("aten.argmin"), [X]),
    ("cumsum", single("aten.cumsum", -1), [X]),
    ("any", single("aten.any.dim", 1), [typed("s0", 4, dtype=BOOL)]),
    ("all", single("aten.all.dim", 0, True), [typed("s0", 4, dtype=BOOL)]),
    ("var", single("aten.var.correction", [1, 2], correction=1), [X]),
    ("var symbolic", single("aten.var.correction", [0, 2], correction=1, keepdim=True), [X]),
    ("var population", single("aten.var.correction", [2], correction=0), [X]),
    *[(f"norm {order}", single("aten.linalg_vector_norm", order, [1]), [X]) for order in (1, 2, 3, float("inf"))],
    ("full_like", single("aten.full_like", 2.5), [X]),
    ("ones_like", single("aten.ones_like", dtype=I64), [X]),
]


@pytest.mark.parametrize(("body", "types"), [pytest.param(b, t, id=n) for n, b, t in SHAPES])
def test_data_movement_is_exact(body: Body, types: list[TensorType]) -> None:
    program = build(body, *types)
    for sizes in ({"s0": 3, "s1": 5}, {"s0": 2, "s1": 4}):
        assert_same(program, [sample(type_, sizes, seed) for seed, type_ in enumerate(types)])


def sized(b: Builder, x: Node) -> Node:
    rows, columns = b.call("aten.sym_size.int", x, 0), b.call("aten.sym_size.int", x, 2)
    doubled = b.call("sym.mul", columns, 2)
    return b.call("aten.reshape", b.call("aten.cat", [x, x], 2), [b.call("sym.mul", rows, 4), doubled])


def test_symbolic_sizes_are_computed_at_run_time() -> None:
    program = build(sized, typed("s0", 4, "s1"))
    for rows, columns in ((3, 5), (1, 2)):
        assert_same(program, [torch.randn(rows, 4, columns)])


def test_reshape_that_keeps_or_infers_dimensions_has_a_constant_target() -> None:
    def heads(b: Builder, x: Node) -> Node:
        batch, length = b.call("aten.sym_size.int", x, 0), b.call("aten.sym_size.int", x, 1)
        return b.call("aten.reshape", x, [batch, length, 4, 6])

    program = build(heads, typed("s0", "s1", 24))
    model = assert_same(program, [torch.randn(2, 5, 24)])
    assert kinds(model) == ["Reshape"]


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("add", (3,)),
        ("sub", (3,)),
        ("mul", (3,)),
        ("floordiv", (2,)),
        ("mod", (2,)),
        ("max", (4,)),
        ("min", (4,)),
    ],
)
def test_arithmetic_on_sizes(op: str, arguments: tuple[int, ...]) -> None:
    def body(b: Builder, x: Node) -> Node:
        size = b.call(f"sym.{op}", b.call("aten.sym_size.int", x, 0), *arguments)
        return b.call("aten.full", [b.call("sym.add", size, 0), 2], 1.0)

    program = build(body, typed("s0", 2))
    for rows in (5, 8):
        assert_same(program, [torch.zeros(rows, 2)])


def test_floor_division_of_a_negative_size_rounds_down() -> None:
    def body(b: Builder, x: Node) -> Node:
        half = b.call("sym.floordiv", b.call("sym.neg", b.call("aten.sym_size.int", x, 0)), 2)
        return b.call("aten.arange.start_step", 0, b.call("sym.neg", half), 1)

    program = build(body, typed("s0"))
    assert run_onnx(write_model(program), [torch.zeros(5)])[0].tolist() == [0, 1, 2]


def test_size_as_an_operand_and_as_a_bound() -> None:
    def body(b: Builder, x: Node) -> list[Node]:
        size = b.call("aten.sym_size.int", x, 0)
        scaled = b.call("aten.mul.Tensor", x, b.call("sym.float", size))
        half = b.call("sym.floordiv", size, 2)
        steps = b.call("aten.arange.start_step", 0, size, 1, kwargs={"dtype": F32})
        return [scaled, b.call("aten.slice.Tensor", x, 0, half), steps]

    program = build(body, typed("s0", 2))
    for rows in (3, 6):
        assert_same(program, [torch.randn(rows, 2)])


@settings(deadline=None, max_examples=30)
@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3), st.integers(1, 7))
def test_slices_with_any_bounds(start: int, end: int, step: int, rows: int) -> None:
    program = build(single("aten.slice.Tensor", 1, start, end, step), typed("s0", 7))
    x = torch.arange(rows * 7, dtype=F32).reshape(rows, 7)
    assert torch.equal(run_onnx(write_model(program), [x])[0], x[:, start:end:step])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(-2, 3), min_size=4, max_size=4))
def test_pads_with_any_sign(pads: list[int]) -> None:
    program = build(single("aten.constant_pad_nd", pads, 0.5), typed("s0", 5, 6))
    x = torch.arange(60, dtype=F32).reshape(2, 5, 6)
    assert torch.equal(run_onnx(write_model(program), [x])[0], torch.constant_pad_nd(x, pads, 0.5))
