"""Norms and codes in one kernel: reals within a bound of the framework's norm, codes those of the reals exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.quantizers import FORMATS, Kind, choose
from qcompiler.spec import QuantSpec, choose_qparams, quantize
from tests.cuda_harness import run_instance, run_sanitized
from tests.test_cuda_quantizers import SPECS, TYPES, case, codes_of, reals

KERNEL = KERNELS["norm_quantize"]
EPS = 1e-5


def check(name: str, x: torch.Tensor, centred: bool, affine: bool, spec: QuantSpec) -> None:
    rows, width = x.shape
    weight, bias = (torch.randn(width), torch.randn(width)) if affine else (None, None)
    extra = {
        "weight": None if weight is None else weight.numpy(),
        "bias": None if bias is None or not centred else bias.numpy(),
        "centred": int(centred),
        "eps": EPS,
    }
    found = np.zeros((rows, width), np.float32)
    given_case = {**case(x, spec), **extra}
    if x.dtype == torch.float32:
        run_instance(
            "norm_quantize", name, {**given_case, "out": found, "out_width": width, "format": FORMATS["real"]}, ("out",)
        )
        wide = [None if part is None else part.double() for part in (weight, bias)]
        norm = torch.nn.functional.layer_norm if centred else torch.nn.functional.rms_norm
        ideal = norm(x.double(), (width,), *(wide if centred else wide[:1]), eps=EPS).float().numpy()
        largest = np.abs(ideal).max() + 1
        np.testing.assert_allclose(found, ideal, rtol=0, atol=2.0**-22 * largest * (4 + np.sqrt(width)))
        run_instance("norm_quantize", name, given_case, ("out", "scale", "zero", "sum"))
        scale, zero = choose_qparams(torch.from_numpy(found), spec)
        expected = quantize(torch.from_numpy(found), scale, zero, spec).numpy() + given_case["shift"]
        np.testing.assert_array_equal(codes_of(given_case)[:, :width], expected)
        np.testing.assert_array_equal(given_case["sum"], expected.sum(-1))
        return
    run_instance("norm_quantize", name, given_case, ("out", "scale", "zero", "sum"))
    same = {**case(x.float(), spec), **extra}
    run_instance("norm_quantize", choose(KERNEL, "f32", same["out_width"]).name, same, ("out",))
    np.testing.assert_array_equal(given_case["out"], same["out"])


@given(
    kind=st.sampled_from(tuple(TYPES)),
    text=st.sampled_from(SPECS[:3]),
    rows=st.integers(1, 5),
    width=st.integers(1, 1300),
    seed=st.integers(0, 99),
    centred=st.booleans(),
    affine=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_equals_norm_then_codes(
    kind: Kind, text: str, rows: int, width: int, seed: int, centred: bool, affine: bool
) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(rows, width) * 3 + torch.randn(rows, 1)).to(TYPES[kind])
    check(choose(KERNEL, kind, width + 31).name, x, centred, affine, QuantSpec.parse(text))


@pytest.mark.parametrize("name", [instance.name for instance in KERNEL.instances])
def test_every_instance(name: str) -> None:
    kind: Kind = next(one for one in TYPES if f"_{one}_" in name)
    width = int(name.rpartition("_")[2])
    check(name, reals(3, 2, width, kind).clamp(-100, 100), True, True, QuantSpec.parse(SPECS[0]))


def test_nothing_is_touched_beyond_arrays() -> None:
    x = reals(4, 5, 203, "f16")
    given_case = {**case(x, QuantSpec.parse(SPECS[0])), "weight": np.ones(203, np.float32), "eps": EPS}
    out = run_sanitized("norm_quantize", choose(KERNEL, "f16", 224).name, given_case, ("out",))["out"]
    run_instance("norm_quantize", choose(KERNEL, "f16", 224).name, given_case, ("out",))
    np.testing.assert_array_equal(out, given_case["out"])
