"""Laws that every entry of FORMATS obeys, and agreement with independent implementations."""

import subprocess
import sys
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qcompiler.errors import SpecError, UnsupportedError
from qcompiler.formats import (
    BINARY,
    BNB_FP4,
    E8M0,
    FORMATS,
    FP4_E1M2,
    FP4_E2M1,
    FP6_E2M3,
    FP6_E3M2,
    FP8_E4M3,
    FP8_E4M3_FNUZ,
    FP8_E5M2,
    FP8_E5M2_FNUZ,
    NF4,
    SCALE_FORMATS,
    TERNARY,
    Codebook,
    Companded,
    Format,
    Integer,
    Logarithmic,
    MiniFloat,
    Table,
    minifloat,
    normal_float,
    parse_format,
    power,
    scale_format,
    twin_log,
)
from qcompiler.formats.grid import Grid
from qcompiler.formats.rounding import round_scale, round_through

ALL = (*FORMATS, E8M0)
GRIDS = tuple(number for number in ALL if number.storage_bits <= 8)
REALS = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=16)

each_format = pytest.mark.parametrize("number", ALL, ids=str)
each_grid = pytest.mark.parametrize("number", GRIDS, ids=str)


def every_interesting_real(number: Format) -> torch.Tensor:
    """Grid values, their midpoints (ties), float32 neighbours of both, and values far outside."""
    values = number.grid().values
    points = torch.cat([values, values[:-1] / 2 + values[1:] / 2]).float()
    far = torch.tensor([3e38, -3e38, torch.inf, -torch.inf, 0.0, -0.0])
    up = torch.nextafter(points, torch.tensor(torch.inf))
    down = torch.nextafter(points, torch.tensor(-torch.inf))
    return torch.cat([points, up, down, far])


@each_format
def test_name_parses_back(number: Format) -> None:
    assert parse_format(number.name) == number
    assert str(number) == number.name


@each_grid
def test_decoding_the_code_of_a_rounded_real_gives_it_back(number: Format) -> None:
    rounded = number.round(every_interesting_real(number))
    codes = number.encode(rounded)
    assert codes.dtype == torch.int32
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 1 << number.storage_bits
    assert torch.equal(number.decode(codes), rounded)


@each_grid
def test_rounding_twice_is_rounding_once(number: Format) -> None:
    rounded = number.round(every_interesting_real(number))
    assert torch.equal(number.round(rounded), rounded)


@each_grid
@given(reals=REALS)
@settings(deadline=None, max_examples=15)
def test_rounding_finds_the_nearest_value(number: Format, reals: list[float]) -> None:
    x = torch.tensor(reals).clamp(-1e30, 1e30)
    values = number.grid().values
    nearest = (x.double()[:, None] - values).abs().amin(-1)
    assert torch.equal((x.double() - number.round(x).double()).abs(), nearest)


@each_grid
@given(reals=REALS)
@settings(deadline=None, max_examples=15)
def test_rounding_keeps_the_order(number: Format, reals: list[float]) -> None:
    rounded = number.round(torch.tensor(reals).sort().values)
    assert bool((rounded.diff() >= 0).all())


@each_grid
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_large_tensors_round_as_the_search_does(number: Format, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, generator=generator) * torch.exp2(torch.randint(-9, 9, (20_000,), generator=generator))
    x = torch.cat([every_interesting_real(number), noise, torch.tensor([torch.nan])]).to(dtype)[:, None]
    grid = number.grid()
    index = grid.index(x[:-1])
    rounded = number.round(x)
    assert torch.equal(rounded[:-1], grid.values[index].to(dtype))
    assert bool(rounded[-1].isnan())
    if float(torch.finfo(dtype).max) > number.highest:
        assert torch.equal(number.encode(rounded[:-1]), grid.codes[index])
    assert torch.equal(grid.encode(x[:-1]), grid.codes[index])


def test_close_thresholds_are_told_apart_in_large_tensors() -> None:
    values = torch.linspace(1, 1 + 2**-6, 6).tolist()
    grid = Grid.from_codes(values)
    x = torch.linspace(0.999, 1.02, 40_000)
    assert torch.equal(grid.round(x), grid.values[grid.index(x)].float())
    dense = Grid.from_codes(torch.linspace(1, 1 + 2**-6, 64).tolist())
    assert torch.equal(dense.round(x), dense.values[dense.index(x)].float())


@pytest.mark.parametrize("number", [number for number in GRIDS if number is not E8M0], ids=str)
def test_ties_go_to_the_even_code(number: Format) -> None:
    grid = number.grid()
    for low, high in pairwise(grid.values.tolist()):
        # Only a middle that float32 holds is a tie.
        middle = torch.tensor([low / 2 + high / 2])
        if float(middle) == low / 2 + high / 2:
            codes = number.encode(torch.tensor([low, high]))
            even = [value for value, code in zip((low, high), codes.tolist(), strict=True) if code % 2 == 0]
            assert float(number.round(middle)) == (even[0] if len(even) == 1 else low)


@each_format
def test_rounding_saturates(number: Format) -> None:
    rounded = number.round(torch.tensor([3e38, torch.inf, -torch.inf], dtype=torch.float64))
    assert rounded.tolist() == [number.highest, number.highest, number.lowest]


@each_format
def test_rounding_keeps_nan_and_dtype(number: Format) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        rounded = number.round(torch.tensor([torch.nan, 1.0], dtype=dtype))
        assert rounded.dtype == dtype
        assert bool(rounded[0].isnan())
        assert not bool(rounded[1].isnan())


@each_grid
def test_limits_are_those_of_the_grid(number: Format) -> None:
    values = number.grid().values
    assert (number.lowest, number.highest) == (float(values[0]), float(values[-1]))
    assert number.signed == bool(values[0] < 0)
    assert len(values) <= 1 << number.storage_bits
    assert number.is_integer == (values.tolist() == list(range(int(values[0]), int(values[0]) + len(values))))


@pytest.mark.parametrize(
    "number", [number for number in FORMATS if isinstance(number, Integer) and number.bits <= 16], ids=str
)
def test_integer_arithmetic_equals_its_grid(number: Integer) -> None:
    grid = number.grid()
    x = every_interesting_real(number)
    rounded = number.round(x)
    assert torch.equal(rounded, grid.round(x))
    assert torch.equal(number.encode(rounded), grid.encode(rounded))
    codes = number.encode(rounded)
    assert torch.equal(number.decode(codes), grid.decode(codes))


@pytest.mark.parametrize(
    ("number", "peer"),
    [
        (FP8_E4M3, ml_dtypes.float8_e4m3fn),
        (FP8_E5M2, ml_dtypes.float8_e5m2),
        (FP6_E2M3, ml_dtypes.float6_e2m3fn),
        (FP6_E3M2, ml_dtypes.float6_e3m2fn),
        (FP4_E2M1, ml_dtypes.float4_e2m1fn),
        (E8M0, ml_dtypes.float8_e8m0fnu),
        (FP8_E4M3_FNUZ, ml_dtypes.float8_e4m3fnuz),
        (FP8_E5M2_FNUZ, ml_dtypes.float8_e5m2fnuz),
        (minifloat(4, 3, "fnuz", bias=11), ml_dtypes.float8_e4m3b11fnuz),
        (minifloat(4, 3, "ieee"), ml_dtypes.float8_e4m3),
        (minifloat(3, 4, "ieee"), ml_dtypes.float8_e3m4),
    ],
    ids=str,
)
def test_small_floats_agree_with_ml_dtypes_bit_for_bit(number: Format, peer: type) -> None:
    codes = np.arange(1 << number.storage_bits, dtype=np.uint8)
    decoded = number.decode(torch.from_numpy(codes)).numpy()
    peer_values = codes.view(peer).astype(np.float32)
    finite = np.isfinite(peer_values)
    np.testing.assert_array_equal(decoded[finite], peer_values[finite])
    assert not np.isfinite(decoded[~finite]).any()

    generator = np.random.default_rng(0)
    noise = generator.standard_normal(4096) * np.exp2(generator.integers(-12, 9, 4096))
    x = np.concatenate([every_interesting_real(number).numpy(), noise.astype(np.float32)])
    # ml_dtypes rounds subnormal float32 up to the first normal power of two, which is not the nearest one.
    lowest = 2.0**-126 if number is E8M0 else number.lowest
    x = np.clip(x, lowest, number.highest)
    rounded = x.astype(peer)
    np.testing.assert_array_equal(number.round(torch.from_numpy(x)).numpy(), rounded.astype(np.float32))
    nonzero = rounded.astype(np.float32) != 0
    ours = number.encode(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(ours[nonzero], rounded.view(np.uint8)[nonzero])


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (FP8_E4M3, TensorProto.FLOAT8E4M3FN),
        (FP8_E4M3_FNUZ, TensorProto.FLOAT8E4M3FNUZ),
        (FP8_E5M2, TensorProto.FLOAT8E5M2),
        (FP8_E5M2_FNUZ, TensorProto.FLOAT8E5M2FNUZ),
        (FP4_E2M1, TensorProto.FLOAT4E2M1),
    ],
    ids=str,
)
def test_small_floats_agree_with_the_onnx_cast(number: Format, kind: int) -> None:
    generator = np.random.default_rng(0)
    x = np.concatenate([every_interesting_real(number).numpy(), generator.standard_normal(500).astype(np.float32)])
    # The reference turns infinity into infinity where there is one; rounding here always saturates.
    x = np.clip(x, -3e38, 3e38)
    nodes = [
        helper.make_node("Cast", ["x"], ["small"], to=kind, saturate=1),
        helper.make_node("Cast", ["small"], ["y"], to=TensorProto.FLOAT),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs))
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(number.round(torch.from_numpy(x)).numpy(), wanted)


@given(exponent=st.integers(1, 6), mantissa=st.integers(0, 6), bias=st.integers(-30, 60), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_any_minifloat_rounds_as_its_grid(exponent: int, mantissa: int, bias: int, seed: int) -> None:
    number = MiniFloat(exponent, min(mantissa, 7 - exponent), bias=bias)
    assert parse_format(number.name) == number
    noise = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    x = torch.cat([every_interesting_real(number), noise * number.highest])
    assert torch.equal(number.round(x), number.grid().round(x))


def test_a_bias_moves_all_values_by_a_power_of_two() -> None:
    shifted = minifloat(2, 1, bias=4)
    assert shifted.name == "fp4e2m1b4"
    assert shifted.highest == 6 / 8
    assert torch.equal(shifted.grid().values, FP4_E2M1.grid().values / 8)
    assert minifloat(2, 1, bias=1) == FP4_E2M1
    assert parse_format("fp4e2m1b-3").highest == 6 * 16
    with pytest.raises(SpecError, match="reaches"):
        minifloat(4, 3, bias=-100)


def test_one_exponent_bit_is_the_even_grid() -> None:
    steps = FP4_E1M2.grid().values * 2 ** (FP4_E1M2.exponent_bias + 1)
    assert steps.tolist() == list(range(-7, 8))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("ulog2_4", Logarithmic(4)),
        ("ulogsqrt2_3", Logarithmic(3, step=0.5)),
        ("log2_4", Logarithmic(4, signed_values=True)),
        ("log5s0.3", Logarithmic(5, signed_values=True, step=0.3)),
        ("pow4c0.5", power(4, 0.5)),
        ("twinlog3c12.8", twin_log(3, 12.8)),
        ("fp8e4m3all", MiniFloat(4, 3)),
        ("fp8e5m2fnuz", FP8_E5M2_FNUZ),
        ("codebook4", Codebook(4)),
        ("codebook12d8", Codebook(12, 8)),
    ],
)
def test_families_have_names(text: str, number: Format) -> None:
    assert parse_format(text) == number
    assert str(number) == text


@pytest.mark.parametrize(
    "text",
    [
        *("ulog2_9", "ulog2_8", "log2_2", "log4s0", "log4s1.0", "pow4c5.0", "pow4c1", "pow9c0.5", "twinlog4c0.0"),
        *("codebook17", "codebook4d1", "fp8e4m3nan", "fp4e2m1b1"),
    ],
)
def test_names_outside_a_family_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_format(text)


def test_logarithmic_values_are_powers_and_zero() -> None:
    assert Logarithmic(3).decode(torch.arange(8)).tolist() == [1, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0]
    root = Logarithmic(3, step=0.5).decode(torch.arange(7))
    assert torch.allclose(root[:-1] / root[1:], torch.full((6,), 2**0.5))
    signed = Logarithmic(3, signed_values=True).decode(torch.arange(8))
    assert signed.tolist() == [1, 0.5, 0.25, 0, -1, -0.5, -0.25, 0]


def test_companded_grids_bend_as_their_curve() -> None:
    places = torch.arange(8) / 7
    assert torch.allclose(power(4, 0.5).decode(torch.arange(8)), places.square())
    assert torch.allclose(power(4, 1).decode(torch.arange(8)), places)
    spread = torch.log1p(10 * twin_log(4, 10).decode(torch.arange(8))) / torch.log(torch.tensor(11.0))
    assert torch.allclose(spread, places)
    codes = torch.tensor([9, 15])
    assert torch.equal(power(4, 0.5).decode(codes), -power(4, 0.5).decode(16 - codes))
    assert isinstance(parse_format("pow4c0.5"), Companded)


def test_normal_floats_are_quantiles() -> None:
    wanted = torch.tensor(NF4.values)
    assert torch.allclose(torch.tensor(normal_float(4).values), wanted, atol=3e-7)
    assert parse_format("nf3").lowest == -1
    assert normal_float(2).values[1] == 0
    assert BNB_FP4.decode(torch.arange(8)).mul(12).tolist() == pytest.approx([0, 0.0625, 8, 12, 4, 6, 2, 3])


def test_known_limits() -> None:
    limits = {
        "int8": (-128, 127),
        "int8n": (-127, 127),
        "uint4": (0, 15),
        "int32": (-(2**31), 2**31 - 1),
        "fp8e4m3": (-448, 448),
        "fp8e5m2": (-57344, 57344),
        "fp6e2m3": (-7.5, 7.5),
        "fp6e3m2": (-28, 28),
        "fp4e2m1": (-6, 6),
        "nf4": (-1, 1),
    }
    for name, expected in limits.items():
        number = parse_format(name)
        assert (number.lowest, number.highest) == expected


def test_fp4_values_by_code() -> None:
    values = FP4_E2M1.decode(torch.arange(16)).tolist()
    assert values == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]


def test_signed_codes_are_twos_complement() -> None:
    values = torch.tensor([-8.0, -1.0, 0.0, 7.0])
    assert parse_format("int4").encode(values).tolist() == [8, 15, 0, 7]
    assert TERNARY.encode(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [3, 0, 1]


def test_binary_code_is_the_sign_bit_and_zero_is_one() -> None:
    x = torch.tensor([-3.0, -1e-30, 0.0, -0.0, 2.0])
    assert BINARY.round(x).tolist() == [-1, -1, 1, 1, 1]
    assert BINARY.encode(x).tolist() == [1, 1, 0, 0, 0]


def test_nf4_codes_number_the_sorted_values() -> None:
    assert NF4.encode(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [0, 7, 15]
    assert TERNARY.is_integer
    assert not NF4.is_integer
    assert not BINARY.is_integer


def test_int32_saturates_to_what_float32_holds() -> None:
    number = Integer(32, signed=True)
    rounded = number.round(torch.tensor([3e9, -3e9]))
    assert rounded.tolist() == [2**31 - 128, -(2**31)]
    assert torch.equal(number.decode(number.encode(rounded)), rounded)


def test_wide_integers_stay_inside_narrow_carriers() -> None:
    big = torch.tensor([6e4, 7e4])
    assert Integer(16, signed=False).round(big.half()).tolist() == [6e4, 65504]
    assert Integer(16, signed=True).round(big.bfloat16()).tolist() == [32640, 32640]


def test_int32_has_no_listed_grid() -> None:
    with pytest.raises(UnsupportedError, match="too many values"):
        Integer(32, signed=True).grid()


@pytest.mark.parametrize(
    "text", ["int9", "int0", "uint32", "uint8n", "int1n", "fp8e4m4", "fp9e4m4", "float8", "", "INT8"]
)
def test_a_name_that_is_no_format_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_format(text)


def test_malformed_formats_are_refused() -> None:
    with pytest.raises(SpecError, match="no float format"):
        MiniFloat(0, 3)
    with pytest.raises(SpecError, match="has 1 codes"):
        Table("lonely", (0.0,))
    with pytest.raises(SpecError, match="at least one finite value"):
        Grid.from_codes([torch.nan, torch.inf])


@pytest.mark.parametrize("name", [stored.name for stored in SCALE_FORMATS])
@given(scales=st.lists(st.floats(0, width=32), min_size=1, max_size=8))
@settings(deadline=None, max_examples=25)
def test_stored_scales_are_positive_finite_and_stable(name: str, scales: list[float]) -> None:
    stored = scale_format(name)
    rounded = round_scale(torch.tensor(scales), stored.name)
    assert rounded.dtype == torch.float32
    assert bool((rounded >= stored.smallest).all())
    assert bool((rounded <= stored.largest).all())
    assert torch.equal(round_scale(rounded, stored.name), rounded)


def test_scale_formats_agree_with_torch_dtypes() -> None:
    scales = torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 0.1
    assert torch.equal(round_scale(scales, "f32"), scales)
    assert torch.equal(round_scale(scales, "f16"), scales.half().float())
    assert torch.equal(round_scale(scales, "bf16"), scales.bfloat16().float())
    assert torch.equal(round_scale(scales, "e4m3"), scales.to(torch.float8_e4m3fn).float())
    assert torch.equal(round_scale(scales * 50, "u6"), (scales * 50).round().clamp(1, 63))


def test_rounding_through_is_exact_forward_and_straight_backward() -> None:
    x = torch.tensor([-9.6, -0.3, 0.5, 1.7, 1e-8, 99.0], requires_grad=True)
    rounded = round_through(x, Integer(4, signed=True))
    assert rounded.tolist() == [-8, 0, 0, 2, 0, 7]
    rounded.backward(torch.full_like(x, 3.0))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 3, 3, 3, 3, 0]


def test_naming_formats_and_specs_loads_no_torch() -> None:
    code = (
        "import sys; from qcompiler.formats import FORMATS; "
        "from qcompiler.spec import QuantSpec, parse_scheme; "
        "[str(number) for number in FORMATS]; str(parse_scheme('nvfp4').weight.spec(2)); "
        "QuantSpec.parse('int4 sym block=(1,32) scale=f16'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
