from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import InputError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program
from qcompiler.measure import LIMIT_DB, limit_samples, measure_layers, sqnr_db

FLOAT = """
dim s0 = 4 in 1..
program @two stage=canonical {
  input %x : f32[s0,8]
  param %w : f32[6,8] = normal(seed=1)
  param %v : f32[3,6] = normal(seed=2)
  %first = aten.linear %x, %w, none : f32[s0,6]
  %relu = aten.relu %first : f32[s0,6]
  %second = aten.linear %relu, %v, none : f32[s0,3]
  return %second
}
"""

QUANTIZED = """
spec @a = uint8 asym block=(-1,-1) scale=f32
spec @w = int4 sym block=(-1,-1) scale=f32
dim s0 = 4 in 1..
program @two stage=quantized {
  input %x : f32[s0,8]
  param %w : f32[6,8] = normal(seed=1)
  param %v : f32[3,6] = normal(seed=2)
  param %ws : f32[1,1] = values(0.5)
  param %xs : f32[1,1] = values(0.05)
  param %xz : f32[1,1] = values(128)
  %xq = qc.quantize %x, %xs, %xz : @a[s0,8]
  %xd = qc.dequantize %xq, %xs, %xz : f32[s0,8]
  %wq = qc.quantize %w, %ws, none : @w[6,8]
  %wd = qc.dequantize %wq, %ws, none : f32[6,8]
  %first = aten.linear %xd, %wd, none : f32[s0,6]
  %relu = aten.relu %first : f32[s0,6]
  %second = aten.linear %relu, %v, none : f32[s0,3]
  return %second
}
"""


@pytest.fixture
def programs() -> tuple[Program, Program]:
    return parse_program(FLOAT), parse_program(QUANTIZED)


@pytest.fixture
def batch() -> list[torch.Tensor]:
    return [torch.randn(5, 8, generator=torch.Generator().manual_seed(0))]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 200), st.integers(0, 9))
def test_sqnr_of_a_scaled_error_is_the_scale_in_decibels(db: int, count: int, seed: int) -> None:
    x = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 3
    assert sqnr_db(x, x * (1 + 10 ** (-db / 20))) == pytest.approx(db, abs=1e-6)


def test_sqnr_is_summed_in_float64() -> None:
    x = torch.full((1 << 22,), 0.1)
    assert sqnr_db(x, x * 0) == pytest.approx(0.0, abs=1e-9)
    assert sqnr_db(x, x + 0.001) == pytest.approx(40.0, abs=1e-3)


@pytest.mark.parametrize(
    ("reference", "value", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], LIMIT_DB),
        ([0.0, 0.0], [0.0, 0.0], LIMIT_DB),
        ([0.0, 0.0], [0.0, 1.0], -LIMIT_DB),
        ([1.0, 2.0], [1.0, math.nan], -LIMIT_DB),
        ([1.0, 2.0], [1.0, math.inf], -LIMIT_DB),
        ([3.0, -math.inf, math.nan], [3.3, -math.inf, math.nan], 20.0),
        ([], [], LIMIT_DB),
    ],
)
def test_sqnr_is_always_a_number(reference: list[float], value: list[float], expected: float) -> None:
    assert sqnr_db(torch.tensor(reference), torch.tensor(value)) == pytest.approx(expected, abs=1e-4)


def test_sqnr_refuses_other_shapes() -> None:
    with pytest.raises(InputError, match="shape"):
        sqnr_db(torch.zeros(2), torch.zeros(1, 2))


def test_layers_are_measured_in_the_quantized_stream(
    programs: tuple[Program, Program], batch: list[torch.Tensor]
) -> None:
    values: dict[str, dict[str, torch.Tensor]] = {}
    for program in programs:
        seen = values.setdefault(program.stage, {})
        evaluate(program, batch, observe=lambda node, value, seen=seen: seen.update({node.name: value}))
    measured = measure_layers(*programs, [batch])
    for name in ("first", "relu", "second"):
        wanted = sqnr_db(values["canonical"][name], values["quantized"][name])
        assert measured.layers[name].sqnr_db == pytest.approx(wanted)
    assert measured.output_sqnr_db == pytest.approx(measured.layers["second"].sqnr_db)


def test_only_layers_that_read_quantized_operands_have_own_noise(
    programs: tuple[Program, Program], batch: list[torch.Tensor]
) -> None:
    layers = measure_layers(*programs, [batch]).layers
    assert layers["first"].own_noise > 0
    assert layers["first"].share == 1
    assert layers["second"].own_noise == layers["second"].share == 0
    assert layers["second"].sqnr_db < 100


def test_own_noise_starts_from_the_float_stream(batch: list[torch.Tensor]) -> None:
    second = QUANTIZED.replace(
        "%second = aten.linear %relu, %v,",
        """%vq = qc.quantize %v, %ws, none : @w[3,6]
  %vd = qc.dequantize %vq, %ws, none : f32[3,6]
  %second = aten.linear %relu, %vd,""",
    )
    reference = parse_program(FLOAT)
    both = measure_layers(reference, parse_program(second), [batch]).layers
    values: dict[str, torch.Tensor] = {}
    evaluate(reference, batch, observe=lambda node, value: values.update({node.name: value}))
    rounded = (reference.param(reference.node("v")) / 0.5).round().clamp(-8, 7) * 0.5
    alone = sqnr_db(values["second"], values["relu"] @ rounded.T)
    assert -10 * math.log10(both["second"].own_noise) == pytest.approx(alone, abs=1e-4)
    assert both["first"].share + both["second"].share == pytest.approx(1)


def test_rounding_that_is_handed_on_is_counted_once(batch: list[torch.Tensor]) -> None:
    float_text = FLOAT.replace(
        "%first = aten.linear %x,", "%view = aten.neg %x : f32[s0,8]\n  %first = aten.linear %view,"
    )
    text = QUANTIZED.replace(
        "%first = aten.linear %xd,",
        """%view = aten.neg %xd : f32[s0,8]
  %vq = qc.quantize %view, %xs, %xz : @a[s0,8]
  %vd = qc.dequantize %vq, %xs, %xz : f32[s0,8]
  %first = aten.linear %vd,""",
    )
    layers = measure_layers(parse_program(float_text), parse_program(text), [batch]).layers
    assert layers["view"].sqnr_db < 60
    assert layers["view"].own_noise == 0
    assert layers["first"].share == 1


def test_batches_add_up_like_one_batch(programs: tuple[Program, Program], batch: list[torch.Tensor]) -> None:
    whole = measure_layers(*programs, [batch])
    parts = measure_layers(*programs, [[row] for row in batch[0].split(2)])
    assert parts.samples == whole.samples == 5
    assert parts.output_sqnr_db == pytest.approx(whole.output_sqnr_db, abs=1e-4)
    assert parts.layers["first"].own_noise == pytest.approx(whole.layers["first"].own_noise, rel=1e-4)


def test_order_of_operators_may_differ(programs: tuple[Program, Program], batch: list[torch.Tensor]) -> None:
    lines = QUANTIZED.splitlines()
    swapped = FLOAT.replace("  return", "  %late = aten.relu %x : f32[s0,8]\n  return")
    early = QUANTIZED.replace("  %xq", "  %late = aten.relu %x : f32[s0,8]\n  %xq")
    assert len(early.splitlines()) == len(lines) + 1
    found = measure_layers(parse_program(swapped), parse_program(early), [batch])
    plain = measure_layers(*programs, [batch])
    assert found.layers["second"] == plain.layers["second"]
    assert found.layers["late"].sqnr_db == LIMIT_DB


def test_a_batch_is_cut_to_the_samples_wanted(programs: tuple[Program, Program]) -> None:
    batches = [[torch.zeros(5, 8)], [torch.zeros(5, 8)], [torch.zeros(5, 8)]]
    assert [len(batch[0]) for batch in limit_samples(programs[0], batches, 8)] == [5, 3]


def test_a_fixed_batch_is_taken_whole() -> None:
    program = parse_program(FLOAT.replace("s0,", "5,").replace("dim s0 = 4 in 1..\n", ""))
    assert [len(batch[0]) for batch in limit_samples(program, [[torch.zeros(5, 8)]] * 3, 8)] == [5, 5]


def test_no_sample_is_an_error(programs: tuple[Program, Program]) -> None:
    with pytest.raises(InputError, match="no sample"):
        measure_layers(*programs, [])


def test_a_lowered_program_is_measured_at_its_output(batch: list[torch.Tensor]) -> None:
    lowered = parse_program("""
dim s0 = 4 in 1..
program @two stage=lowered {
  input %x : f32[s0,8]
  %second = qc.kernel "double", %x : f32[s0,8]
  return %second
}
""")
    reference = parse_program("""
dim s0 = 4 in 1..
program @two stage=canonical {
  input %x : f32[s0,8]
  %second = aten.mul.Tensor %x, 2.0 : f32[s0,8]
  return %second
}
""")
    measured = measure_layers(reference, lowered, [batch], kernels={"double": lambda x: x * 2.2})
    assert measured.output_sqnr_db == pytest.approx(20, abs=1e-3)
    assert not measured.layers


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_sqnr_of_large_tensors_does_not_depend_on_their_scale(scale: float) -> None:
    x = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)).double()
    noisy = x * 1.001
    assert sqnr_db((x * scale).float(), (noisy * scale).float()) == pytest.approx(60.0, abs=1e-2)
