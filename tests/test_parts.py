"""Specs with parts: their text, their exact bits, and what codebooks, masks, planes and remainders mean."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import InputError, SpecError
from qcompiler.formats import COMPLEX_UNITS, FP4_E2M1, Codebook, Integer, Logarithmic, twin_log
from qcompiler.formats.masks import keep_largest, mask_bits, rank_masks, unrank_masks
from qcompiler.formats.search import best_format, best_minifloat, best_power, best_scale, minifloats
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.verify import verify
from qcompiler.spec import QuantSpec, bits_per_element, choose_qparams, dequantize, parse_scheme, quantize
from qcompiler.spec.assembly import Stored, assemble, narrower, nearest_planes, split_signs
from qcompiler.spec.complex_numbers import (
    complex_scale,
    dequantize_complex,
    quantize_complex,
    real_matrix,
    ternary_planes,
)
from qcompiler.spec.lookup import entries_at, nearest_entries, round_table
from qcompiler.spec.parts import Parts, Remainder, SharedTable
from qcompiler.weights import read_program, write_program

TABLE = "codebook3 sym block=(1,-1) scale=f16 table=f16(-1,-1)"
ROWS = "codebook3 sym block=(1,-1) scale=f16 table=f32(1,-1)"
VECTORS = "codebook4d4 sym block=(1,-1) scale=f16 table=f16(-1,-1)"


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_table(spec: QuantSpec, x: torch.Tensor) -> list[int]:
    return [int(size) for size in spec.table_shape(x.shape) or ()]


# --- text ---


@pytest.mark.parametrize(
    "text",
    [
        TABLE,
        VECTORS + " signs keep=4:16",
        "codebook8d4 sym block=(1,-1,-1) scale=f16 table=i8(1,-1,-1) along=1",
        "codebook4 sym block=(1,128) scale=f16 table=f16(1,128) nested=3,2",
        "int8 sym block=(1,-1) scale=f32 nested=6,4,2",
        "binary sym block=(1,64) scale=f16 planes=2",
        "int4 sym block=(1,32) scale=f16 remainder=16:f16",
        "int4 sym block=(1,32) scale=f16 keep=2:4",
        "uint8 asym block=(-1,-1) scale=f32 sets=25 dynamic",
        "uint4 asym block=(1,128) scale=f16 segments=256*uint2,128*uint3,128*uint4",
        "int8 sym block=(1,-1) scale=f16 along=0 segments=3*int4,5*int8",
    ],
)
def test_parts_print_as_written(text: str) -> None:
    spec = QuantSpec.parse(text)
    assert str(spec) == text
    assert hash(QuantSpec.parse(text)) == hash(spec)


@given(
    signs=st.booleans(),
    keep=st.none() | st.tuples(st.integers(1, 4), st.integers(5, 16)),
    planes=st.integers(1, 4),
    nested=st.sampled_from([(), (4,), (6, 3)]),
    remainder=st.none() | st.builds(Remainder, st.integers(1, 64), st.sampled_from(["f16", "i8"])),
    sets=st.integers(1, 30),
)
@settings(deadline=None, max_examples=30)
def test_printed_parts_parse_back(
    signs: bool,
    keep: tuple[int, int] | None,
    planes: int,
    nested: tuple[int, ...],
    remainder: Remainder | None,
    sets: int,
) -> None:
    parts = Parts(None, -1, signs, keep, planes, nested, remainder, sets)
    read = QuantSpec.parse(f"int8 sym block=(1,-1) scale=f32 {parts}")
    assert (read.parts or Parts()) == parts
    assert str(QuantSpec.parse(str(read))) == str(read)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("codebook4 sym block=(1,-1) scale=f16", "come together"),
        ("int4 sym block=(1,-1) scale=f16 table=f16(-1,-1)", "come together"),
        ("codebook4 sym block=(1,-1) scale=f16 table=f16(-1)", "rank 1"),
        ("codebook4 sym block=(1,-1) scale=f16 table=f12(-1,-1)", "cannot read table"),
        ("codebook4d4 sym block=(1,-1) scale=f16 table=f16(1,6)", "vector of 4"),
        ("codebook4 asym block=(1,-1) scale=f16 table=f16(-1,-1)", "no zero point"),
        ("int4 sym block=(1,-1) scale=f16 keep=4:4", "no mask"),
        ("int4 sym block=(1,-1) scale=f16 keep=x", "no whole number"),
        ("int4 sym block=(1,-1) scale=f16 planes=0", "at least one plane"),
        ("int8 sym block=(1,-1) scale=f16 nested=2,4", "do not fall"),
        ("int4 sym block=(1,-1) scale=f16 nested=6", "no narrower model"),
        ("uint8 asym block=(1,-1) scale=f16 nested=4", "no narrower model"),
        ("int8 sym block=(-1) scale=f16 remainder=4:f16", "needs a matrix"),
        ("int8 sym block=(-1) scale=f16 remainder=0:f16", "cannot read remainder"),
        ("int8 sym block=(-1,-1) scale=f16 along=2", "outside"),
        ("int8 sym block=(-1,-1) scale=f16 signs signs", "unknown words"),
        ("int8 sym block=(1,-1) scale=f16 segments=4*int4,4*int8", "two segments"),
        ("int8 sym block=(1,8) scale=f16 segments=12*int4,4*int8", "two segments"),
        ("int4 sym block=(1,8) scale=f16 segments=8*int4,8*int8", "no wider"),
        ("int4 sym block=(1,8) scale=f16 segments=8*uint4,8*int4", "kind"),
        ("int4 sym block=(1,8) scale=f16 segments=8*int4,0*int4", "at least one row"),
        ("int4 sym block=(1,8) scale=f16 keep=2:4 segments=8*int4,8*int2", "no mask"),
        ("int8 sym block=(-1,-1) scale=f16 signs=1", "unknown words"),
        ("int8 sym block=(-1,-1) scale=f16 dynamic signs", "unknown words"),
    ],
)
def test_parts_that_make_no_sense_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        QuantSpec.parse(text)


# --- bits ---


@pytest.mark.parametrize(
    ("text", "shape", "bits"),
    [
        ("codebook4 sym block=(1,-1) scale=f16 table=f16(-1,-1)", (64, 128), 4 + 16 / 128 + 16 * 16 / 8192),
        ("codebook4 sym block=(1,-1) scale=f16 table=f16(1,-1)", (64, 128), 4 + 16 / 128 + 16 * 16 / 128),
        ("codebook8d4 sym block=(1,-1) scale=f16 table=f16(-1,-1)", (64, 128), 2 + 16 / 128 + 256 * 4 * 16 / 8192),
        ("codebook8d8 sym block=(1,-1) scale=f16 table=f16(-1,-1) signs", (64, 128), 2 + 0.125 + 256 * 8 * 16 / 8192),
        (
            "codebook9d16 sym block=(-1,-1) scale=f32 table=i8(-1,-1) keep=4:16",
            (256, 512),
            9 / 16 + 32 / 131072 + 11 / 16 + 512 * 16 * 8 / 131072,
        ),
        ("int4 sym block=(1,32) scale=f16 keep=2:4", (8, 64), 2 + 0.5 + 3 / 4),
        ("binary sym block=(1,64) scale=f16 planes=2", (8, 128), 2 * (1 + 16 / 64)),
        ("uint1 sym block=(1,64) scale=f16 planes=2", (8, 128), 2.5),
        ("int8 sym block=(1,-1) scale=f32 nested=6,4", (8, 128), 8 + 32 / 128),
        ("int4 sym block=(1,-1) scale=f16 remainder=8:f16", (64, 128), 4 + 16 / 128 + 8 * 16 * 192 / 8192),
        ("int4 sym block=(1,8) scale=f16 segments=16*int2,16*int4", (4, 32), 3 + 2 + 2 * 32 / 128),
        ("uint4 asym block=(1,8) scale=f16 segments=16*uint2,16*uint4", (4, 32), 3 + 2 + 3 / 8 + 2 * 32 / 128),
        ("int4 sym block=(1,-1) scale=f16 outliers=AwOHEA", (32, 128), 4 + 16 / 128 + 3 * (16 + 16) / 4096),
        ("int8 sym block=(-1,-1) scale=f32 sets=25", (8, 128), 8 + 25 * 32 / 1024),
        ("complex2 sym block=(-1,-1) scale=f32", (8, 128), 2 + 64 / 1024),
        ("codebook4d4 sym block=(1,-1) scale=f16 table=f16(-1,-1)", (2, 10), (3 * 4 * 2 + 32 + 16 * 4 * 16) / 20),
    ],
)
def test_bits_count_everything_that_is_stored(text: str, shape: tuple[int, ...], bits: float) -> None:
    assert bits_per_element(QuantSpec.parse(text), shape) == pytest.approx(bits, rel=1e-12)


# --- codebooks ---


@given(rows=st.integers(1, 4), columns=st.integers(1, 9), per_row=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_scalar_entries_are_the_nearest_of_their_table(rows: int, columns: int, per_row: bool, seed: int) -> None:
    spec = QuantSpec.parse(ROWS if per_row else TABLE)
    x = noise(rows, columns, seed=seed)
    table = noise(*of_table(spec, x), seed=seed + 1)
    indices = nearest_entries(x, table, spec)
    distances = (x[..., None].double() - table.double()).abs()
    assert torch.equal(distances.gather(-1, indices[..., None])[..., 0], distances.amin(-1))
    assert torch.equal(
        entries_at(indices, table, spec), table.expand(rows, columns, 8).gather(-1, indices[..., None])[..., 0]
    )


@given(axis=st.integers(-3, 2), dimension=st.sampled_from([2, 3]), masked=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_vector_entries_are_the_nearest_along_any_axis(axis: int, dimension: int, masked: bool, seed: int) -> None:
    parts = Parts(SharedTable((-1, -1, -1), "f32"), along=axis)
    spec = QuantSpec(Codebook(3, dimension), QuantSpec.parse("int8 sym block=(1,-1,-1) scale=f32").levels, parts=parts)
    x = noise(4, 5, 6, seed=seed)
    table = noise(*of_table(spec, x), seed=seed + 1)
    mask = noise(4, 5, 6, seed=seed + 2) > 0 if masked else None
    indices = nearest_entries(x, table, spec, mask)
    values = entries_at(indices, table, spec, x.shape[axis])
    assert values.shape == x.shape
    counted = mask if mask is not None else torch.ones_like(x, dtype=torch.bool)
    rows, chosen, weights = (t.movedim(axis, -1).double() for t in (x, values, counted))
    for start in range(0, rows.shape[-1], dimension):
        part = slice(start, start + dimension)
        width = rows[..., part].shape[-1]
        options = table.reshape(8, dimension)[:, :width].double()
        every = (weights[..., None, part] * (rows[..., None, part] - options).square()).sum(-1)
        got = (weights[..., part] * (rows[..., part] - chosen[..., part]).square()).sum(-1)
        assert torch.allclose(got, every.amin(-1), atol=1e-5)


def test_tables_per_group_serve_their_own_group() -> None:
    spec = QuantSpec.parse("codebook1 sym block=(1,4) scale=f32 table=f32(1,4)")
    x = torch.tensor([[0.0, 1, 0, 1, 10, 20, 10, 20]])
    table = torch.tensor([[[0.0, 1.0], [10.0, 20.0]]])
    q = quantize(x, torch.ones(1, 2), None, spec, table)
    assert q.tolist() == [[0, 1, 0, 1, 0, 1, 0, 1]]
    assert torch.equal(dequantize(q, torch.ones(1, 2), None, spec, table), x)


def test_vectors_go_through_quantize_and_dequantize() -> None:
    spec = QuantSpec.parse(VECTORS)
    x = noise(3, 8)
    scale, _ = choose_qparams(x, spec)
    assert torch.equal(torch.as_tensor(scale), x.abs().amax(1, keepdim=True).half().float())
    table = (x / torch.as_tensor(scale)).reshape(-1, 4)
    table = torch.cat([table, noise(10, 4)])[:16].reshape(1, 1, 16, 4)
    q = quantize(x, scale, None, spec, table)
    assert q.shape == (3, 2)
    assert torch.allclose(dequantize(q, scale, None, spec, table), x, atol=1e-6)
    coded = spec.format.decode(spec.format.encode(q))
    assert torch.equal(coded, q)


def test_a_codebook_pair_trains_element_scale_and_table() -> None:
    spec = QuantSpec.parse(ROWS)
    x, scale = noise(2, 40).requires_grad_(), torch.full((2, 1), 0.7, requires_grad=True)
    table = noise(2, 1, 8, seed=3).requires_grad_()
    q = quantize(x, scale, None, spec, table)
    y = dequantize(q, scale, None, spec, table)
    plain = dequantize(quantize(x.detach(), scale.detach(), None, spec, table.detach()), scale, None, spec, table)
    assert torch.equal(y.detach(), plain.detach())
    y.sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    assert table.grad is not None
    assert torch.allclose(x.grad, torch.ones_like(x), atol=1e-5)
    wanted = ((y.detach() - x.detach()) / 0.7).sum(1, keepdim=True)
    assert torch.allclose(scale.grad, wanted, atol=1e-3)
    counts = torch.stack([torch.bincount(row.long(), minlength=8) for row in q.detach()]) * 0.7
    assert torch.allclose(table.grad[:, 0], counts)


def test_codebooks_refuse_what_does_not_fit() -> None:
    spec = QuantSpec.parse(TABLE)
    with pytest.raises(SpecError, match="needs its table"):
        quantize(noise(2, 3), torch.ones(2, 1), None, spec)
    with pytest.raises(SpecError, match=r"table of shape \(8,\)"):
        quantize(noise(2, 3), torch.ones(2, 1), None, spec, noise(8))
    wide = QuantSpec.parse("codebook12 sym block=(1,-1) scale=f16 table=f16(-1,-1)")
    with pytest.raises(SpecError, match="cannot hold 4096"):
        quantize(noise(2, 3).bfloat16(), torch.ones(2, 1), None, wide, noise(1, 1, 4096))
    plain = QuantSpec.parse("int8 sym block=(1,-1) scale=f32")
    assert plain.table_shape((2, 3)) is None
    with pytest.raises(SpecError, match="no table"):
        nearest_entries(noise(2, 3), noise(8), plain)


def test_stored_tables_are_rounded_to_their_format() -> None:
    table = torch.tensor([0.1, -1.0, 1.0, 0.5003])
    assert torch.equal(round_table(table, "f16"), table.half().float())
    assert torch.equal(round_table(table, "i8") * 127, torch.tensor([13.0, -127, 127, 64]))


def test_programs_run_and_store_codebooks(tmp_path: Path) -> None:
    text = (Path(__file__).parent / "golden" / "text" / "codebooks.qir").read_text(encoding="utf-8")
    program = parse_program(text)
    verify(program)
    x = noise(3, 4)
    write_program(program, tmp_path)
    for loaded in (program, read_program(tmp_path)):
        (codes,) = evaluate(loaded, [x])
        first = torch.tensor([[-1, -0.5, 0.5, 1], [0.5, 0.125, 0, -0.5]])
        hidden = x @ first.T @ torch.tensor([[1.0, 0], [0, 0.5]]).T
        assert torch.equal(codes, (hidden[:, 1:] > hidden[:, :1]).float())


# --- masks, signs, planes, narrower models, remainders ---


@given(group=st.integers(2, 16), data=st.data())
@settings(deadline=None, max_examples=25)
def test_masks_are_numbered_without_gaps(group: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, group - 1))
    count = math.comb(group, kept)
    ranks = torch.arange(min(count, 500)) + data.draw(st.integers(0, max(0, count - 500)))
    masks = unrank_masks(ranks, kept, group)
    assert torch.equal(masks.sum(-1), torch.full_like(ranks, kept))
    assert torch.equal(rank_masks(masks, kept), ranks)
    assert count <= 1 << mask_bits(kept, group) < 2 * count or count == 1


def test_the_largest_of_every_group_are_kept() -> None:
    x = torch.tensor([[1.0, -5, 2, 0, 3, 3, 3, -4, 9, 1, 1]])
    mask = keep_largest(x, 2, 4)
    assert mask[0].tolist() == [False, True, True, False, True, False, False, True, True, True, False]
    assert torch.equal(keep_largest(x.T, 2, 4, axis=0), mask.T)


def test_signs_masks_and_remainders_are_put_back() -> None:
    spec = QuantSpec.parse(VECTORS + " signs keep=2:4 remainder=2:f16")
    x = noise(6, 10)
    magnitude, negative = split_signs(x)
    mask = keep_largest(x, 2, 4)
    table, scale = noise(1, 1, 16, 4, seed=1).abs(), torch.full((6, 1), 0.5)
    plain = QuantSpec.parse(VECTORS)
    codes = nearest_entries(magnitude / 0.5, table, plain, mask).float()
    left, right = noise(6, 2, seed=2), noise(2, 10, seed=3)
    whole = assemble(Stored(codes, scale, None, table, negative, mask, left, right), spec)
    values = entries_at(codes, table, plain, 10) * 0.5
    assert torch.equal(whole, torch.where(mask, torch.where(negative, -values, values), 0.0) + left @ right)
    with pytest.raises(SpecError, match="mask of this tensor is missing"):
        assemble(Stored(codes, scale, None, table, negative), spec)


@given(name=st.sampled_from(["binary", "uint1", "ternary"]), planes=st.integers(1, 3), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_planes_sum_to_the_nearest_combination(name: str, planes: int, seed: int) -> None:
    spec = QuantSpec.parse(f"{name} sym block=(1,4) scale=f32 planes={planes}")
    x = noise(2, 8, seed=seed)
    scale = noise(planes, 2, 2, seed=seed + 1).abs() + 0.1
    codes = nearest_planes(x, scale, spec)
    stored = Stored(codes, scale) if planes > 1 else Stored(codes[0], scale[0])
    values = spec.format.grid().values.float()
    steps = scale.repeat_interleave(4, dim=-1)
    every = torch.stack(
        [
            (steps * torch.tensor(choice).reshape(-1, 1, 1)).sum(0)
            for choice in itertools.product(values.tolist(), repeat=planes)
        ]
    )
    assert torch.allclose((assemble(stored, spec) - x).abs(), (every - x).abs().amin(0), atol=1e-6)


def test_too_many_combinations_are_refused() -> None:
    spec = QuantSpec.parse("int4 sym block=(1,4) scale=f32 planes=3")
    with pytest.raises(SpecError, match="4096 combinations"):
        nearest_planes(noise(2, 8), torch.ones(3, 2, 2), spec)


def test_a_narrower_model_is_an_integer_shift() -> None:
    spec = QuantSpec.parse("int8 sym block=(-1) scale=f32 nested=6,4,2")
    codes = torch.arange(-128, 128).float()
    for bits in (6, 4, 2):
        shift = 8 - bits
        inside, scale, narrow = narrower(codes, torch.tensor([0.5]), spec, bits)
        whole = codes.int()
        # Half to even as an addition and a shift: one less than half, plus the bit that stays last.
        even = (whole + (1 << (shift - 1)) - 1 + ((whole >> shift) & 1)) >> shift
        assert torch.equal(inside, even.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1).float())
        assert torch.as_tensor(scale).item() == 0.5 * (1 << shift)
        assert narrow.format == Integer(bits, signed=True)
        assert (narrow.parts.nested if narrow.parts else ()) == tuple(width for width in (4, 2) if width < bits)
    with pytest.raises(SpecError, match="no model of 5 bits"):
        narrower(codes, torch.tensor([0.5]), spec, 5)


def test_rounding_twice_loses_little_and_truncating_much() -> None:
    x = noise(1, 20_000)
    spec = QuantSpec.parse("int8 sym block=(1,-1) scale=f32 nested=4")
    scale, _ = choose_qparams(x, spec)
    codes = quantize(x, scale, None, spec)
    inside, wide, narrow = narrower(codes, scale, spec, 4)
    twice = (dequantize(inside, wide, None, narrow) - x).square().mean()
    once = (dequantize(quantize(x, wide, None, narrow), wide, None, narrow) - x).square().mean()
    floored = (dequantize((codes / 16).floor(), wide, None, narrow) - x).square().mean()
    assert float(twice) < 1.02 * float(once)
    assert float(floored) > 2.5 * float(once)


@given(
    symmetric=st.booleans(),
    along=st.sampled_from([0, 1]),
    scale=st.sampled_from(["f32", "e8m0"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
def test_segments_are_quantized_as_if_alone(symmetric: bool, along: int, scale: str, seed: int) -> None:
    sign = ("sym", "int") if symmetric else ("asym", "uint")
    block = "(1,3)" if along else "(3,1)"
    words = f"{sign[0]} block={block} scale={scale}"
    spec = QuantSpec.parse(f"{sign[1]}4 {words} along={along} segments=6*{sign[1]}2,5*{sign[1]}4")
    x = noise(*((4, 11) if along else (11, 4)), seed=seed)
    scales, zero = choose_qparams(x, spec)
    codes = quantize(x, scales, zero, spec)
    whole = dequantize(codes, scales, zero, spec)
    for bits, part, parted in zip((2, 4), x.split([6, 5], along), whole.split([6, 5], along), strict=True):
        alone = QuantSpec.parse(f"{sign[1]}{bits} {words}")
        qparams = choose_qparams(part, alone)
        assert torch.equal(parted, dequantize(quantize(part, *qparams, alone), *qparams, alone))
    with pytest.raises(SpecError, match="segments"):
        choose_qparams(noise(20, 20), spec)


def test_a_codebook_nests_by_its_upper_bits() -> None:
    spec = QuantSpec.parse("codebook4 sym block=(1,-1) scale=f16 table=f16(-1,-1) nested=3")
    codes, _, narrow = narrower(torch.arange(16.0)[None], torch.ones(1, 1), spec, 3)
    assert codes[0].tolist() == [index // 2 for index in range(16)]
    assert str(narrow) == "codebook3 sym block=(1,-1) scale=f16 table=f16(-1,-1)"


# --- complex units ---


def complex_noise(*shape: int) -> torch.Tensor:
    return torch.complex(noise(*shape), noise(*shape, seed=1))


def test_units_follow_the_phase_and_turn_with_it() -> None:
    x = complex_noise(1000)
    codes = COMPLEX_UNITS.encode(x)
    wanted = torch.remainder(torch.floor(torch.angle(x) / (torch.pi / 2) + 0.5), 4).int()
    assert torch.equal(codes, wanted)
    assert torch.equal(COMPLEX_UNITS.encode(x * 1j), (codes + 1) % 4)
    assert torch.equal(COMPLEX_UNITS.encode(COMPLEX_UNITS.decode(codes)), codes)
    diagonal = torch.tensor([1 + 1j, -1 + 1j, -1 - 1j, 1 - 1j, 0])
    assert COMPLEX_UNITS.encode(diagonal).tolist() == [1, 2, 3, 0, 0]
    assert bool(COMPLEX_UNITS.round(torch.tensor([complex(math.nan, 1)])).isnan().all())


def test_complex_weights_keep_what_two_signs_keep() -> None:
    x = complex_noise(20_000)
    units = quantize_complex(x)
    scale = complex_scale(x)
    assert float(scale.real) == pytest.approx(1.125, abs=0.02)
    error = (dequantize_complex(units, scale) - x).abs().square().mean() / 2
    assert float(error) == pytest.approx(0.363, abs=0.01)
    real, imaginary = ternary_planes(units)
    assert torch.equal((real != 0) ^ (imaginary != 0), torch.ones_like(real, dtype=torch.bool))
    with pytest.raises(InputError, match="complex numbers"):
        complex_scale(noise(3))


def test_the_real_matrix_computes_the_conjugate_product() -> None:
    units, scale = quantize_complex(complex_noise(3, 5)), torch.tensor(1.5 + 0.5j)
    x = torch.complex(noise(5, seed=2), noise(5, seed=3))
    stacked = real_matrix(units, scale) @ torch.cat([x.real, x.imag])
    wanted = dequantize_complex(units, scale) @ x.conj()
    assert torch.allclose(stacked, torch.cat([wanted.real, wanted.imag]), atol=1e-5)


# --- searches ---


def samples(kind: str) -> torch.Tensor:
    generator = np.random.default_rng(0)
    draw = {
        "gauss": lambda: generator.standard_normal((16, 1024)),
        "laplace": lambda: generator.laplace(size=(16, 1024)),
        "uniform": lambda: generator.uniform(-1, 1, (16, 1024)),
        "student": lambda: generator.standard_t(3, (16, 1024)),
    }[kind]
    return torch.from_numpy(draw()).float()


@pytest.mark.parametrize(
    ("kind", "name"),
    [("gauss", "fp4e2m1"), ("laplace", "fp4e2m1"), ("uniform", "fp4e1m2"), ("student", "fp4e3m0")],
)
def test_the_search_gives_each_distribution_its_float(kind: str, name: str) -> None:
    assert best_minifloat(samples(kind), 4).format.name == name


def test_the_power_grid_bends_with_the_tail() -> None:
    exponents = [
        float(best_power(samples(kind)[:4], 4, rounds=8).format.name[5:]) for kind in ("uniform", "gauss", "student")
    ]
    assert exponents[0] > 0.95
    assert 0.6 < exponents[1] < 0.95
    assert exponents[2] < 0.6


def test_a_searched_scale_is_never_worse_than_the_full_range() -> None:
    x = samples("student")
    for number in (FP4_E2M1, Integer(4, signed=True, narrow=True), Logarithmic(4, signed_values=True), twin_log(4, 10)):
        scale, error = best_scale(x, number)
        full = x.abs().amax(1) / number.highest
        plain = (number.round(x / full[:, None]) * full[:, None] - x).square().mean(1)
        assert bool((error <= plain * (1 + 1e-6)).all())
        reached = (number.round(x / scale[:, None]) * scale[:, None] - x).square().mean(1)
        assert torch.allclose(reached, error)


def test_weights_steer_the_search_and_zero_rows_survive() -> None:
    x = torch.tensor([[0.1, -0.2, 0.3, 8.0], [0.0, 0.0, 0.0, 0.0]])
    weight = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    clipped, _ = best_scale(x, Integer(4, signed=True), weight)
    free, error = best_scale(x, Integer(4, signed=True))
    assert float(clipped[0]) < float(free[0])
    assert free[1] == 1
    assert error[1] == 0


def test_searches_need_candidates() -> None:
    assert [number.name for number in minifloats(4)] == ["fp4e1m2", "fp4e2m1", "fp4e3m0"]
    with pytest.raises(SpecError):
        minifloats(9)
    with pytest.raises(SpecError):
        best_format(noise(1, 4), [])
    with pytest.raises(SpecError):
        best_scale(noise(1, 4), FP4_E2M1, clips=())


# --- power-of-two scales ---


@pytest.mark.parametrize(
    ("name", "largest_exponent"),
    [("fp4e2m1", 2), ("fp6e2m3", 2), ("fp6e3m2", 4), ("fp8e4m3", 8), ("fp8e5m2", 15), ("int8", 6)],
)
def test_power_of_two_scales_follow_the_standard(name: str, largest_exponent: int) -> None:
    spec = QuantSpec.parse(f"{name} sym block=(1,32) scale=e8m0")
    x = noise(4, 64) * torch.tensor([[1e-6], [1.0], [0.0], [3e4]])
    x[1, :32] = torch.tensor([0.5, 1.0, -2.0, 3.999]).repeat(8)
    scale, _ = choose_qparams(x, spec)
    top = x.reshape(4, 2, 32).abs().amax(-1)
    wanted = torch.where(top == 0, 1.0, torch.exp2(torch.floor(torch.log2(top)) - largest_exponent))
    assert torch.equal(torch.as_tensor(scale), wanted)
    assert float(torch.as_tensor(scale)[1, 0]) == 2.0 ** (1 - largest_exponent)


def test_one_bit_integers_have_a_finite_scale() -> None:
    spec = QuantSpec.parse("int1 sym block=(1,-1) scale=f32")
    scale, _ = choose_qparams(torch.tensor([[-0.5, 0.2]]), spec)
    assert torch.as_tensor(scale).item() == 0.5
    assert quantize(torch.tensor([[-0.5, 0.2]]), scale, None, spec).tolist() == [[-1, 0]]


@pytest.mark.parametrize(
    ("name", "decibels"),
    [("mxfp4", 18.8), ("mxfp8", 30.6), ("mxfp8_e5m2", 25.5), ("nvfp4", 20.5), ("w4a16g32_sym", 20.3)],
)
def test_block_formats_keep_what_they_are_known_to_keep(name: str, decibels: float) -> None:
    number = parse_scheme(name).weight
    assert number is not None
    spec = number.spec(2, 0, 1)
    x = noise(256, 256)
    scale, zero = choose_qparams(x, spec)
    error = dequantize(quantize(x, scale, zero, spec), scale, zero, spec) - x
    assert 20 * math.log10(float(x.norm() / error.norm())) == pytest.approx(decibels, abs=0.3)
