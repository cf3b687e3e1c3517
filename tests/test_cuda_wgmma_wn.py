"""Products with packed weights by Hopper's instructions for four warps, whose left operand lies in registers."""

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
from qcompiler.backends.cuda.kernels.hopper_weight_only import WIDE_CODES, choose_wgmma_wn
from qcompiler.backends.cuda.kernels.row import CudaKernel, Instance
from qcompiler.backends.cuda.kernels.weight_only import Kind
from qcompiler.backends.cuda.library import read_library
from qcompiler.backends.cuda.sass import disassemble
from qcompiler.backends.cuda.settings import Settings
from qcompiler.backends.cuda.toolchain import compile_cubin
from qcompiler.errors import UnsupportedError, VerifyError
from tests.cuda_harness import aligned, instance_of, run_instance, run_sanitized, traffic_of
from tests.cuda_models import activations, compile_block
from tests.cuda_weight_only import Case, make_case
from tests.test_cuda_backend import decibels
from tests.test_cuda_emulation import fragments
from tests.test_cuda_wgmma import ONE, gathered, placed

HOPPER = ARCHITECTURES[90]
ALLOWED = Settings(architectures=(90,), wgmma=True).generations[0]
NAMES = [instance.name for instance in KERNELS["wgmma_w4"].instances]
SMALL = "qc_wgmma_w4_f16_128x128"
BODIES = {"f16": "false, 8, false", "bf16": "true, 16, false", "touched": "false, 8, true"}
PROBES = {
    name: Instance(f"qc_probe_{name}", f"qc_probe_halves<{body}>", 128, ONE, shared=128 * 128)
    for name, body in BODIES.items()
}
KERNEL = CudaKernel("warpgroup_probe", str(Path(__file__).parent / "cuda_warpgroup_probe.cuh"), tuple(PROBES.values()))


@cache
def library() -> Emulation:
    try:
        return emulate([(KERNEL, instance) for instance in PROBES.values()])
    except UnsupportedError as error:
        pytest.skip(error.what)


def probe(name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, further: int, order: int) -> np.ndarray:
    """The product of halves, [64, 16] and 16 of [N, 64] from byte `further` on."""
    words = np.concatenate([fragments(part.view(np.uint16), 16, 16) for part in np.split(a, 4)])
    out = aligned(np.zeros_like(c))
    given = {"a": aligned(words), "b": placed(b), "c": aligned(c), "out": out, "further": further}
    library().launch(KERNEL, PROBES[name], given, order)
    return gathered(out)


def operands(dtype: type, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(columns)
    a, b = rng.normal(size=(64, 16)).astype(dtype), rng.normal(size=(columns, 64)).astype(dtype)
    return a, b, rng.normal(size=(128, columns // 2)).astype(np.float32)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("name", "dtype", "columns"), [("f16", np.float16, 64), ("bf16", ml_dtypes.bfloat16, 128)])
def test_products_of_halves(name: str, dtype: type, columns: int, order: int) -> None:
    a, b, c = operands(dtype, columns)
    wanted = gathered(c) + a.astype(np.float64) @ b[:, 32:48].astype(np.float64).T
    np.testing.assert_array_equal(probe(name, a, b, c, 64, order), wanted.astype(np.float32))


def test_touched_registers_are_found() -> None:
    for order in (0, 1):
        with pytest.raises(VerifyError, match="operand in registers is touched"):
            probe("touched", *operands(np.float16, 64), 0, order)


def arguments(case: Case, splits: int = 1) -> dict:
    """Of a launch, with room for a float32 result."""
    rows, columns = case.input.shape[0], case.codes.shape[0]
    return {
        **case.arguments,
        "out": aligned(np.full((rows, columns), 7, np.float32)),
        "splits": splits,
        "workspace": aligned(np.full(splits * rows * (columns + 256), np.nan, np.float32)),
        "counters": np.zeros(64, np.int32),
    }


def check(case: Case, name: str, splits: int = 1, **more: np.ndarray | int) -> np.ndarray:
    """How far results may be off, at most once."""
    args = {**arguments(case, splits), **more}
    run_instance(f"wgmma_{case.name}", name, args, ("out", "counters"))
    assert not args["counters"].any()
    low = more.get("low")
    extra = 0.0 if low is None else reals(low) @ reals(more["up"]).T
    sizes = 0.0 if low is None else np.abs(reals(low)) @ np.abs(reals(more["up"])).T
    return np.abs(args["out"] - case.expected(False) - extra) / (case.bound(False) + 2.0**-20 * sizes)


def reals(halves: np.ndarray | int) -> np.ndarray:
    assert isinstance(halves, np.ndarray)
    return halves.view(np.float16).astype(np.float64)


@pytest.mark.parametrize("name", NAMES)
@given(
    rows=st.integers(1, 140),
    columns=st.integers(1, 140),
    eights=st.integers(1, 60),
    group=st.sampled_from([16, 32, 128, 4096]),
    splits=st.integers(1, 3),
    zeros=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=2)
def test_tiles_equal_meaning(
    name: str, rows: int, columns: int, eights: int, group: int, splits: int, zeros: bool, seed: int
) -> None:
    kind: Kind = "bf16" if "_bf16_" in name else "f16"
    assert (check(make_case("w4", kind, rows, columns, 8 * eights, group, seed, zeros), name, splits) <= 1).all()


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("code", WIDE_CODES)
def test_codes_equal_meaning(code: str, kind: Kind) -> None:
    assert (check(make_case(code, kind, 70, 40, 456, 128, 1), f"qc_wgmma_{code}_{kind}_128x128") <= 1).all()


def test_low_rank_branch_is_added() -> None:
    rng = np.random.default_rng(5)
    low, up = (aligned(rng.normal(size=(count, 32)).astype(np.float16).view(np.uint16)) for count in (70, 40))
    for splits in (1, 2):
        assert (check(make_case("w4", "f16", 70, 40, 200, 64, 1), SMALL, splits, low=low, up=up, rank=32) <= 1).all()


def test_touches_nothing_outside() -> None:
    case = make_case("w4", "f16", 37, 45, 328, 64, 3)
    found = run_sanitized("wgmma_w4", SMALL, arguments(case), ("out",))["out"]
    assert (np.abs(found - case.expected(False)) <= case.bound(False)).all()


@pytest.mark.parametrize("name", NAMES)
def test_shared_memory_has_no_bank_conflicts(name: str) -> None:
    kind: Kind = "bf16" if "_bf16_" in name else "f16"
    traffic = traffic_of("wgmma_w4", name, arguments(make_case("w4", kind, 128, 256, 192, 64, 1)))
    rows = 64 if "_64x" in name else 128
    assert traffic.shared_wavefronts == traffic.shared_ideal
    assert traffic.wgmma == 256 // 64 * (128 // rows) * (192 // 16)


@pytest.mark.parametrize("name", ["qc_wgmma_w4_f16_128x256", "qc_wgmma_w4_bf16_64x256"])
def test_loops_are_made_of_products_of_warpgroups(name: str) -> None:
    try:
        compiled = compile_cubin([(KERNELS["wgmma_w4"], instance_of("wgmma_w4", name))], HOPPER)
        found = dict(disassemble(compiled.cubin))[name]
    except UnsupportedError as error:
        pytest.skip(error.what)
    loop = found.main_loop()
    assert compiled.usage[name].spilled == compiled.usage[name].stack == 0
    assert loop["HGMMA"] == 16
    assert sum(loop.values()) <= 16 * 45
    assert any(opcode.startswith("LDGSTS.E.BYPASS") and opcode.endswith(".128") for opcode in found.opcodes)
    assert not found.uses_local_memory


def test_choice_is_made_for_many_rows_where_it_is_allowed() -> None:
    for rows in (64, 128, 4096):
        choice = choose_wgmma_wn("w4", "f16", rows, 4096, 4096, ALLOWED)
        assert choice is not None
        assert choice.instance in {one.name for one in KERNELS[choice.kernel].on(HOPPER)}
    assert choose_wgmma_wn("w4", "f16", 63, 4096, 4096, ALLOWED) is None
    assert choose_wgmma_wn("w4", "f16", 4096, 4096, 4096, HOPPER) is None
    assert choose_wgmma_wn("e2m1", "f16", 4096, 4096, 4096, ALLOWED) is None


def test_layers_of_many_rows_run_them() -> None:
    artifact = compile_block("hopper{wgmma=true, device=emulation, build=later}", "w4a16g32")
    x = activations(35)
    assert all("wgmma_w4" in layer.kernels for layer in read_library(artifact.folder / "cuda").layers)
    assert decibels(artifact(x), artifact.simulate(x)) > 50
