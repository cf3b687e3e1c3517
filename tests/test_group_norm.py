"""Group norms in the pieces that exporters make of them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType
from qcompiler.job import backends
from qcompiler.passes.canonical import CANONICAL
from qcompiler.passes.canonical.name_norms import NameNorms
from qcompiler.pipeline import Context, Options, run_passes
from qcompiler.targets import load_target

CONTEXT = Context(load_target("onnxruntime", backends()))


def in_pieces(groups: int, each: int, spatial: list[int], flat: bool) -> tuple[Program, Node]:
    """A program of one group norm without gain, spelled as an instance norm with a gain per group."""
    program = Program()
    channels = groups * each
    x = program.add_input("x", TensorType(torch.float32, (2, channels, *spatial)))
    builder = program.append()
    folded = builder.call("aten.reshape", x, [2, groups, *([-1] if flat else [each, *spatial])])
    gain, shift = (builder.param(name, torch.linspace(0.5, 2, groups)) for name in ("gain", "shift"))
    norm = builder.call("aten.instance_norm", folded, gain, shift, None, None, True, 0.0, 1e-3, True)
    return program, builder.call("aten.reshape", norm, [2, channels, *spatial])


def operators(program: Program) -> list[str]:
    return [program.op(node) for node in program.nodes]


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(2, 4), min_size=1, max_size=3), st.booleans())
def test_pieces_are_one_group_norm(groups: int, each: int, spatial: list[int], flat: bool) -> None:
    program, result = in_pieces(groups, each, spatial, flat)
    program.set_outputs([result])
    found = run_passes(program, [NameNorms(), *CANONICAL], CONTEXT, options=Options(check="each"))[0]
    assert operators(found) == ["aten.group_norm"]


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 3), st.integers(1, 2), st.booleans(), st.booleans())
def test_weight_and_bias_are_taken_in(each: int, rank: int, leading: bool, shifted: bool) -> None:
    channels, spatial = 2 * each, [3] * rank
    program = Program()
    x = program.add_input("x", TensorType(torch.float32, (2, channels, *spatial)))
    builder = program.append()
    value = builder.call("aten.group_norm", x, 2, None, None, 1e-3)
    shape = [1] * leading + [channels] + [1] * rank
    value = builder.call("aten.mul.Tensor", value, builder.param("w", torch.rand(shape) + 0.5))
    if shifted:
        value = builder.call("aten.add.Tensor", value, builder.param("b", torch.rand(shape)))
    program.set_outputs([value])
    found = run_passes(program, CANONICAL, CONTEXT, options=Options(check="each"))[0]
    assert operators(found) == ["aten.group_norm"]


def test_a_norm_with_two_readers_keeps_its_weight_outside() -> None:
    program, norm = in_pieces(2, 2, [3], flat=True)
    builder = program.append()
    scaled = builder.call("aten.mul.Tensor", norm, builder.param("w", torch.rand(4, 1)))
    program.set_outputs([scaled, norm])
    found = run_passes(program, CANONICAL, CONTEXT, options=Options(check="each"))[0]
    assert operators(found) == ["aten.group_norm", "aten.mul.Tensor"]
