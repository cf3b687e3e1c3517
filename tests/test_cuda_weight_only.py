"""Products with packed weights: every code, tile and epilogue gives what its meaning says, within stated roundings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.arch import ARCHITECTURES
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.weight_only import CODES, Kind, choose_wn
from qcompiler.backends.cuda.weight_only_packing import (
    fields,
    from_kind,
    group_count,
    pack_codes,
    pack_groups,
    pack_scales,
    pack_zeros,
    tensor_scale,
    to_kind,
    unpack_codes,
    unpack_groups,
    unpack_zeros,
)
from qcompiler.errors import InputError, SpecError
from tests.cuda_harness import aligned, run_sanitized
from tests.cuda_weight_only import ROUNDED, W4, Case, instances, launch, make_case

VECTOR = {
    "codebook8d8": 8,
    "codebook16d8": 8,
    "codebook8d4": 4,
    "codebook8d8x2": 4,
    "codebook8d8x4": 2,
    "codebook16d8x2": 4,
    "codebook8d4x2": 2,
}
"""Numbers for a code."""


def close(found: np.ndarray, case: Case, post: bool) -> None:
    assert (np.abs(found - case.expected(post)) <= case.bound(post)).all()


@pytest.mark.parametrize("name", CODES)
@given(columns=st.integers(1, 70), depth=st.integers(1, 20), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_packed_codes_come_back(name: str, columns: int, depth: int, seed: int) -> None:
    bits = max(field.first + field.bits for field in fields(name))
    dimension = VECTOR.get(name, 1)
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (columns, depth * 8 // dimension))
    packed = pack_codes(codes, name)
    assert packed.nbytes == -(-columns // 16) * -(-depth * 8 // 64) * 128 * CODES[name].words
    np.testing.assert_array_equal(unpack_codes(packed, name, columns, depth * 8), codes)


@pytest.mark.parametrize("name", CODES)
def test_fields_fill_the_words_once(name: str) -> None:
    places = [bit for field in fields(name) for bit in range(field.at, field.at + field.bits)]
    assert sorted(places) == list(range(32 * CODES[name].words))


def test_groups_come_back() -> None:
    scale = np.random.default_rng(0).uniform(0.5, 2, (21, 5)).astype(np.float32)
    for kind in ROUNDED:
        stored = from_kind(to_kind(scale, kind), kind)
        packed = pack_groups(scale, kind, 160, 32)
        assert packed.shape == (2, 6, 8, 2)
        np.testing.assert_array_equal(unpack_groups(packed, kind, 21, 5), stored)
    zero = np.arange(105).reshape(21, 5)
    np.testing.assert_array_equal(unpack_zeros(pack_zeros(zero, 160, 32), 21, 5), zero)


def test_refuses_what_kernels_cannot_read() -> None:
    with pytest.raises(SpecError, match="no kernel reads"):
        pack_codes(np.zeros((1, 1)), "w5")
    with pytest.raises(SpecError, match="groups of 48"):
        group_count(96, 48)
    with pytest.raises(InputError, match="beyond float16"):
        to_kind(np.array([1e9]), "f16")
    with pytest.raises(InputError, match="scales reach to 0"):
        pack_scales(np.zeros((1, 1)), "w4", "f16", 64, 64)


@pytest.mark.parametrize("name", W4)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 80),
    eights=st.integers(1, 24),
    group=st.sampled_from([32, 64, 128, 4096]),
    splits=st.integers(1, 3),
    zeros=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=3)
def test_tiles_equal_meaning(
    name: str, rows: int, columns: int, eights: int, group: int, splits: int, zeros: bool, seed: int
) -> None:
    post = name.endswith("_post")
    given_case = make_case(
        "w4",
        "f16",
        1 if "_1x" in name else rows,
        columns,
        8 * eights,
        max(group, 64) if post else group,
        seed,
        zeros,
    )
    found = [launch(given_case, W4[name], order=order, splits=splits)[0] for order in (0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    close(found[0], given_case, post)


@pytest.mark.parametrize("kind", ROUNDED)
@pytest.mark.parametrize("name", CODES)
def test_codes_equal_meaning(name: str, kind: Kind) -> None:
    for instance in instances(name, kind):
        post = instance.name.endswith("_post")
        given_case = make_case(name, kind, 5, 37, 328, 64 if post else 16, 3)
        close(launch(given_case, instance)[0], given_case, post)


@pytest.mark.parametrize("name", ["w2", "w3", "w8", "table16"])
def test_symmetric_codes_need_no_zero_points(name: str) -> None:
    for instance in instances(name, "f16"):
        given_case = make_case(name, "f16", 3, 17, 128, 128, 4, zeros=False)
        close(launch(given_case, instance)[0], given_case, instance.name.endswith("_post"))


def test_scales_far_below_one_keep_their_bits() -> None:
    scale = np.random.default_rng(0).uniform(0.5, 2, (3, 4)).astype(np.float32)
    packed = [pack_scales(each, "w4", "f16", 256, 64) for each in (scale, np.ldexp(scale, -60))]
    np.testing.assert_array_equal(packed[0], packed[1])
    assert tensor_scale(np.ldexp(scale, -60), outer=3) == 3 * tensor_scale(scale) * 2.0**-60


@pytest.mark.parametrize("name", ["qc_gemm_w4_f16_8x32_post", "qc_gemm_w4_f16_16x128"])
@pytest.mark.parametrize("rank", [16, 48])
def test_low_rank_branch_is_added(name: str, rank: int) -> None:
    post = name.endswith("_post")
    given_case = make_case("w4", "f16", 5, 40, 192, 64, 6)
    rng = np.random.default_rng(rank)
    low, up = (to_kind(rng.normal(size=(size, rank)).astype(np.float32), "f16") for size in (5, 40))
    sides = [from_kind(bits, "f16").astype(np.float64) for bits in (low, up)]
    for splits in (1, 3):
        found, _ = launch(given_case, W4[name], splits=splits, low=aligned(low), up=aligned(up), rank=rank)
        bound = given_case.bound(post) + 100 * 2.0**-24 * (np.abs(sides[0]) @ np.abs(sides[1]).T)
        assert (np.abs(found - given_case.expected(post) - sides[0] @ sides[1].T) <= bound).all()


def activation(x: np.ndarray, which: int) -> np.ndarray:
    if which == 1:
        return np.maximum(x, 0)
    if which == 2:
        return x / (1 + np.exp(-x))
    if which == 3:
        return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) if which == 4 else x


@pytest.mark.parametrize("kind", ROUNDED)
@pytest.mark.parametrize("which", range(5))
def test_epilogue(which: int, kind: Kind) -> None:
    given_case = make_case("w4", kind, 3, 21, 128, 128, 7)
    rng = np.random.default_rng(which)
    bias, residual = rng.normal(size=21).astype(np.float32), to_kind(rng.normal(size=(3, 21)).astype(np.float32), kind)
    (instance,) = [one for one in instances("w4", kind) if one.name.endswith("_post")]
    more = {"bias": bias, "residual": aligned(residual), "activation": which, "out_float": 0}
    found = from_kind(launch(given_case, instance, **more)[0], kind)
    total = given_case.expected(True) + bias
    expected = activation(total, which) + from_kind(residual, kind)
    bound = 1.2 * given_case.bound(True) + 2.0**-20 * (1 + np.abs(total)) + ROUNDED[kind] * np.abs(expected)
    assert (np.abs(found - expected) <= bound).all()


def test_float_residual_of_a_float_result() -> None:
    given_case = make_case("w4", "f16", 2, 16, 64, 64, 8)
    residual = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
    found, _ = launch(given_case, W4["qc_gemm_w4_f16_8x32_post"], residual=aligned(residual))
    assert (np.abs(found - given_case.expected(True) - residual) <= given_case.bound(True) + 1e-6).all()


@pytest.mark.parametrize("name", W4)
def test_traffic(name: str) -> None:
    instance = W4[name]
    rows = int(name.split("_")[4].split("x")[0])
    given_case = make_case("w4", "f16", rows, 256, 256, 128, 9)
    _, traffic = launch(given_case, instance)
    assert traffic.shared_wavefronts == traffic.shared_ideal
    products = max(1, rows // 8) * (256 // 16) * (256 // 16)
    extra = max(1, rows // 8) * 256 // 16 * 256 // instance.grid[0].tile * (4 if rows == 16 else 1)
    assert traffic.mma_f16 == products + (extra if name.endswith("_post") else 0)
    assert traffic.global_sectors <= 1.05 * traffic.global_ideal


@pytest.mark.parametrize(("name", "most"), [("codebook8d8", 1.0), ("codebook8d4", 1.0), ("codebook8d8x2", 1.6)])
def test_lanes_find_entries_in_banks_of_their_own(name: str, most: float) -> None:
    given_case = make_case(name, "f16", 8, 128, 512, 128, 9)
    _, traffic = launch(given_case, instances(name, "f16")[0])
    # Of two tables there are half as many copies as lanes that are served at once.
    assert traffic.shared_wavefronts <= most * traffic.shared_ideal


@pytest.mark.parametrize("name", ["qc_gemm_w4_f16_8x32_post"])
def test_stays_within_arrays(name: str) -> None:
    given_case = make_case("w4", "f16", 1, 21, 200, 64, 10)
    room = {"out": np.zeros((1, 21), np.float32), "workspace": np.zeros(2 * 128, np.float32)}
    args = {**given_case.arguments, **room, "counters": np.zeros(1, np.int32), "splits": 2}
    found = run_sanitized("gemm_w4", name, args, ("out",))["out"]
    close(found, given_case, name.endswith("_post"))


@pytest.mark.parametrize("capability", ARCHITECTURES)
@pytest.mark.parametrize("name", CODES)
def test_every_problem_has_an_instance(name: str, capability: int) -> None:
    architecture = ARCHITECTURES[capability]
    there = {one.name for one in KERNELS[f"gemm_{name}"].on(architecture)}
    for rows in (1, 2, 8, 9, 64, 1000):
        for group in (16, 64, 4096):
            choice = choose_wn(name, "f16", rows, 4096, 4096, group, architecture)
            assert choice.instance in there
            assert (choice.workspace > 0) == (choice.splits > 1)


def test_few_rows_fill_the_device() -> None:
    choice = choose_wn("w4", "f16", 16, 4096, 4096, 128, ARCHITECTURES[90])
    assert choice.splits * 4096 // 128 >= 96
    assert choice.workspace == 4 * choice.splits * 16 * 4096
