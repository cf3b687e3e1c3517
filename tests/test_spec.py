"""Specs as text, block geometry, and the short names that become specs."""

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import SpecError
from qcompiler.formats import FORMATS, FP4_E2M1, NF4, SCALE_FORMATS, Format, Integer, ScaleName
from qcompiler.formats.blocks import Reduction, block_reduce, expand_blocks
from qcompiler.spec import (
    Level,
    Number,
    QuantSpec,
    bits_per_element,
    parse_scheme,
)

SCALES: list[ScaleName] = [stored.name for stored in SCALE_FORMATS]
INT8_ROWS = QuantSpec.parse("int8 sym block=(1,-1) scale=f32")
NVFP4 = QuantSpec.parse("fp4e2m1 sym block=(1,16) scale=e4m3 block=(-1,-1) scale=f32")


@st.composite
def specs(draw: st.DrawFn) -> QuantSpec:
    number: Format = draw(st.sampled_from(FORMATS))
    rank = draw(st.integers(0, 4))
    block = tuple(draw(st.sampled_from([-1, 1, 2, 16, 128])) for _ in range(rank))
    symmetric = not number.is_integer or draw(st.booleans())
    levels = [Level(block, draw(st.sampled_from(SCALES)), "none" if symmetric else "int")]
    if draw(st.booleans()):
        outer = tuple(-1 if extent == -1 else draw(st.sampled_from([-1, extent, 3 * extent])) for extent in block)
        levels.append(Level(outer, draw(st.sampled_from(SCALES))))
    return QuantSpec(number, tuple(levels), draw(st.booleans()))


# --- text ---


@given(spec=specs())
@settings(deadline=None, max_examples=50)
def test_a_printed_spec_parses_back(spec: QuantSpec) -> None:
    assert QuantSpec.parse(str(spec)) == spec
    assert hash(QuantSpec.parse(str(spec))) == hash(spec)


@pytest.mark.parametrize(
    "text",
    [
        "int4 sym block=(1,32) scale=f16",
        "uint8 asym block=(-1,-1) scale=f32 dynamic",
        "fp4e2m1 sym block=(1,16) scale=e4m3 block=(-1,-1) scale=f32",
        "int32 sym block=(1) scale=f32",
        "uint8 asym block=() scale=f32",
    ],
)
def test_canonical_texts_print_as_written(text: str) -> None:
    assert str(QuantSpec.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a spec is"),
        ("int8 sym", "a spec is"),
        ("int8 signed block=(1,-1) scale=f32", "a spec is"),
        ("int9 sym block=(1,-1) scale=f32", "9 bits"),
        ("int8 sym block=(1,0) scale=f32", "no size"),
        ("int8 sym block=(1,-2) scale=f32", "no size"),
        ("int8 sym block=1,2 scale=f32", "cannot read the block"),
        ("int8 sym block=(1,) scale=f32", "cannot read the block"),
        ("int8 sym block=(1,-1) scale=f33", "unknown scale format"),
        ("int8 sym block=(1,-1) dynamic scale=f32", "not followed"),
        ("int8 sym block=(1,-1) scale=f32 dynamic twice", "unknown words"),
        ("int8 sym scale=f32 block=(1,-1)", "at least one level|unknown words"),
        ("nf4 asym block=(1,-1) scale=f32", "no zero point"),
        ("int8 sym block=(1,16) scale=f16 block=(1,24) scale=f32", "whole inner blocks"),
        ("int8 sym block=(1,-1) scale=f16 block=(1,32) scale=f32", "whole inner blocks"),
        ("int8 sym block=(1,-1) scale=f16 block=(-1) scale=f32", "whole inner blocks"),
    ],
)
def test_a_bad_text_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        QuantSpec.parse(text)


def test_outer_levels_have_no_zero_point() -> None:
    with pytest.raises(SpecError, match="only the innermost"):
        QuantSpec(Integer(8, signed=True), (Level((1, 8)), Level((-1, -1), "f32", "int")))


@pytest.mark.parametrize(
    ("words", "granularity"),
    [
        ("block=(-1,-1) scale=f32", "tensor"),
        ("block=() scale=f32", "tensor"),
        ("block=(1,-1) scale=f32", "channel"),
        ("block=(-1,1) scale=f32", "channel"),
        ("block=(1,-1) scale=f32 dynamic", "token"),
        ("block=(1,1,-1) scale=f32", "token"),
        ("block=(1,-1,-1,-1) scale=f32", "channel"),
        ("block=(1,1,-1,-1) scale=f32", "slice"),
        ("block=(1,32) scale=f32", "group"),
        ("block=(16,16) scale=f32", "tile"),
        ("block=(1) scale=f32", "element"),
    ],
)
def test_granularity_is_named(words: str, granularity: str) -> None:
    assert QuantSpec.parse(f"int8 sym {words}").granularity == granularity


# --- geometry ---


def test_scale_shape_rounds_up_and_takes_symbols() -> None:
    batch = sympy.Symbol("B", positive=True, integer=True)
    assert Level((1, 32)).scale_shape((5, 70)) == (5, 3)
    assert Level((-1, 1, -1)).scale_shape((batch, 8, batch)) == (1, 8, 1)
    assert Level((1, -1)).scale_shape((batch, 8)) == (batch, 1)
    blocks = Level((32, -1)).scale_shape((batch, 8))[0]
    assert isinstance(blocks, sympy.Expr)
    assert blocks.subs(batch, 33) == 2
    with pytest.raises(SpecError, match="rank"):
        Level((1, -1)).scale_shape((1, 2, 3))


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    extents=st.lists(st.sampled_from([-1, 1, 2, 3, 4, 16]), min_size=3, max_size=3),
    op=st.sampled_from(["amin", "amax", "absmax"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_blocks_are_reduced_and_expanded_as_a_loop_would(
    shape: list[int], extents: list[int], op: Reduction, seed: int
) -> None:
    block = tuple(extents[: len(shape)])
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    reduced = block_reduce(x, block, op)
    assert reduced.shape == Level(block).scale_shape(shape)
    expanded = expand_blocks(reduced, block, shape)
    assert expanded.shape == x.shape
    wanted = torch.empty_like(x)
    for place in np.ndindex(*reduced.shape):
        tile = tuple(
            slice(None) if extent == -1 else slice(at * extent, (at + 1) * extent)
            for at, extent in zip(place, block, strict=True)
        )
        part = x[tile].abs() if op == "absmax" else x[tile]
        wanted[tile] = part.min() if op == "amin" else part.max()
    assert torch.equal(expanded, wanted)


def test_whole_and_single_blocks_expand_without_memory() -> None:
    per_row = torch.rand(8, 1)
    assert expand_blocks(per_row, (1, -1), (8, 1000)).untyped_storage().nbytes() == 8 * 4


def test_reducing_the_wrong_rank_is_refused() -> None:
    with pytest.raises(SpecError, match="rank"):
        block_reduce(torch.zeros(2, 2), (1,), "amax")
    with pytest.raises(SpecError, match="rank"):
        expand_blocks(torch.zeros(2), (1, 1), (2, 2))


def test_bits_per_element_count_scales_and_zero_points() -> None:
    assert bits_per_element(QuantSpec.parse("int4 sym block=(1,32) scale=f16"), (8, 64)) == 4.5
    assert bits_per_element(QuantSpec.parse("uint4 asym block=(1,32) scale=f16"), (8, 64)) == 4.625
    assert bits_per_element(NVFP4, (4, 64)) == 4 + 8 / 16 + 32 / 256
    ragged = bits_per_element(QuantSpec.parse("int4 sym block=(1,32) scale=f16"), (1, 40))
    assert ragged == 4 + 2 * 16 / 40
    with pytest.raises(SpecError, match="no elements"):
        bits_per_element(INT8_ROWS, (0, 4))


# --- requests and schemes ---


@pytest.mark.parametrize(
    ("name", "weight", "activation"),
    [
        ("mxfp4", "fp4e2m1 sym group=32 scale=e8m0", "fp4e2m1 sym group=32 scale=e8m0 dynamic"),
        ("mxfp6", "fp6e2m3 sym group=32 scale=e8m0", "fp6e2m3 sym group=32 scale=e8m0 dynamic"),
        ("mxfp6_e3m2", "fp6e3m2 sym group=32 scale=e8m0", "fp6e3m2 sym group=32 scale=e8m0 dynamic"),
        ("mxfp8_e5m2", "fp8e5m2 sym group=32 scale=e8m0", "fp8e5m2 sym group=32 scale=e8m0 dynamic"),
        ("mxint8", "int8 sym group=32 scale=e8m0", "int8 sym group=32 scale=e8m0 dynamic"),
        ("nf3", "nf3 sym group=64 scale=f32", "None"),
        ("bnbfp4", "bnbfp4 sym group=64 scale=f32", "None"),
        ("ternary", "ternary sym group=128 scale=f16", "None"),
        ("W8A8", "int8 sym channel scale=f32", "uint8 asym tensor scale=f32"),
        ("w8a8_dynamic", "int8 sym channel scale=f32", "uint8 asym tensor scale=f32 dynamic"),
        ("w8a8_token", "int8 sym channel scale=f32", "uint8 asym token scale=f32 dynamic"),
        ("w8a16", "int8 sym channel scale=f32", "None"),
        ("w4a16", "uint4 asym channel scale=f32", "None"),
        ("w4a16g32", "uint4 asym group=32 scale=f32", "None"),
        ("W4A16g128_sym", "int4 sym group=128 scale=f32", "None"),
        ("w2a16g64", "uint2 asym group=64 scale=f32", "None"),
        ("w3a16_f16", "uint3 asym channel scale=f16", "None"),
        ("w4a8g64_sym_f16_token", "int4 sym group=64 scale=f16", "uint8 asym token scale=f32 dynamic"),
        ("w4a8g64", "int4 sym group=64 scale=f32", "uint8 asym tensor scale=f32"),
        ("w8a8_asym", "uint8 asym channel scale=f32", "uint8 asym tensor scale=f32"),
        ("w16a8", "None", "uint8 asym tensor scale=f32"),
        (
            "NVFP4",
            "fp4e2m1 sym group=16 scale=e4m3 outer=f32",
            "fp4e2m1 sym group=16 scale=e4m3 outer=f32 dynamic",
        ),
        ("mxfp8", "fp8e4m3 sym group=32 scale=e8m0", "fp8e4m3 sym group=32 scale=e8m0 dynamic"),
    ],
)
def test_short_names(name: str, weight: str, activation: str) -> None:
    scheme = parse_scheme(name)
    assert (str(scheme.weight), str(scheme.activation)) == (weight, activation)
    assert parse_scheme(str(scheme)) == scheme
    for number in (scheme.weight, scheme.activation):
        assert number is None or Number.parse(str(number)) == number


@pytest.mark.parametrize(
    "name", ["", "w8", "w9a8", "w4a16g0", "w16a16g32", "w16a8_f16", "w8a16_dynamic", "w1a8", "int8"]
)
def test_a_name_that_is_no_scheme_is_refused_with_examples(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_scheme(name)
    assert "w8a8" in str(caught.value)


@pytest.mark.parametrize(
    ("request_text", "rank", "channel_axis", "reduce_axis", "block"),
    [
        ("uint8 asym tensor scale=f32", 4, None, 1, (-1, -1, -1, -1)),
        ("int8 sym channel scale=f32", 4, 0, 1, (1, -1, -1, -1)),
        ("int8 sym channel scale=f32", 2, -1, 0, (-1, 1)),
        ("int8 sym channel scale=f32", 3, (0, 2), 1, (1, -1, 1)),
        ("uint8 asym token scale=f32", 3, None, -1, (1, 1, -1)),
        ("int4 sym group=32 scale=f32", 2, 0, 1, (1, 32)),
        ("int4 sym group=32 scale=f32", 4, 0, 1, (1, 32, -1, -1)),
        ("int4 sym group=32 scale=f32", 3, None, -1, (1, 1, 32)),
    ],
)
def test_a_request_becomes_a_spec_of_the_tensors_rank(
    request_text: str,
    rank: int,
    channel_axis: int | tuple[int, ...] | None,
    reduce_axis: int,
    block: tuple[int, ...],
) -> None:
    assert Number.parse(request_text).spec(rank, channel_axis, reduce_axis).block == block


def test_a_codebook_request_brings_its_table() -> None:
    vectors = Number.parse("codebook8d4 sym channel scale=f16").spec(4, 0, 1)
    assert str(vectors) == "codebook8d4 sym block=(1,-1,-1,-1) scale=f16 table=f16(-1,-1,-1,-1) along=1"
    assert str(Number.parse("pow4c0.5 sym group=32 scale=f16").spec(2, 0, 1)) == "pow4c0.5 sym block=(1,32) scale=f16"


def test_an_outer_scale_becomes_a_second_level() -> None:
    spec = Number(FP4_E2M1, "group", 16, scale="e4m3", outer_scale="f32").spec(2, 0, 1)
    assert spec == NVFP4


def test_malformed_requests_are_refused() -> None:
    with pytest.raises(SpecError, match="group size"):
        Number(NF4, "group")
    with pytest.raises(SpecError, match="group size"):
        Number(NF4, "channel", 32)
    with pytest.raises(SpecError, match="channel axis"):
        Number(NF4, "channel").spec(2)
    with pytest.raises(SpecError, match="axis 2 is outside"):
        Number(NF4, "channel").spec(2, 2)
    with pytest.raises(SpecError, match="cannot read"):
        Number.parse("int8 channel")
