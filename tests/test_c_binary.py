"""Products of signs in generated C, on every level, equal sums of products of 1 and -1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.binary_packing import (
    bit_rows,
    bits_of_rows,
    border_corrections,
    chained,
    packed_planes,
    packed_signs,
    sign_thresholds,
    unpacked_planes,
    unpacked_signs,
)
from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.kernels.row import Blocked
from qcompiler.backends.reference.arithmetic import fused_multiply_add
from tests.c_harness import Case, run_kernel

KERNEL = MICRO_KERNELS["gemm_b1"]
CODES, REALS, REALS_BIASED, CODES_BIASED, INT32, SIGNS = range(6)


def act_dtype(isa: Isa) -> type:
    return np.uint8 if LEVELS[isa].architecture == "x86" else np.int8


def signs(bits: np.ndarray) -> np.ndarray:
    return 1 - 2 * bits.astype(np.int64)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Rows, columns, taps, depth."""
    return (
        draw(st.integers(1, 21)),
        draw(st.sampled_from([1, 3, 4, 8, 31, 33, 64, 65, 150])),
        draw(st.sampled_from([1, 1, 3, 9])),
        draw(st.sampled_from([1, 5, 63, 64, 65, 128, 192, 300])),
    )


def make_case(layout: Blocked, shape: tuple[int, int, int, int], seed: int) -> tuple[dict[str, object], np.ndarray]:
    """Arguments without result and epilogue, and the sums that are expected."""
    rows, columns, taps, depth = shape
    random = np.random.default_rng(seed)
    words = -(-depth // 64)
    width, inner, outer = (int(number) for number in random.integers(1, (rows + 2, words + 3, 20)))
    offsets = random.integers(0, 12, taps)
    places = (np.arange(rows) // width * outer + np.arange(rows) % width * inner)[:, None] + offsets
    words_of = random.integers(0, 2, (int(places.max()) + words, 64))
    # Whatever lies behind the signs of a tap must be zero, so every word keeps as many as fit all its uses.
    words_of[:, depth % 64 if depth % 64 else 64 :] = 0
    used = words_of[places[..., None] + np.arange(words)].reshape(rows, taps, -1)
    weight = random.integers(0, 2, (columns, taps, depth))
    total = np.einsum("mtk,ntk->mn", signs(used[:, :, :depth]), signs(weight))
    patterns = random.integers(0, 2, (4, taps)).astype(bool)
    correction, pattern = border_corrections(weight, patterns), random.integers(0, 4, rows, dtype=np.uint16)
    case: dict[str, object] = {
        "input": bit_rows(words_of.reshape(-1)),
        "width": width,
        "inner_stride": inner * 8,
        "outer_stride": outer * 8,
        "offsets": (offsets * 8).astype(np.int32),
        "weight": packed_signs(weight, layout),
        "columns": columns,
        "taps": taps,
        "depth": depth,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "chained": int(chained(layout)),
        "correction": correction,
        "pattern": pattern,
    }
    return case, total - correction[pattern]


def with_epilogue(isa: Isa, case: dict[str, object], sums: np.ndarray, finish: int, seed: int) -> np.ndarray:
    """Adds the epilogue to the arguments; what is expected of it."""
    random = np.random.default_rng(seed)
    rows, columns = sums.shape
    wide = -(-columns // 8) * 8
    info = np.iinfo(act_dtype(isa))
    bias = random.integers(-50, 50, wide, dtype=np.int32)
    factor, float_bias = random.random(wide).astype(np.float32), random.standard_normal(wide).astype(np.float32)
    low, high, zero, scale = float(max(info.min, -100)), 100.0, 3.0, np.float32(0.3)
    dtype = {CODES: act_dtype(isa), CODES_BIASED: act_dtype(isa), INT32: np.int32}.get(finish, np.float32)
    case |= {
        "out": np.zeros((rows, columns + 2), dtype),
        "out_stride": columns + 2,
        "epilogue.finish": finish,
        "epilogue.bias": bias,
        "epilogue.factor": factor,
        "epilogue.float_bias": float_bias,
        "epilogue.zero_point": zero,
        "epilogue.low": low,
        "epilogue.high": high,
        "epilogue.scale": float(scale),
    }
    total = (sums + bias[:columns]).astype(np.int32)
    if finish == INT32:
        return total
    reals = total.astype(np.float32) * factor[:columns]
    if finish in (REALS_BIASED, CODES_BIASED):
        reals = reals + float_bias[:columns]
    if finish in (REALS, REALS_BIASED):
        return reals
    steps = reals / scale if finish == CODES_BIASED else reals
    return np.clip(np.round(steps) + np.float32(zero), low, high)


def with_threshold(case: dict[str, object], sums: np.ndarray, seed: int) -> np.ndarray:
    """Adds thresholds to the arguments; the words that are expected."""
    random = np.random.default_rng(seed)
    columns = sums.shape[1]
    limit = int(np.abs(sums).max()) + 1
    threshold = random.integers(-limit, limit + 1, -(-columns // 8) * 8, dtype=np.int32)
    flip = random.integers(0, 2, columns)
    expected = bit_rows((sums < threshold[:columns]) ^ flip.astype(bool))
    case |= {
        "out": np.full(expected.shape, 255, np.uint8),
        "out_stride": expected.shape[1],
        "threshold": threshold,
        "flip": bit_rows(flip),
    }
    return expected


def case_of(isa: Isa, shape: tuple[int, int, int, int], finish: int, seed: int) -> tuple[Case, np.ndarray]:
    """Arguments and what is expected, in the first columns of the result."""
    case, sums = make_case(KERNEL.layout(isa), shape, seed)
    if finish == SIGNS:
        expected = with_threshold(case, sums, seed)
    else:
        expected = with_epilogue(isa, case, sums, finish, seed)
    return case, expected  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
@given(drawn=st.lists(shapes(), min_size=4, max_size=4), finish=st.sampled_from(range(6)), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_equals_its_meaning(isa: Isa, drawn: list[tuple[int, int, int, int]], finish: int, seed: int) -> None:
    pairs = [case_of(isa, shape, finish, seed + i) for i, shape in enumerate(drawn)]
    found = run_kernel("gemm_b1", isa, [case for case, _ in pairs], [(0, shape[0]) for shape in drawn])
    for result, (_, expected) in zip(found, pairs, strict=True):
        np.testing.assert_array_equal(result[:, : expected.shape[1]], expected)
        assert not result[:, expected.shape[1] :].any()


@pytest.mark.parametrize("isa", [Isa.PORTABLE, Isa.AVX2, Isa.AVX512], ids=lambda isa: isa.value)
def test_nothing_outside_is_touched(isa: Isa) -> None:
    case, expected = case_of(isa, (11, 70, 3, 65), SIGNS, 1)
    (found,) = run_kernel("gemm_b1", isa, [case], [(0, 11)], sanitize=True)
    np.testing.assert_array_equal(found, expected)


def test_portable_reads_the_layout_of_every_level() -> None:
    for layout in {*KERNEL.layouts.values()}:
        case, sums = make_case(layout, (3, 21, 3, 150), 5)
        expected = with_threshold(case, sums, 5)
        (found,) = run_kernel("gemm_b1", Isa.PORTABLE, [case], [(0, 3)])  # pyright: ignore[reportArgumentType]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
def test_a_range_of_rows_writes_no_other(isa: Isa) -> None:
    case, expected = case_of(isa, (20, 70, 1, 96), INT32, 3)
    (found,) = run_kernel("gemm_b1", isa, [case], [(6, 17)])
    np.testing.assert_array_equal(found[6:17, :70], expected[6:17])
    assert not found[:6].any()
    assert not found[17:].any()


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
@pytest.mark.parametrize("differ", [0, 1])
def test_the_longest_sum_is_counted(isa: Isa, differ: int) -> None:
    layout = KERNEL.layout(isa)
    case, _ = make_case(layout, (2, 5, 8, 4096), 0)
    case["input"] = np.full_like(case["input"], 0 if differ else 255)
    case["weight"] = packed_signs(np.ones((5, 8, 4096), np.int64), layout)
    case["correction"] = np.zeros_like(case["correction"])
    expected = with_epilogue(isa, case, np.full((2, 5), 32768 * (1 - 2 * differ)), INT32, 0)
    (found,) = run_kernel("gemm_b1", isa, [case], [(0, 2)])  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(found[:, :5], expected)


@pytest.mark.parametrize("isa", list(MICRO_KERNELS["pack_bits"].variants), ids=lambda isa: isa.value)
@given(rows=st.integers(1, 5), channels=st.integers(1, 200), codes=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=8)
def test_activations_become_signs(isa: Isa, rows: int, channels: int, codes: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    info = np.iinfo(act_dtype(isa))
    flip = random.integers(0, 2, channels)
    if codes:
        x = random.integers(info.min, info.max + 1, (rows, channels + 3), dtype=act_dtype(isa))
        threshold = random.integers(info.min, info.max + 1, channels, dtype=act_dtype(isa))
        given_ = {"codes": x, "code_threshold": threshold}
    else:
        x = random.choice([0.0, -0.0, np.nan, 1.5, -1.5, -1e-45, np.inf, -np.inf, 0.25], (rows, channels + 3))
        threshold = random.choice([0.0, 0.25, -1.5], channels).astype(np.float32)
        given_ = {"reals": x.astype(np.float32), "threshold": threshold}
    expected = bit_rows((x[:, :channels] < threshold) ^ flip.astype(bool))
    out = np.full(expected.shape, 255, np.uint8)
    case = given_ | {"stride": channels + 3, "channels": channels, "flip": bit_rows(flip)}
    case |= {"out": out, "out_stride": bit_rows(flip).nbytes}
    (found,) = run_kernel("pack_bits", isa, [case], [(0, rows)])
    np.testing.assert_array_equal(found, expected)


@st.composite
def plane_cases(draw: st.DrawFn) -> dict[str, int]:
    names = ("input_planes", "weight_planes")
    found = {name: draw(st.integers(1, 4)) for name in names}
    return found | {name: draw(st.integers(0, 1)) for name in ("input_signs", "weight_signs")}


def make_planes(
    isa: Isa, shape: tuple[int, int, int], planes: dict[str, int], seed: int
) -> tuple[dict[str, object], np.ndarray]:
    """Arguments without result and epilogue, and sums of every pair of planes, [planes of w, planes of a, M, N]."""
    rows, columns, depth = shape
    random = np.random.default_rng(seed)
    layout = MICRO_KERNELS["gemm_bits"].layout(isa)
    bits = {
        name: random.integers(0, 2, (planes[f"{name}_planes"], count, 2, depth))
        for name, count in (("input", rows), ("weight", columns))
    }
    values = {name: signs(given) if planes[f"{name}_signs"] else given for name, given in bits.items()}
    powers = 2 ** np.arange(4)
    factors = {name: np.where(np.arange(4) == len(given) - 1, -powers, powers) for name, given in bits.items()}
    pixels = bit_rows(bits["input"])
    tap = pixels.shape[-1]
    decoded = np.einsum("intk,i->n", values["weight"], factors["weight"][: len(bits["weight"])])
    case: dict[str, object] = {
        "input": pixels,
        "plane_stride": rows * 2 * tap,
        "width": rows,
        "inner_stride": 2 * tap,
        "offsets": np.array([0, tap], np.int32),
        "weight": packed_planes(bits["weight"], layout),
        "columns": columns,
        "taps": 2,
        "depth": depth,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "chained": int(chained(layout)),
        **planes,
        **{f"{name}_factor[{i}]": int(value) for name in factors for i, value in enumerate(factors[name])},
        "weight_sum": np.pad(decoded, (0, -columns % 16)).astype(np.int32),
        "out": np.zeros((rows, columns), np.int32),
        "out_stride": columns,
    }
    return case, np.einsum("jmtk,intk->ijmn", values["input"], values["weight"])


@pytest.mark.parametrize("isa", list(MICRO_KERNELS["gemm_bits"].variants), ids=lambda isa: isa.value)
@given(
    shape=st.tuples(st.integers(1, 10), st.integers(1, 40), st.sampled_from([1, 64, 70, 200])),
    planes=plane_cases(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=10)
def test_planes_add_up_to_a_product_of_numbers(
    isa: Isa, shape: tuple[int, int, int], planes: dict[str, int], seed: int
) -> None:
    case, sums = make_planes(isa, shape, planes, seed)
    factors = [np.array([case[f"{name}_factor[{i}]"] for i in range(4)]) for name in ("weight", "input")]
    total = np.einsum("ijmn,i,j->mn", sums, factors[0][: sums.shape[0]], factors[1][: sums.shape[1]])
    bias = np.random.default_rng(seed).integers(-99, 99, 48, dtype=np.int32)
    case |= {"epilogue.finish": INT32, "epilogue.bias": bias}
    (found,) = run_kernel("gemm_bits", isa, [case], [(0, shape[0])])  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(found, total + bias[: shape[1]])


@pytest.mark.parametrize("isa", list(MICRO_KERNELS["gemm_bits"].variants), ids=lambda isa: isa.value)
@given(planes=plane_cases(), columns=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=6)
def test_planes_of_signs_have_factors_in_float(isa: Isa, planes: dict[str, int], columns: int, seed: int) -> None:
    rows, random = 5, np.random.default_rng(seed)
    case, sums = make_planes(isa, (rows, columns, 100), planes | {"input_signs": 1, "weight_signs": 1}, seed)
    scale = random.standard_normal((len(sums), columns + -columns % 16)).astype(np.float32)
    input_scale, bias = (random.standard_normal(size).astype(np.float32) for size in (4, columns))
    case |= {"out": np.zeros((rows, columns), np.float32), "weight_scale": scale, "epilogue.finish": REALS_BIASED}
    case |= {"epilogue.float_bias": bias, **{f"input_scale[{j}]": float(input_scale[j]) for j in range(4)}}
    real = torch.zeros(rows, columns)
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            factor = torch.from_numpy(scale[i, :columns] * input_scale[j])
            real = fused_multiply_add(torch.from_numpy(sums[i, j]).float(), factor, real)
    (found,) = run_kernel("gemm_bits", isa, [case], [(0, rows)])  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(found, real.numpy() + bias)


@given(seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_thresholds_are_where_an_affine_map_turns_negative(seed: int) -> None:
    random = np.random.default_rng(seed)
    terms = int(random.integers(1, 300))
    factor = (random.standard_normal(9) * 10.0 ** random.integers(-3, 3)).astype(np.float32)
    bias = (random.standard_normal(9) * 10.0 ** random.integers(-3, 4)).astype(np.float32)
    factor[:2] = 0
    bias[2] = -17 * factor[2]
    factor[3], bias[3] = 1e-45, 0
    limit = np.float32(random.choice([0.0, -1.0, 0.5, -3e-45]))
    threshold, flip = sign_thresholds(factor, bias, terms, float(limit))
    sums = np.arange(-terms, terms + 1, dtype=np.int32)[:, None]
    less = sums.astype(np.float32) * factor + bias < limit
    np.testing.assert_array_equal((sums < threshold) ^ flip.astype(bool), less)


@given(shape=shapes(), planes=st.integers(1, 4), layout=st.sampled_from(sorted({*KERNEL.layouts.values()}, key=str)))
@settings(deadline=None, max_examples=15)
def test_packing_of_planes_has_an_inverse(shape: tuple[int, int, int, int], planes: int, layout: Blocked) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (planes, *shape[1:]), dtype=np.uint8)
    np.testing.assert_array_equal(unpacked_planes(packed_planes(bits, layout), layout, bits.shape), bits)


@given(shape=shapes(), layout=st.sampled_from(sorted({*KERNEL.layouts.values()}, key=str)))
@settings(deadline=None, max_examples=25)
def test_packing_has_an_inverse(shape: tuple[int, int, int, int], layout: Blocked) -> None:
    bits = np.random.default_rng(0).integers(0, 2, shape[1:], dtype=np.uint8)
    np.testing.assert_array_equal(unpacked_signs(packed_signs(bits, layout), layout, bits.shape), bits)
    np.testing.assert_array_equal(bits_of_rows(bit_rows(bits), shape[3]), bits)
