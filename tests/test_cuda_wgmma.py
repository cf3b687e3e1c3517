"""Products by Hopper's instructions for four warps: their meaning, the faults that emulation finds, the kernels."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.arch import ARCHITECTURES
from qcompiler.backends.cuda.emulation import Emulation, emulate
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.float8 import choose_f8
from qcompiler.backends.cuda.kernels.integers import choose_i8
from qcompiler.backends.cuda.kernels.row import Axis, CudaKernel, Instance
from qcompiler.backends.cuda.library import read_library
from qcompiler.backends.cuda.sass import Listing, disassemble
from qcompiler.backends.cuda.settings import Settings
from qcompiler.backends.cuda.toolchain import compile_cubin
from qcompiler.errors import InputError, UnsupportedError, VerifyError
from tests.cuda_harness import aligned, instance_of, run_instance, run_sanitized, traffic_of
from tests.cuda_models import activations, compile_block
from tests.cuda_products import F16, F32, PARTS, Parts, finish_arguments, finished, room
from tests.test_cuda_backend import decibels
from tests.test_cuda_gemm_i8 import case as case_i8
from tests.test_cuda_gemm_i8 import sums

HOPPER = ARCHITECTURES[90]
ALLOWED = Settings(architectures=(90,), wgmma=True).generations[0]
INTEGERS = [instance.name for instance in KERNELS["wgmma_i8"].instances]
EIGHTS = [instance.name for instance in KERNELS["wgmma_f8"].instances]
SMALL, SMALL_F8 = "qc_wgmma_i8_64x128x128", "qc_wgmma_f8_64x128x128"
CODES = np.arange(256, dtype=np.uint8)
VALUES = CODES.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
POWERS = np.where(VALUES == 0, -999, np.maximum(CODES >> 3 & 15, 1).astype(int) - 7)
PRODUCTS = {
    "s8_128": "qc_bytes, 16, 1, RIGHT",
    "s8_256": "qc_bytes, 32, 1, RIGHT",
    "s8_fresh": "qc_bytes, 16, 0, RIGHT",
    "e4m3": "qc_eights, 16, 1, RIGHT",
}
FAULTS = {
    "HIDDEN": "written and not exposed",
    "UNSETTLED": "not settled",
    "TOUCHED": "touched while a product has them",
    "SHIFTED": "multiple of 1024",
    "APART": "different products",
}
BODIES = {**PRODUCTS, **{way: f"qc_bytes, 16, 1, {way}" for way in (*FAULTS, "EARLY", "OVERWRITTEN")}}
ONE = (Axis(), Axis(), Axis())
PROBES = {
    name: Instance(f"qc_probe_{name}", f"qc_probe_warpgroup<{body}>", 128, ONE, shared=320 * 128)
    for name, body in BODIES.items()
}
SERIALIZED = Instance("qc_probe_serialized", "qc_probe_each_alone", 128, ONE, shared=320 * 128)
KERNEL = CudaKernel(
    "warpgroup_probe", str(Path(__file__).parent / "cuda_warpgroup_probe.cuh"), (*PROBES.values(), SERIALIZED)
)


@cache
def library() -> Emulation:
    try:
        return emulate([(KERNEL, instance) for instance in PROBES.values()])
    except UnsupportedError as error:
        pytest.skip(error.what)


def placed(rows: np.ndarray) -> np.ndarray:
    """Rows of 128 bytes as they lie in shared memory: chunk i of row r at place i ^ r % 8."""
    chunks = rows.view(np.uint8).reshape(len(rows), 8, 16)
    out = np.empty_like(chunks)
    for row in range(len(rows)):
        for chunk in range(8):
            out[row, chunk ^ row % 8] = chunks[row, chunk]
    return aligned(out)


def gathered(words: np.ndarray) -> np.ndarray:
    """The matrix [64, N] of which 128 lanes hold N / 2 numbers each."""
    lanes = words.reshape(4, 8, 4, -1, 2, 2)
    return lanes.transpose(0, 4, 1, 3, 2, 5).reshape(64, -1)


def probe(name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, further: int = 0, order: int = 0) -> np.ndarray:
    """The product of rows of 128 bytes, [64, 128] and [N, 128], 32 of them from `further` on."""
    out = aligned(np.zeros_like(c))
    given = {"a": placed(a), "b": placed(b), "c": aligned(c), "out": out, "further": further}
    library().launch(KERNEL, PROBES[name], given, order)
    return gathered(out)


def operands(columns: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(columns)
    a, b = (rng.integers(-128, 128, (count, 128), dtype=np.int8) for count in (64, columns))
    return a, b, rng.integers(-1000, 1000, (128, columns // 2), dtype=np.int32)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("name", "columns", "further"), [("s8_128", 128, 0), ("s8_256", 256, 96), ("s8_fresh", 128, 32)]
)
def test_products_of_bytes(name: str, columns: int, further: int, order: int) -> None:
    a, b, c = operands(columns)
    part = slice(further, further + 32)
    wanted = a[:, part].astype(np.int32) @ b[:, part].T.astype(np.int32) + (0 if name == "s8_fresh" else gathered(c))
    np.testing.assert_array_equal(probe(name, a, b, c, further, order), wanted)


def added(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums c + a b^T over e4m3 codes [M, 32] and [N, 32] as observed: 13 bits below the largest addend's place."""
    products = VALUES[a][:, None, :] * VALUES[b][None, :, :]
    powers = np.where(products == 0, -999, POWERS[a][:, None, :] + POWERS[b][None, :, :])
    own = np.where(c == 0, -999, np.maximum(np.frexp(c)[1] - 1, -126))
    most = np.maximum(powers.max(-1), own)
    places = np.exp2(13.0 - np.maximum(most, -126))
    total = np.trunc(products * places[..., None]).sum(-1) + np.trunc(c * places)
    kept = np.exp2(13.0 - (np.frexp(total)[1] - 1))
    return (np.trunc(total * kept) / kept / places).astype(np.float32)


@pytest.mark.parametrize("order", [0, 1])
def test_products_of_e4m3(order: int) -> None:
    rng = np.random.default_rng(3)
    finite = CODES[np.isfinite(VALUES)]
    a, b = (rng.choice(finite, (count, 128)) for count in (64, 128))
    c = rng.normal(size=(128, 64), scale=1e4).astype(np.float32)
    wanted = added(gathered(c), a[:, 64:96], b[:, 64:96])
    np.testing.assert_array_equal(probe("e4m3", a, b, c, 64, order), wanted)


def test_e4m3_that_is_no_number_stays_none() -> None:
    a, b = np.full((64, 128), 0x38, np.uint8), np.full((128, 128), 0x38, np.uint8)
    a[5, 7] = 0x7F
    found = probe("e4m3", a, b, np.zeros((128, 64), np.float32))
    assert np.isnan(found[5]).all()
    assert (np.delete(found, 5, axis=0) == 32).all()


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("way", FAULTS)
def test_faults_are_found(way: str, order: int) -> None:
    with pytest.raises(VerifyError, match=FAULTS[way]):
        probe(way, *operands(), order=order)


def test_sums_are_garbage_until_they_are_awaited() -> None:
    for order in (0, 1):
        assert (probe("EARLY", *operands(), order=order).view(np.uint32) == 0xCDCDCDCD).all()


def test_overwritten_operands_show() -> None:
    late, early = (probe("OVERWRITTEN", *operands(), order=order) for order in (0, 1))
    assert not np.array_equal(late, early)


@pytest.mark.parametrize("name", INTEGERS)
@given(
    rows=st.integers(1, 150),
    columns=st.integers(1, 150),
    chunks=st.integers(1, 40),
    parts=PARTS,
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=3)
def test_integers_equal_their_meaning(name: str, rows: int, columns: int, chunks: int, parts: Parts, seed: int) -> None:
    args = case_i8(rows, columns, 16 * chunks, seed, parts)
    run_instance("wgmma_i8", name, args, ("out",))
    np.testing.assert_array_equal(args["out"], finished(sums(args), args))


@pytest.mark.parametrize("name", INTEGERS)
def test_more_slices_than_stages(name: str) -> None:
    args = case_i8(70, 40, 1040, 2)
    run_instance("wgmma_i8", name, args, ("out",))
    np.testing.assert_array_equal(args["out"], finished(sums(args), args))


def shared_tiles(rows: int, columns: int, splits: int) -> dict:
    tiles = -(-rows // 64) * -(-columns // 128)
    return {
        "splits": splits,
        "workspace": aligned(np.full(tiles * splits * 64 * 128, -7, np.int32)),
        "counters": np.zeros(tiles, np.int32),
    }


@pytest.mark.parametrize(("depth", "splits"), [(1024, 3), (256, 4)])
def test_blocks_share_tiles(depth: int, splits: int) -> None:
    shared = shared_tiles(70, 130, splits)
    args = {**case_i8(70, 130, depth, 3, Parts(F16)), **shared}
    run_instance("wgmma_i8", SMALL, args, ("out", "counters"))
    np.testing.assert_array_equal(args["out"], finished(sums(args), args))
    assert not shared["counters"].any()


def test_touches_nothing_outside() -> None:
    args = case_i8(37, 45, 208, 3, Parts(F32, True, True, True, True, True, True, True))
    found = run_sanitized("wgmma_i8", SMALL, args, ("out",))
    np.testing.assert_array_equal(found["out"], finished(sums(args), args))


@pytest.mark.parametrize("name", INTEGERS)
def test_shared_memory_has_no_bank_conflicts(name: str) -> None:
    traffic = traffic_of("wgmma_i8", name, case_i8(128, 256, 256, 1))
    columns = 256 if "x256x" in name else 128
    assert traffic.shared_wavefronts == traffic.shared_ideal
    assert traffic.global_sectors == traffic.global_ideal
    assert traffic.wgmma == 128 // 64 * (256 // columns) * (256 // 32)


def eights(rows: int, columns: int, depth: int, seed: int) -> dict:
    """Codes of normal numbers with one scale that is 1, and room for a float32 result."""
    rng = np.random.default_rng(seed)
    x, w = (rng.normal(size=(count, depth)).astype(ml_dtypes.float8_e4m3fn).view(np.uint8) for count in (rows, columns))
    args = finish_arguments(Parts(per_row=False, per_column=False), x, w, seed)
    padding = ((0, 0), (0, -depth % 16))
    found = {"input": aligned(np.pad(x, padding)), "weight": aligned(np.pad(w, padding))}
    ones = {name: np.ones(1, np.float32) for name in ("input_scale", "weight_scale")}
    return {**args, **found, **ones, "out": room(rows, columns, F32)}


def sliced(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Sums of 128 codes by steps of 32, then float32."""
    x, w = (np.pad(codes, ((0, 0), (0, -codes.shape[1] % 128))) for codes in (x, w))
    total = np.zeros((len(x), len(w)), np.float32)
    for first in range(0, x.shape[1], 128):
        part = np.zeros_like(total)
        for k in range(first, first + 128, 32):
            part = added(part, x[:, k : k + 32], w[:, k : k + 32])
        total += part
    return total


@pytest.mark.parametrize("name", EIGHTS)
@given(rows=st.integers(1, 80), columns=st.integers(1, 80), depth=st.integers(1, 700), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=3)
def test_e4m3_equals_its_meaning(name: str, rows: int, columns: int, depth: int, seed: int) -> None:
    args = eights(rows, columns, depth, seed)
    run_instance("wgmma_f8", name, args, ("out",))
    np.testing.assert_array_equal(args["out"], sliced(args["input"], args["weight"]))
    x, w = VALUES[args["input"]], VALUES[args["weight"]]
    assert (np.abs(args["out"] - x @ w.T) <= 2.0**-11 * (np.abs(x) @ np.abs(w).T)).all()


def test_blocks_share_tiles_of_e4m3() -> None:
    args = {**eights(70, 40, 700, 1), **shared_tiles(70, 40, 8)}
    run_instance("wgmma_f8", SMALL_F8, args, ("out", "counters"))
    x, w = VALUES[args["input"]], VALUES[args["weight"]]
    assert (np.abs(args["out"] - x @ w.T) <= 2.0**-11 * (np.abs(x) @ np.abs(w).T)).all()


@pytest.mark.parametrize("name", EIGHTS)
def test_long_sums_keep_their_addends(name: str) -> None:
    args = eights(1, 1, 4096, 1)
    args["input"][...] = args["weight"][...] = CODES[VALUES == 1.125][0]
    run_instance("wgmma_f8", name, args, ("out",))
    assert args["out"][0, 0] == 4096 * 1.125**2


@cache
def listing(kernel: str, name: str) -> Listing:
    chosen = (KERNELS[kernel], instance_of(kernel, name))
    try:
        compiled = compile_cubin([chosen], HOPPER)
        assert compiled.usage[name].spilled == compiled.usage[name].stack == 0
        return dict(disassemble(compiled.cubin))[name]
    except UnsupportedError as error:
        pytest.skip(error.what)


@pytest.mark.parametrize(
    ("kernel", "name", "instruction", "products", "others"),
    [
        ("wgmma_i8", "qc_wgmma_i8_128x256x128", "IGMMA.64x256x32.S8.S8", 4, 130),
        ("wgmma_f8", "qc_wgmma_f8_128x128x128", "QGMMA.64x128x32.F32.E4M3.E4M3", 8, 350),
    ],
)
def test_loops_are_made_of_products_of_warpgroups(
    kernel: str, name: str, instruction: str, products: int, others: int
) -> None:
    found = listing(kernel, name)
    loop = found.main_loop()
    assert found.count(instruction) == loop[instruction.split(".")[0]] == products
    assert sum(loop.values()) - products <= others
    assert any(opcode.startswith("LDGSTS.E.BYPASS") and opcode.endswith(".128") for opcode in found.opcodes)
    assert not found.uses_local_memory


def test_products_that_wait_for_one_another_are_refused() -> None:
    try:
        with pytest.raises(InputError, match="wait for one another"):
            compile_cubin([(KERNEL, SERIALIZED)], HOPPER)
    except UnsupportedError as error:
        pytest.skip(error.what)


@pytest.mark.parametrize(("rows", "name"), [(64, "wgmma_i8"), (63, "gemm_i8"), (4096, "wgmma_i8"), (8, "gemv_i8")])
def test_many_rows_are_multiplied_by_warpgroups_where_that_is_allowed(rows: int, name: str) -> None:
    choice = choose_i8(rows, 4096, 4096, ALLOWED)
    assert choice.kernel == name
    assert choice.instance in {one.name for one in KERNELS[name].on(HOPPER)}
    assert "wgmma" not in choose_i8(rows, 4096, 4096, HOPPER).kernel


def test_large_products_take_large_tiles() -> None:
    assert choose_i8(4096, 4096, 4096, ALLOWED).instance == "qc_wgmma_i8_128x256x128"
    assert choose_f8(4096, 4096, 4096, ALLOWED).instance == "qc_wgmma_f8_128x128x128"
    assert choose_f8(4096, 4096, 4096, HOPPER).kernel == "gemm_f8"


def test_only_hopper_has_them() -> None:
    for target in Settings(architectures=tuple(ARCHITECTURES), wgmma=True).generations:
        here = target.capability == 90
        assert bool(KERNELS["wgmma_i8"].on(target)) == here
        assert (choose_i8(4096, 4096, 4096, target).kernel == "wgmma_i8") == here


@pytest.mark.parametrize(("recipe", "kernel", "least"), [("w8a8_dynamic", "wgmma_i8", 120), ("fp8", "wgmma_f8", 50)])
def test_layers_of_many_rows_run_them(recipe: str, kernel: str, least: float) -> None:
    options = "device=emulation, build=later, compute=float32"
    artifact, x = compile_block(f"hopper{{wgmma=true, {options}}}", recipe), activations(35)
    products = [one for one in read_library(artifact.folder / "cuda").layers if one.meaning.startswith("linear")]
    assert len(products) == 6
    assert all(kernel in layer.kernels for layer in products)
    assert decibels(artifact(x), artifact.simulate(x)) > least
