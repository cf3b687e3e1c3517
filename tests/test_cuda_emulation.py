"""What the emulation says of each instruction against independent arithmetic, and the faults that it must find."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from qcompiler.backends.cuda.emulation import Emulation, Traffic, emulate
from qcompiler.backends.cuda.kernels.row import Axis, CudaKernel, Instance
from qcompiler.errors import UnsupportedError, VerifyError
from tests.cuda_harness import aligned

ONE = (Axis(), Axis(), Axis())
BODIES = {
    "s8": "qc_probe_product<int, qc::mma_s8>",
    "s4": "qc_probe_product<int, qc::mma_s4>",
    "xor": "qc_probe_product<int, qc::mma_b1_xor>",
    "and": "qc_probe_product<int, qc::mma_b1_and>",
    "f16": "qc_probe_product<float, qc::mma_f16>",
    "bf16": "qc_probe_product<float, qc::mma_bf16>",
    "e4m3": "qc_probe_product<float, qc::mma_e4m3>",
    "matrices": "qc_probe_matrices<false>",
    "transposed": "qc_probe_matrices<true>",
    "fma2": "qc_probe_words<qc::half2_fma>",
    "bfloat_fma2": "qc_probe_words<qc::bfloat2_fma>",
    "multiply2": "qc_probe_words<qc_probe_multiply>",
    "add2": "qc_probe_words<qc_probe_add>",
    "to_half": "qc_probe_words<qc_probe_half>",
    "to_bfloat": "qc_probe_words<qc_probe_bfloat>",
    "dot4": "qc_probe_words<qc_probe_dot>",
    "logic": "qc_probe_words<qc::logic<0x6a>>",
    "bytes": "qc_probe_words<qc::choose_bytes>",
    "neighbour": "qc_probe_neighbour<true>",
    "race": "qc_probe_neighbour<false>",
    "copy": "qc_probe_copy<true>",
    "unwaited": "qc_probe_copy<false>",
    "early": "qc_probe_early",
    "apart": "qc_probe_apart",
    "misaligned": "qc_probe_misaligned",
    "stride": "qc_probe_stride",
}
INSTANCES = {
    name: Instance(f"qc_probe_{name}", body, 64 if name in ("neighbour", "race") else 32, ONE, shared=4096)
    for name, body in BODIES.items()
} | {"tall": Instance("qc_probe_tall", BODIES["dot4"], 32, (Axis(), Axis(("count",)), Axis()))}
KERNEL = CudaKernel("probe", str(Path(__file__).parent / "cuda_probe.cuh"), tuple(INSTANCES.values()))


@cache
def library() -> Emulation:
    try:
        return emulate([(KERNEL, instance) for instance in INSTANCES.values()])
    except UnsupportedError as error:
        pytest.skip(error.what)


def probe(name: str, out: np.ndarray, order: int = 0, traffic: Traffic | None = None, **arguments) -> np.ndarray:
    given = {key: aligned(value) if isinstance(value, np.ndarray) else value for key, value in arguments.items()}
    result = aligned(out)
    library().launch(KERNEL, INSTANCES[name], {**given, "out": result}, order, traffic)
    return result


def fragments(matrix: np.ndarray, width: int, rows: int) -> np.ndarray:
    """Words of each lane, as PTX orders them: `matrix` [rows, K] of codes of `width` bits."""
    each = 32 // width
    words = np.zeros((32, 2 * rows // 8), dtype=np.uint64)
    for lane in range(32):
        row, pair = divmod(lane, 4)
        for register in range(words.shape[1]):
            upper_row, upper_k = (register % 2, register // 2) if rows == 16 else (0, register)
            first = each * pair + upper_k * 4 * each
            codes = matrix[row + 8 * upper_row, first : first + each].astype(np.uint64)
            words[lane, register] = sum(int(code) << (width * i) for i, code in enumerate(codes))
    return words.astype(np.uint32)


def gathered(words: np.ndarray) -> np.ndarray:
    """The matrix [16, 8] that lanes hold in four words each."""
    found = np.zeros((16, 8), dtype=words.dtype)
    for lane in range(32):
        row, pair = divmod(lane, 4)
        for i in range(4):
            found[row + 8 * (i // 2), 2 * pair + i % 2] = words[lane, i]
    return found


def product(name: str, left: np.ndarray, right: np.ndarray, width: int, first: np.ndarray) -> np.ndarray:
    """The product of codes [16, K] and [8, K], added to sums of the same kind as `first` [32, 4]."""
    return gathered(
        probe(name, np.zeros_like(first), a=fragments(left, width, 16), b=fragments(right, width, 8), c=first)
    )


@pytest.mark.parametrize(("name", "width"), [("s8", 8), ("s4", 4)])
def test_products_of_integers(name: str, width: int) -> None:
    rng = np.random.default_rng(width)
    half, inner = 1 << (width - 1), 256 // width
    left, right = rng.integers(-half, half, (16, inner)), rng.integers(-half, half, (8, inner))
    first = rng.integers(-1000, 1000, (32, 4)).astype(np.int32)
    found = product(name, left % (2 * half), right % (2 * half), width, first)
    np.testing.assert_array_equal(found, gathered(first) + left @ right.T)


@pytest.mark.parametrize(("name", "combine"), [("xor", np.bitwise_xor), ("and", np.bitwise_and)])
def test_products_of_bits(name: str, combine: np.ufunc) -> None:
    rng = np.random.default_rng(1)
    left, right = rng.integers(0, 2, (16, 256)), rng.integers(0, 2, (8, 256))
    first = rng.integers(0, 50, (32, 4)).astype(np.int32)
    wanted = combine(left[:, None, :], right[None, :, :]).sum(-1)
    np.testing.assert_array_equal(product(name, left, right, 1, first), gathered(first) + wanted)


@pytest.mark.parametrize(
    ("name", "dtype", "width"),
    [("f16", np.float16, 16), ("bf16", ml_dtypes.bfloat16, 16), ("e4m3", ml_dtypes.float8_e4m3fn, 8)],
)
def test_products_of_floats(name: str, dtype: type, width: int) -> None:
    rng = np.random.default_rng(2)
    inner = 256 // width
    left, right = rng.normal(size=(16, inner)).astype(dtype), rng.normal(size=(8, inner)).astype(dtype)
    codes = np.uint16 if width == 16 else np.uint8
    first = rng.normal(size=(32, 4)).astype(np.float32)
    wanted = gathered(first) + left.astype(np.float64) @ right.astype(np.float64).T
    found = product(name, left.view(codes), right.view(codes), width, first)
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


def test_matrices_are_loaded_by_lanes() -> None:
    rows = np.random.default_rng(3).integers(0, 2**16, (4, 8, 8)).astype(np.uint16)
    plain = probe("matrices", np.zeros((32, 4), np.uint32), a=rows)
    across = probe("transposed", np.zeros((32, 4), np.uint32), a=rows)
    np.testing.assert_array_equal(
        plain.view(np.uint16).reshape(8, 4, 4, 2).transpose(2, 0, 1, 3).reshape(4, 8, 8), rows
    )
    found = across.view(np.uint16).reshape(8, 4, 4, 2).transpose(2, 0, 1, 3).reshape(4, 8, 8)
    np.testing.assert_array_equal(found, rows.transpose(0, 2, 1))


def halves(count: int, seed: int) -> np.ndarray:
    """Finite halves of all magnitudes, subnormal ones included."""
    codes = np.random.default_rng(seed).integers(0, 2**16, 4 * count).astype(np.uint16)
    return codes[np.isfinite(codes.view(np.float16))][:count]


def test_arithmetic_of_halves_rounds_once() -> None:
    a, b, c = (halves(4000, seed) for seed in range(3))
    reals = [x.view(np.float16).astype(np.longdouble) for x in (a, b, c)]
    given = {"a": a.view(np.uint32), "b": b.view(np.uint32), "c": c.view(np.uint32), "count": 2000}
    wanted = {"fma2": reals[0] * reals[1] + reals[2], "multiply2": reals[0] * reals[1], "add2": reals[0] + reals[1]}
    for name, exact in wanted.items():
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(
                probe(name, np.zeros(2000, np.uint32), **given).view(np.float16), exact.astype(np.float16)
            )


def test_a_term_far_below_a_tie_decides_it() -> None:
    # 7 * 37 lies between 258 and 260; float64 would lose the third term and round to the even 260.
    a, b, c = (np.array([x, x], ml_dtypes.bfloat16).view(np.uint32) for x in (7.0, 37.0, -(2.0**-100)))
    found = probe("bfloat_fma2", np.zeros(1, np.uint32), a=a, b=b, c=c, count=1)
    assert found.view(ml_dtypes.bfloat16).astype(float).tolist() == [258.0, 258.0]


@pytest.mark.parametrize(("name", "dtype"), [("to_half", np.float16), ("to_bfloat", ml_dtypes.bfloat16)])
def test_rounding_to_small_floats(name: str, dtype: type) -> None:
    codes = np.random.default_rng(4).integers(0, 2**32, 20000).astype(np.uint32)
    # Ties, the edges of the formats, and numbers that round to infinity.
    edges = np.array([0, -0.0, 65519, 65520, 1.00048828125, 1.00390625, 6e-8, 2.98e-8, np.inf, -np.inf], np.float32)
    reals = np.concatenate([codes.view(np.float32), edges])
    reals = reals[~np.isnan(reals)]
    words = reals.view(np.uint32)
    found = probe(name, np.zeros_like(words), a=words, b=words, c=words, count=len(words))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found.astype(np.uint16), reals.astype(dtype).view(np.uint16))


def test_operations_on_words() -> None:
    a, b, c = np.random.default_rng(5).integers(0, 2**32, (3, 500)).astype(np.uint32)
    given = {"a": a, "b": b, "c": c, "count": 500}
    dots = (a.view(np.int8).reshape(-1, 4).astype(int) * b.view(np.int8).reshape(-1, 4)).sum(1)
    found = probe("dot4", np.zeros(500, np.uint32), **given)
    np.testing.assert_array_equal(found, (c.astype(np.int64) + dots).astype(np.uint32))
    np.testing.assert_array_equal(probe("logic", np.zeros(500, np.uint32), **given), (a & b) ^ c)
    both = np.concatenate([a.view(np.uint8).reshape(-1, 4), b.view(np.uint8).reshape(-1, 4)], axis=1)
    orders = c & 0x7777
    chosen = np.stack([both[np.arange(500), orders >> 4 * i & 7] for i in range(4)], axis=1)
    found = probe("bytes", np.zeros(500, np.uint32), **{**given, "c": orders})
    np.testing.assert_array_equal(found, chosen.copy().view(np.uint32)[:, 0])


def test_a_barrier_lets_lanes_see_each_other_in_any_order() -> None:
    wanted = (np.arange(64) + 1) % 64
    for order in (0, 1, 7):
        np.testing.assert_array_equal(probe("neighbour", np.zeros(64, np.uint32), order), wanted)


def test_without_a_barrier_the_order_decides() -> None:
    forwards, backwards = (probe("race", np.zeros(64, np.uint32), order) for order in (0, 1))
    assert not np.array_equal(forwards, backwards)


def test_copies_land_when_they_are_waited_for_and_not_before() -> None:
    given = np.arange(128, dtype=np.uint32)
    np.testing.assert_array_equal(probe("copy", np.zeros(128, np.uint32), a=given, count=16), given)
    half = probe("copy", np.zeros(128, np.uint32), a=given, count=8).reshape(32, 4)
    np.testing.assert_array_equal(half[:, :2], given.reshape(32, 4)[:, :2])
    assert not half[:, 2:].any()
    assert (probe("unwaited", np.zeros(128, np.uint32), a=given, count=16) == 0xCDCDCDCD).all()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("early", "lanes wait for lanes that have left"),
        ("apart", "different operations"),
        ("misaligned", "not aligned to its size"),
    ],
)
def test_faults_are_found(name: str, fault: str) -> None:
    with pytest.raises(VerifyError, match=fault):
        probe(name, np.zeros(32, np.uint32), a=np.zeros(256, np.uint32))


def test_grids_that_devices_do_not_take_are_found() -> None:
    with pytest.raises(VerifyError, match="at most 65535 blocks"):
        probe("tall", np.zeros(32, np.uint32), count=65536)


@pytest.mark.parametrize(("stride", "wavefronts"), [(0, 1), (1, 1), (2, 2), (3, 1), (8, 8), (32, 32)])
def test_bank_conflicts_are_counted(stride: int, wavefronts: int) -> None:
    traffic = Traffic()
    probe("stride", np.zeros(32, np.uint32), 0, traffic, count=stride)
    assert (traffic.shared_wavefronts, traffic.shared_ideal) == (wavefronts, 1)
    assert (traffic.global_sectors, traffic.global_ideal) == (4, 4)
