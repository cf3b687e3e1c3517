"""Projections that are cut and rows that nobody reads: what is found in any arrangement, and why others are refused."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.onnx.backend import OnnxBackend
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Builder, Node, Program
from qcompiler.passes.canonical import NarrowRows, SplitProjection
from qcompiler.pipeline import Context, Options, Pass, run_passes
from qcompiler.targets import load_target
from tests.onnx_tools import build, sample, typed

SIZES = {"s0": 2, "s1": 3}
X = typed("s0", "s1", 6)


def rewritten(program: Program, pass_: Pass) -> tuple[Program, list[str]]:
    """What a pass makes of a program, its promise checked, and what it said."""
    lines: list[str] = []
    context = Context(load_target("onnxruntime", {"onnx": OnnxBackend()}), log=lines.append)
    result, _ = run_passes(program, [pass_], context, options=Options(check="each"))
    return result, lines


def count(program: Program, op: str) -> int:
    return sum(program.op(node) == op for node in program.nodes)


def same_results(before: Program, after: Program) -> None:
    inputs = [sample(X, SIZES)]
    for found, wanted in zip(evaluate(after, inputs), evaluate(before, inputs), strict=True):
        torch.testing.assert_close(found, wanted)


@settings(deadline=None, max_examples=6)
@given(parts=st.integers(2, 4), heads=st.integers(1, 3), order=st.permutations(range(5)), bias=st.booleans())
def test_a_projection_is_cut_whatever_the_order_of_the_axes(
    parts: int, heads: int, order: list[int], bias: bool
) -> None:
    def body(b: Builder, x: Node) -> list[Node]:
        width = parts * heads * 2
        offset = b.param("b", torch.rand(width)) if bias else None
        whole = b.call("aten.linear", x, b.param("w", torch.rand(width, 6)), offset)
        sizes = [b.call("aten.sym_size.int", x, axis) for axis in (0, 1)]
        moved = b.call("aten.permute", b.call("aten.reshape", whole, [*sizes, parts, heads, 2]), order)
        return [b.call("aten.select.int", moved, order.index(2), part) for part in range(parts)]

    program = build(body, X)
    after, lines = rewritten(program, SplitProjection())
    assert count(after, "aten.linear") == parts
    assert count(after, "aten.select.int") == 0
    assert not lines
    same_results(program, after)


@settings(deadline=None, max_examples=6)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_split_becomes_layers_that_share_the_memory_of_the_weight(sizes: list[int]) -> None:
    def body(b: Builder, x: Node) -> list[Node | None]:
        whole = b.call("aten.linear", x, b.param("w", torch.rand(sum(sizes), 6)), None)
        return b.items(b.call("aten.split_with_sizes", whole, sizes, 2))

    program = build(body, X)
    after, _ = rewritten(program, SplitProjection())
    same_results(program, after)
    if len(sizes) == 1:
        return
    assert count(after, "aten.linear") == len(sizes)
    weight = program.params["w"]
    assert isinstance(weight, torch.Tensor)
    pointers = {
        value.untyped_storage().data_ptr() for value in after.params.values() if isinstance(value, torch.Tensor)
    }
    assert pointers == {weight.untyped_storage().data_ptr()}


REFUSED = """dim s0 = 2 in 1..
program @refused stage=canonical {{
  input %x : f32[s0,4]
  param %w : f32[6,4] = normal(seed=1)
  %linear = aten.linear %x, %w, none : f32[s0,6]
  %low = aten.slice.Tensor %linear, 1, 0, 3, 1 : f32[s0,3]
  {other}
  return %low, %other
}}
"""


def reason(other: str) -> str:
    after, lines = rewritten(parse_program(REFUSED.format(other=other)), SplitProjection())
    assert count(after, "aten.linear") == 1
    (line,) = lines
    return line


def test_a_reader_of_everything_is_named() -> None:
    assert "%other reads all of it" in reason("%other = aten.relu %linear : f32[s0,6]")


def test_overlapping_parts_are_refused() -> None:
    assert "overlap" in reason("%other = aten.slice.Tensor %linear, 1, 2, 6, 1 : f32[s0,4]")


def test_scattered_parts_are_refused() -> None:
    assert "scattered" in reason("%other = aten.slice.Tensor %linear, 1, 3, 6, 2 : f32[s0,2]")


def test_a_projection_that_nobody_cuts_is_not_mentioned() -> None:
    program = build(lambda b, x: b.call("aten.relu", b.call("aten.linear", x, b.param("w", torch.rand(4, 6)), None)), X)
    assert rewritten(program, SplitProjection())[1] == []


@settings(deadline=None, max_examples=6)
@given(axis=st.sampled_from([0, 1]), row=st.sampled_from([0, 1, -1]), depth=st.integers(1, 4))
def test_one_row_is_computed_where_one_is_read(axis: int, row: int, depth: int) -> None:
    def body(b: Builder, x: Node) -> Node:
        for _ in range(depth):
            inner = b.call("aten.gelu", b.call("aten.linear", x, b.param("w", torch.rand(6, 6)), None))
            x = b.call("aten.layer_norm", b.call("aten.add.Tensor", x, inner), [6])
        return b.call("aten.select.int", x, axis, row)

    program = build(body, X)
    after, _ = rewritten(program, NarrowRows())
    assert all(after.shape(node)[axis] == 1 for node in after.nodes if after.op(node) == "aten.linear")
    assert count(after, "aten.slice.Tensor") == 1
    same_results(program, after)


def test_narrowed_nodes_keep_their_names() -> None:
    def body(b: Builder, x: Node) -> Node:
        hidden = b.call("aten.linear", x, b.param("w", torch.rand(6, 6)), None, name="hidden")
        return b.call("aten.select.int", hidden, 1, 0, name="first")

    after, _ = rewritten(build(body, X), NarrowRows())
    assert {"hidden", "first"} <= {node.name for node in after.nodes}
