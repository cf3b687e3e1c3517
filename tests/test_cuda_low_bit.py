"""Products of codes below eight bits, and of few rows: equal to their meaning, whatever the instruction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda import integer_packing as packing
from qcompiler.backends.cuda.arch import ARCHITECTURES
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.integers import choose_i8
from qcompiler.backends.cuda.kernels.low_bit import choose_b1, choose_w4a4, choose_wna8
from qcompiler.errors import InputError
from tests.cuda_harness import aligned, run_instance, run_sanitized, traffic_of
from tests.cuda_products import F16, F32, PARTS, SIGNS, Parts, finish_arguments, finished, room

RANGE = {1: (0, 2), 2: (-2, 2), 4: (-8, 8), 8: (-128, 128)}
PAST_ROUNDINGS = 2.0**-24


def names(kernel: str, *parts: str) -> list[str]:
    found = [one.name for one in KERNELS[kernel].instances if all(part in one.name for part in parts)]
    assert found
    return found


def bits_of(name: str) -> tuple[int, int]:
    """Of inputs and weights."""
    if "w4a4" in name:
        return 4, 4
    if "b1" in name:
        return 1, 1
    return 8, next(bits for text, bits in (("w4", 4), ("w2", 2), ("i8", 8)) if text in name)


def draw(rng: np.random.Generator, rows: int, depth: int, bits: int) -> np.ndarray:
    codes = rng.integers(*RANGE[bits], (rows, depth), dtype=np.int8)
    return 1 - 2 * codes if bits == 1 else codes


def packed(codes: np.ndarray, bits: int, beside: int) -> np.ndarray:
    if bits == 8:
        return aligned(packing.pack_bytes(codes))
    if bits == 1:
        return aligned(packing.pack_signs(codes))
    return aligned(packing.pack_nibbles(codes) if beside == 4 else packing.interleave(codes, 4 if bits == 4 else 2))


def case(name: str, rows: int, columns: int, depth: int, seed: int, parts: Parts, group: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    input_bits, weight_bits = bits_of(name)
    x, w = draw(rng, rows, depth, input_bits), draw(rng, columns, depth, weight_bits)
    found = {
        "x": x,
        "w": w,
        **finish_arguments(parts, x, w, seed),
        "input": packed(x, input_bits, weight_bits),
        "weight": packed(w, weight_bits, input_bits),
        "depth": packing.pack_bytes(x).shape[1] if input_bits == 8 else depth,
        "out": room(rows, columns, parts.kind),
    }
    if group:
        scales = rng.uniform(0.01, 0.1, (columns, -(-depth // group)))
        found |= {"group_scale": aligned(packing.group_scales(scales)), "group": group}
    if "b1_and" in name:
        found["column_sum"] = packing.count_negative(found["weight"])
    return found


def launch(kernel: str, name: str, args: dict, more: tuple[str, ...] = ()) -> np.ndarray:
    given_args = {key: value for key, value in args.items() if key not in ("x", "w")}
    run_instance(kernel, name, given_args, ("out", *more))
    return args["out"]


def sums(args: dict) -> np.ndarray:
    return (args["x"].astype(np.float64) @ args["w"].astype(np.float64).T).astype(np.int64)


def group_sums(args: dict) -> tuple[np.ndarray, np.ndarray]:
    """float32 sums in the order of groups, and sums of magnitudes of products."""
    rows, columns, depth = len(args["x"]), len(args["w"]), args["x"].shape[1]
    total, size = np.zeros((2, rows, columns))
    for group, start in enumerate(range(0, depth, args["group"])):
        part = slice(start, start + args["group"])
        sum_ = args["x"][:, part].astype(np.float64) @ args["w"][:, part].astype(np.float64).T
        product = sum_ * args["group_scale"][group, :columns].astype(np.float64)
        # Sums of a product of 32 bits and a float32 are exact in float64 but for its last bits.
        total = (total + product).astype(np.float32).astype(np.float64)
        magnitudes = np.abs(args["x"][:, part]).astype(np.float64) @ np.abs(args["w"][:, part]).astype(np.float64).T
        size = size + magnitudes * args["group_scale"][group, :columns].astype(np.float64)
    return total.astype(np.float32), size


PLAIN = [
    (kernel, name)
    for kernel in ("gemm_wna8", "gemm_w4a4", "gemv_i8", "gemv_wna8", "gemv_w4a4", "gemm_b1", "gemv_b1")
    for name in names(kernel)
    if not any(grouped in name for grouped in ("groups", "blocks", "zeros", "moved"))
]
GROUPS = [
    (kernel, name)
    for kernel in ("gemm_wna8", "gemm_w4a4", "gemv_wna8", "gemv_w4a4")
    for name in names(kernel, "groups")
]


LARGE = [one for one in PLAIN if "_128x" in one[1]]
"""Tiles that take a second or more on a processor."""


@pytest.mark.parametrize(("kernel", "name"), [one for one in PLAIN if one not in LARGE])
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 70), depth=st.integers(1, 600), parts=PARTS, seed=st.integers(0, 99)
)
@settings(deadline=None, max_examples=3)
def test_equals_meaning(kernel: str, name: str, rows: int, columns: int, depth: int, parts: Parts, seed: int) -> None:
    if kernel == "gemm_b1":
        parts = Parts(parts.kind, parts.per_row, parts.per_column, parts.bias, parts.total_bias)
    if kernel == "gemm_w4a4" and parts.kind == 4:
        parts = Parts(F32)
    args = case(name, rows, columns, depth, seed, parts)
    np.testing.assert_array_equal(launch(kernel, name, args), finished(sums(args), args))


@pytest.mark.parametrize(("kernel", "name"), LARGE)
def test_large_tiles_equal_meaning(kernel: str, name: str) -> None:
    args = case(name, 100, 107, 1000, 3, Parts(F16, bias=True))
    np.testing.assert_array_equal(launch(kernel, name, args), finished(sums(args), args))


@pytest.mark.parametrize(("kernel", "name"), [one for one in GROUPS if "_128x" not in one[1]])
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 70),
    depth=st.integers(1, 600),
    group=st.sampled_from([32, 64, 128]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=3)
def test_groups_are_added_up_in_order(
    kernel: str, name: str, rows: int, columns: int, depth: int, group: int, seed: int
) -> None:
    group = max(group, 64) if kernel == "gemm_w4a4" or "gemv_w2" in name else group
    args = case(name, rows, columns, depth, seed, Parts(), group)
    total, size = group_sums(args)
    scale = args["input_scale"][:, None] * args["weight_scale"]
    found = launch(kernel, name, args)
    if kernel.startswith("gemm"):
        np.testing.assert_array_equal(found, total * scale)
    else:
        bound = (depth / 16 + 8) * PAST_ROUNDINGS * size * scale
        assert (np.abs(found - total.astype(np.float64) * scale) <= bound).all()


@pytest.mark.parametrize(("kernel", "name"), [one for one in GROUPS if "_128x" in one[1]])
def test_groups_of_large_tiles(kernel: str, name: str) -> None:
    args = case(name, 100, 107, 600, 3, Parts(), 64)
    total, _ = group_sums(args)
    scale = args["input_scale"][:, None] * args["weight_scale"]
    np.testing.assert_array_equal(launch(kernel, name, args), total * scale)


@pytest.mark.parametrize(
    "name", [one for one in (*names("gemm_w4a4", "64x64"), *names("gemv_w4a4", "_2")) if "blocks" not in one]
)
def test_low_rank_branch_is_added(name: str) -> None:
    rng = np.random.default_rng(5)
    group, kernel = (64 if "groups" in name else 0), name.split("_")[1] + "_w4a4"
    args = case(name, 70, 45, 320, 6, Parts(bias=True), group)
    args |= {
        "low": aligned(rng.normal(size=(70, 48)).astype(np.float16)),
        "up": aligned(rng.normal(size=(45, 48)).astype(np.float16)),
        "rank": 48,
    }
    scale = args["input_scale"][:, None].astype(np.float64) * args["weight_scale"]
    real = (group_sums(args)[0] if group else sums(args)) * scale
    low, up = args["low"].astype(np.float64), args["up"].astype(np.float64).T
    size = np.abs(real) + np.abs(low) @ np.abs(up) + np.abs(args["bias"])
    found = launch(kernel, name, args)
    assert (np.abs(found - (real + low @ up + args["bias"])) <= 64 * PAST_ROUNDINGS * size).all()


def test_low_rank_branch_with_shared_tiles() -> None:
    name = names("gemm_w4a4", "s8_64x64")[0]
    rng = np.random.default_rng(5)
    args = case(name, 20, 70, 2000, 6, Parts())
    args |= {"low": np.ones((20, 16), np.float16), "up": rng.normal(size=(70, 16)).astype(np.float16), "rank": 16}
    alone = launch("gemm_w4a4", name, args).copy()
    shared = {"splits": 2, "workspace": np.zeros(2 * 2 * 64 * 64, np.int32), "counters": np.zeros(2, np.int32)}
    np.testing.assert_array_equal(launch("gemm_w4a4", name, args | shared, ("counters",)), alone)


def test_residual_channels_are_a_longer_row() -> None:
    """Channels whose rounding errors get codes of their own are one more group of the same product, of finer scale."""
    rng = np.random.default_rng(7)
    x, w = rng.normal(size=(20, 128)).astype(np.float32), draw(rng, 24, 128, 4)
    step = np.abs(x).max() / np.float32(7)
    codes = np.rint(x / step)
    rest = np.rint((x - codes * step)[:, :64] / (step / 16)).clip(-8, 7)
    name = names("gemm_w4a4", "s4_groups_64x64")[0]

    def product(x_codes: np.ndarray, w_codes: np.ndarray, scales: list[float]) -> np.ndarray:
        args = {
            "rows": 20,
            "columns": 24,
            "depth": x_codes.shape[1],
            "splits": 1,
            "group": 64,
            "input": packed(x_codes.astype(np.int8), 4, 4),
            "weight": packed(w_codes, 4, 4),
            "group_scale": aligned(packing.group_scales(np.tile(scales, (24, 1)))),
            "input_scale": np.array([step], np.float32),
            "out": room(20, 24, F32),
        }
        return launch("gemm_w4a4", name, args).copy()

    exact = x @ w.T.astype(np.float32)
    plain = product(codes, w, [1, 1])
    more = product(np.hstack([codes, rest]), np.hstack([w, w[:, :64]]), [1, 1, 1 / 16])
    assert np.abs(more - exact).mean() < 0.8 * np.abs(plain - exact).mean()


@pytest.mark.parametrize("columns", [100, 128, 150])
@pytest.mark.parametrize("name", [*names("gemm_b1", "64x64"), *names("gemv_b1")])
def test_signs_of_signs(name: str, columns: int) -> None:
    args = case(name, 33 if "gemm" in name else 5, columns, 300, 3, Parts(SIGNS, bias=True))
    np.testing.assert_array_equal(launch(name.split("_")[1] + "_b1", name, args), finished(sums(args), args))


@pytest.mark.parametrize("name", names("gemm_b1", "64x64"))
def test_blocks_share_tiles_of_signs(name: str) -> None:
    args = case(name, 20, 70, 5000, 3, Parts())
    args |= {"splits": 3, "workspace": np.zeros(2 * 3 * 64 * 64, np.int32), "counters": np.zeros(2, np.int32)}
    np.testing.assert_array_equal(launch("gemm_b1", name, args, ("counters",)), finished(sums(args), args))


MMA = {"w4a8": ("mma_s8", 32), "w2a8": ("mma_s8", 32), "w4a4_s4": ("mma_s4", 64), "w4a4_s8": ("mma_s8", 32)}


@pytest.mark.parametrize(
    ("kernel", "name"), [one for one in [*PLAIN, *GROUPS] if one[0].startswith("gemm") and "_64x64" in one[1]]
)
def test_shared_memory_has_no_bank_conflicts(kernel: str, name: str) -> None:
    args = case(name, 128, 128, 1024, 1, Parts(), 128 if "groups" in name else 0)
    traffic = traffic_of(kernel, name, {key: value for key, value in args.items() if key not in ("x", "w")})
    assert traffic.shared_wavefronts == traffic.shared_ideal
    for text, (counter, depth) in MMA.items():
        if text in name:
            assert getattr(traffic, counter) == 128 // 16 * (128 // 8) * (1024 // depth)


@pytest.mark.parametrize("name", ["qc_gemv_i8_1", "qc_gemv_w4a4_2"])
def test_weights_stream_through_in_whole_sectors(name: str) -> None:
    kernel = "gemv_" + ("wna8" if "a8" in name else name.split("_")[2])
    args = case(name, 1, 16, 2048, 1, Parts())
    traffic = traffic_of(kernel, name, {key: value for key, value in args.items() if key not in ("x", "w")})
    assert traffic.global_sectors == traffic.global_ideal


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("gemm_wna8", "qc_gemm_w2a8_groups_64x64x128"),
        ("gemv_wna8", "qc_gemv_w4a8_groups_4"),
    ],
)
def test_touches_nothing_outside(kernel: str, name: str) -> None:
    args = case(name, 21, 45, 200, 3, Parts(F16), 64 if "groups" in name else 0)
    given_args = {key: value for key, value in args.items() if key not in ("x", "w")}
    expected = launch(kernel, name, args).copy()
    found = run_sanitized(kernel, name, given_args, ("out",))
    np.testing.assert_array_equal(found["out"], expected)


@given(rows=st.integers(1, 5), depth=st.integers(1, 300), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_packing_has_an_inverse(rows: int, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    nibbles, crumbs, signs = (draw(rng, rows, depth, bits) for bits in (4, 2, 1))
    np.testing.assert_array_equal(packing.unpack_nibbles(packing.pack_nibbles(nibbles), depth), nibbles)
    np.testing.assert_array_equal(packing.deinterleave(packing.interleave(nibbles, 4), 4, depth), nibbles)
    np.testing.assert_array_equal(packing.deinterleave(packing.interleave(crumbs, 2), 2, depth), crumbs)
    np.testing.assert_array_equal(packing.unpack_signs(packing.pack_signs(signs), depth), signs)


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"-9\.\.8 do not fit 4 bits"):
        packing.pack_nibbles(np.array([[-9, 8]]))
    with pytest.raises(InputError, match="1 and -1"):
        packing.pack_signs(np.array([[0, 1]]))


@pytest.mark.parametrize("capability", ARCHITECTURES)
@pytest.mark.parametrize("rows", [1, 5, 16, 300, 4096])
def test_choices_exist_on_their_architecture(capability: int, rows: int) -> None:
    target = ARCHITECTURES[capability]
    choices = [
        choose_i8(rows, 4096, 4096, target),
        choose_b1(rows, 4096, 4096, target),
        *(choose_w4a4(rows, 4096, 4096, group, target) for group in (0, 64)),
        *(choose_wna8(rows, 4096, 4096, bits, group, target) for bits in (2, 4) for group in (0, 128)),
    ]
    for choice in choices:
        assert choice.instance in {one.name for one in KERNELS[choice.kernel].on(target)}
        assert choice.counters <= choice.workspace
