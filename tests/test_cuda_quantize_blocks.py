"""Activations to codes with a scale for each block of a row: the numbers of the specs, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.quantizers import FORMATS, SCALES, CodeFormat, Kind
from qcompiler.formats import FP4_E2M1
from qcompiler.spec import QuantSpec, choose_qparams, quantize, round_scale
from tests.cuda_harness import aligned, run_instance, run_sanitized, traffic_of
from tests.test_cuda_quantizers import TYPES, codes_of, memory, reals

OUTS = ("out", "scale")
SPECS: dict[tuple[CodeFormat, str], str] = {
    ("int8", "f32"): "int8 sym block=(1,{}) scale=f32 dynamic",
    ("int4", "f32"): "int4 sym block=(1,{}) scale=f32 dynamic",
    ("e4m3", "e8m0"): "fp8e4m3 sym block=(1,{}) scale=e8m0 dynamic",
    ("e2m1", "e8m0"): "fp4e2m1 sym block=(1,{}) scale=e8m0 dynamic",
}


def case(x: torch.Tensor, block: int, format_: CodeFormat, scales: str, spec: QuantSpec) -> dict:
    rows, width = x.shape
    out_width = -(-width // block) * block
    per_byte = 2 if format_ in ("int4", "e2m1") else 1
    return {
        "input": memory(x),
        "out": aligned(np.full((rows, out_width // per_byte), 0x55, np.uint8)),
        "scale": np.zeros((rows, out_width // block), np.float32 if scales == "f32" else np.uint8),
        "rows": rows,
        "width": width,
        "stride": width,
        "out_width": out_width,
        "format": FORMATS[format_],
        "scales": SCALES[scales],
        "lowest": float(spec.format.lowest),
        "highest": float(spec.format.highest),
    }


def values_of(given_case: dict) -> np.ndarray:
    if given_case["format"] != FORMATS["e2m1"]:
        return codes_of(given_case)
    out = torch.from_numpy(given_case["out"])
    nibbles = torch.stack([out & 15, out >> 4], -1).reshape(len(out), -1)
    return FP4_E2M1.decode(nibbles).float().numpy()


def scales_of(given_case: dict) -> np.ndarray:
    if given_case["scales"] == SCALES["e8m0"]:
        return np.ldexp(np.float32(1), given_case["scale"].astype(np.int32) - 127)
    if given_case["scales"] == SCALES["e4m3"]:
        return torch.from_numpy(given_case["scale"]).view(torch.float8_e4m3fn).float().numpy()
    return given_case["scale"]


@pytest.mark.parametrize(("format_", "scales"), SPECS)
@given(
    kind=st.sampled_from(tuple(TYPES)),
    block=st.sampled_from([16, 32, 64, 128]),
    rows=st.integers(1, 6),
    width=st.integers(1, 300),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=15)
def test_equals_meaning(
    format_: CodeFormat, scales: str, kind: Kind, block: int, rows: int, width: int, seed: int
) -> None:
    spec = QuantSpec.parse(SPECS[format_, scales].format(block))
    x = reals(seed, rows, width, kind)
    given_case = case(x, block, format_, scales, spec)
    run_instance("quantize_blocks", f"qc_quantize_blocks_{kind}_{block}", given_case, OUTS)
    scale, zero = choose_qparams(x, spec)
    assert isinstance(scale, torch.Tensor)
    np.testing.assert_array_equal(scales_of(given_case), scale.numpy())
    np.testing.assert_array_equal(values_of(given_case)[:, :width], quantize(x.float(), scale, zero, spec).numpy())
    np.testing.assert_array_equal(values_of(given_case)[:, width:], 0)


@given(rows=st.integers(1, 6), width=st.integers(1, 200), outer=st.floats(0.125, 2, width=32), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_two_levels_of_scales(rows: int, width: int, outer: float, seed: int) -> None:
    spec = QuantSpec.parse("fp4e2m1 sym block=(1,16) scale=e4m3 block=(-1,-1) scale=f32")
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 50
    x[:, : width // 2] *= 1e-3
    given_case = {**case(x, 16, "e2m1", "e4m3", spec), "outer": outer}
    run_instance("quantize_blocks", "qc_quantize_blocks_f32_16", given_case, OUTS)
    padded = torch.nn.functional.pad(x, (0, -width % 16)).reshape(rows, -1, 16).abs().amax(-1)
    ideal = padded / torch.tensor(6.0) / torch.tensor(outer)
    inner = round_scale(torch.where(padded == 0, torch.ones(()), ideal), "e4m3")
    np.testing.assert_array_equal(scales_of(given_case), inner.numpy())
    expected = quantize(x, (inner, torch.tensor([[outer]])), None, spec)
    np.testing.assert_array_equal(values_of(given_case)[:, :width], expected.numpy())


def test_reads_and_writes_whole_sectors_once() -> None:
    spec = QuantSpec.parse(SPECS["e4m3", "e8m0"].format(32))
    traffic = traffic_of(
        "quantize_blocks", "qc_quantize_blocks_f16_32", case(reals(1, 4, 1024, "f16"), 32, "e4m3", "e8m0", spec)
    )
    assert traffic.global_sectors == traffic.global_ideal == 4 * 1024 * 3 // 32
    assert traffic.shared_wavefronts == 0


def test_nothing_is_touched_beyond_arrays() -> None:
    spec = QuantSpec.parse(SPECS["e2m1", "e8m0"].format(32))
    given_case = case(reals(4, 5, 203, "f16"), 32, "e2m1", "e8m0", spec)
    found = run_sanitized("quantize_blocks", "qc_quantize_blocks_f16_32", given_case, OUTS)
    run_instance("quantize_blocks", "qc_quantize_blocks_f16_32", given_case, OUTS)
    for name in OUTS:
        np.testing.assert_array_equal(found[name], given_case[name])


def test_every_instance_is_named_after_its_block() -> None:
    names = {instance.name for instance in KERNELS["quantize_blocks"].instances}
    assert names == {f"qc_quantize_blocks_{kind}_{block}" for kind in TYPES for block in (16, 32, 64, 128)}
