"""Convolutions of int8 images on tensor cores: every instance equals the reference bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.arch import ARCHITECTURES
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.integers import choose_conv_i8
from qcompiler.backends.reference import dense
from tests.cuda_harness import aligned, run_instance, run_sanitized, traffic_of

NAMES = [instance.name for instance in KERNELS["conv_i8"].instances]
ZERO = 7


def case(
    images: int, size: tuple[int, int], channels: tuple[int, int], window: tuple[int, int], seed: int, *steps: int
) -> tuple[dict, np.ndarray]:
    """Arguments, and the reference's result; `steps` are stride, padding and dilation, the same both ways."""
    rng = np.random.default_rng(seed)
    stride, padding, dilation = steps
    x = rng.integers(-128, 128, (images, *size, channels[0]), dtype=np.int8)
    w = rng.integers(-128, 128, (channels[1], *window, channels[0]), dtype=np.int8)
    factor = rng.uniform(1e-4, 1e-3, channels[1]).astype(np.float32)
    bias = rng.integers(-5000, 5000, channels[1], dtype=np.int32)
    float_w = torch.from_numpy(w.astype(np.float32)).permute(0, 3, 1, 2)
    float_x = torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2)
    expected = dense.conv(
        [float_x, torch.tensor(1.0), torch.tensor(float(ZERO))],
        [float_w, torch.from_numpy(factor), None],
        [torch.from_numpy(bias.astype(np.float32)), torch.tensor(1.0), None],
        *([stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], 1),
        op="aten.convolution",
        result=[torch.tensor(1.0), torch.tensor(-3.0)],
        low=-120,
        high=100,
    )
    places = expected.permute(0, 2, 3, 1)
    return {
        "input": aligned(x),
        "weight": aligned(w),
        "out": aligned(np.zeros(places.shape, np.int8)),
        "weight_scale": factor,
        "weight_scales": 1,
        "total_bias": (bias - ZERO * w.sum((1, 2, 3), dtype=np.int32)).astype(np.int32),
        "padding": aligned(np.full(16, ZERO, np.int8)),
        "rows": places[..., 0].numel(),
        "columns": channels[1],
        "depth": w[0].size,
        "splits": 1,
        "out_kind": 3,
        "zero_point": -3.0,
        "least": -120.0,
        "most": 100.0,
        "image_height": size[0],
        "image_width": size[1],
        "channels": channels[0],
        "window_width": window[1],
        "out_height": places.shape[1],
        "out_width": places.shape[2],
        **{
            f"{step}_{axis}": value
            for step, value in zip(("stride", "padding", "dilation"), steps, strict=True)
            for axis in "yx"
        },
    }, places.numpy()


@pytest.mark.parametrize("name", NAMES)
@given(
    images=st.integers(1, 2),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    channels=st.tuples(st.sampled_from([16, 48, 160]), st.integers(1, 70)),
    window=st.sampled_from([(1, 1), (3, 3), (3, 1)]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 1),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=3)
def test_equals_the_reference(
    name: str,
    images: int,
    height: int,
    width: int,
    channels: tuple[int, int],
    window: tuple[int, int],
    stride: int,
    padding: int,
    dilation: int,
    seed: int,
) -> None:
    args, expected = case(images, (height, width), channels, window, seed, stride, padding, dilation)
    run_instance("conv_i8", name, args, ("out",))
    np.testing.assert_array_equal(args["out"], expected)


def test_dilated_windows_and_shared_tiles() -> None:
    args, expected = case(1, (9, 8), (32, 20), (3, 3), 1, 1, 2, 2)
    shared = {"splits": 2, "workspace": np.zeros(2 * 2 * 64 * 64, np.int32), "counters": np.zeros(2, np.int32)}
    run_instance("conv_i8", "qc_conv_i8_64x64x128", {**args, **shared}, ("out", "counters"))
    np.testing.assert_array_equal(args["out"], expected)


def test_windows_have_no_bank_conflicts() -> None:
    args, _ = case(1, (12, 12), (64, 64), (3, 3), 1, 1, 1, 1)
    traffic = traffic_of("conv_i8", "qc_conv_i8_64x64x128", args)
    assert traffic.shared_wavefronts == traffic.shared_ideal
    assert traffic.mma_s8 == 3 * 64 // 16 * (64 // 8) * (640 // 32)


def test_touches_nothing_outside() -> None:
    args, expected = case(2, (5, 4), (16, 9), (3, 3), 1, 2, 1, 1)
    found = run_sanitized("conv_i8", "qc_conv_i8_16x128x128", args, ("out",))
    np.testing.assert_array_equal(found["out"], expected)


def test_choice_exists() -> None:
    for target in ARCHITECTURES.values():
        names = {one.name for one in KERNELS["conv_i8"].on(target)}
        assert choose_conv_i8(56 * 56, 64, 576, target).instance in names
