"""The output error by which transforms are chosen."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from qcompiler.passes.transform.evaluate import (
    Reader,
    layer_error,
    reading_error,
    rounded,
    rounded_input,
    row_spec,
)
from qcompiler.spec import QuantSpec
from tests.smoothing_tools import CHANNEL8, TENSOR8, TOKEN8, decibels, matrix, noise, outliers, spec


def test_the_error_is_that_of_the_rounded_layer_over_its_output() -> None:
    x, weight = noise(32, 16), matrix(8, 16)
    inputs, weights = spec(TOKEN8), spec(CHANNEL8)
    wanted = x @ weight.T
    got = rounded(x, inputs) @ rounded(weight, weights).T
    expected = ((got - wanted).square().sum() / wanted.square().sum()).item()
    assert layer_error(x, weight, inputs, weights) == pytest.approx(expected, rel=1e-5)


def test_nothing_is_lost_in_float() -> None:
    x, weight = noise(32, 16), matrix(8, 16)
    assert layer_error(x, weight, None, None) == 0.0
    turn = torch.linalg.qr(noise(16, 16).double()).Q
    for transform in (noise(16).abs() + 0.1, turn, noise(16, 16, seed=4)):
        assert layer_error(x, weight, None, None, transform, noise(16, seed=3)) < 1e-9


@pytest.mark.parametrize("transform", [None, 2.0])
def test_a_layer_without_output_has_an_infinite_error_when_it_gains_one(transform: float | None) -> None:
    scale = None if transform is None else torch.full((4,), transform)
    assert layer_error(noise(5, 4), torch.zeros(3, 4), spec(TENSOR8), spec(CHANNEL8), scale) == 0.0
    assert layer_error(torch.full((5, 4), math.inf), torch.ones(3, 4), spec(TENSOR8), None, scale) == math.inf


def test_a_diagonal_and_its_matrix_mean_the_same() -> None:
    x, weight, scale = outliers(64, 16, 2, 20), matrix(8, 16), noise(16).abs() + 0.5
    one = layer_error(x, weight, spec(TENSOR8), spec(CHANNEL8), scale)
    two = layer_error(x, weight, spec(TENSOR8), spec(CHANNEL8), torch.diag(scale))
    assert one == pytest.approx(two, rel=1e-3)


def test_layers_of_one_value_share_the_error() -> None:
    x, weights = outliers(64, 16, 2, 20), (matrix(8, 16), matrix(24, 16, seed=8))
    readers = [Reader(weight, spec(CHANNEL8)) for weight in weights]
    joined = Reader(torch.cat(weights), spec(CHANNEL8))
    assert reading_error(x, readers, spec(TOKEN8)) == pytest.approx(reading_error(x, [joined], spec(TOKEN8)), rel=1e-5)


def convolution(groups: int) -> tuple[Tensor, Reader]:
    def product(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, 1, 1, 1, groups)

    return noise(2, 8, 5, 5), Reader(
        noise(12 if groups < 8 else 8, 8 // groups, 3, 3, seed=1), None, product, 1, groups
    )


def transposed(groups: int) -> tuple[Tensor, Reader]:
    def product(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, None, 2, 1, 1, groups)

    return noise(2, 8, 5, 5), Reader(noise(8, 3, 3, 3, seed=1), None, product, 0, groups)


@pytest.mark.parametrize("make", [convolution, transposed])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_scales_go_through_convolutions_with_and_without_groups(make: type, groups: int) -> None:
    x, reader = make(groups)
    scale = noise(8, seed=2).abs() + 0.5
    assert reading_error(x, [reader], None, scale, axis=1) < 1e-10
    columns = reader.columns
    assert columns.shape[0] == 8
    channel = torch.zeros_like(x)
    channel[:, 5] = 1
    only = reader.product(channel, reader.weight)
    without = Reader(reader.weight, None, reader.product, reader.axis, groups).transformed(
        torch.where(torch.arange(8) == 5, 1e12, 1.0)
    )
    assert reader.product(channel, without).abs().max() < 1e-9 * only.abs().max()


def test_a_matrix_goes_through_all_taps_of_a_convolution() -> None:
    x, reader = convolution(1)
    turn = torch.linalg.qr(noise(8, 8, seed=3).double()).Q
    assert reading_error(x, [reader], None, turn, axis=1) < 1e-10


def test_a_static_range_clips_what_weighs_little() -> None:
    x = outliers(256, 32, 1, 50)
    flat = torch.ones(32)
    quiet = torch.where(torch.arange(32) == 0, 1e-4, 1.0)

    def loss(energies: Tensor) -> float:
        error = rounded_input(x, QuantSpec.parse("int4 sym block=(-1,-1) scale=f32"), energies) - x
        return error[:, 1:].square().mean().item()

    assert loss(quiet) < 0.3 * loss(flat)


@given(st.sampled_from(["(-1,-1,-1)", "(1,1,-1)", "(-1,-1,1)", "(1,1,4)"]), st.integers(0, 9))
@settings(deadline=None, max_examples=20)
def test_rows_are_rounded_like_the_value_they_were_taken_from(block: str, seed: int) -> None:
    whole = QuantSpec.parse(f"int4 sym block={block} scale=f32 dynamic")
    x = noise(3, 5, 8, seed=seed)
    rows = row_spec(whole)
    assert torch.equal(rounded(x, whole).reshape(-1, 8), rounded(x.reshape(-1, 8), rows))


def test_images_as_rows_of_pixels() -> None:
    images = QuantSpec.parse("int8 sym block=(1,-1,1,1) scale=f32 dynamic")
    assert row_spec(images, 1).block == (1, -1)
    assert row_spec(QuantSpec.parse("int8 sym block=(-1,1,-1,-1) scale=f32"), 1).block == (-1, 1)
    x = noise(2, 4, 3, 3)
    pixels = rounded(x, images).movedim(1, -1).reshape(-1, 4)
    assert torch.equal(pixels, rounded(x.movedim(1, -1).reshape(-1, 4), row_spec(images, 1)))


def test_smoothing_gains_what_is_known_of_it() -> None:
    x, weight = outliers(512, 256, 4, 30), matrix(256, 256)
    scale = (x.abs().amax(0) / weight.abs().amax(0)).sqrt()
    plain, smooth = (layer_error(x, weight, spec(TENSOR8), spec(CHANNEL8), one) for one in (None, 1 / scale))
    assert decibels(smooth) > decibels(plain) + 9
