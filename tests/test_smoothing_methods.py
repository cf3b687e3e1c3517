"""Smoothing methods as functions of statistics: the gains that their papers promise, and odd channels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.passes.transform.smoothing.awq import Awq
from qcompiler.passes.transform.smoothing.cfp import Cfp, split_outliers
from qcompiler.passes.transform.smoothing.crossquant import CrossQuant
from qcompiler.passes.transform.smoothing.driver import best
from qcompiler.passes.transform.smoothing.gps import Gps
from qcompiler.passes.transform.smoothing.llm_fp4 import PreShift
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingSite, View, migrated
from qcompiler.passes.transform.smoothing.qsam2 import minimum_norm
from qcompiler.passes.transform.smoothing.repq_vit import (
    RepqVit,
    channel_rounded,
    clipped_ranges,
    reparameterised,
)
from qcompiler.passes.transform.smoothing.repquant import Repquant, learned_ranges, output_loss
from qcompiler.passes.transform.smoothing.smooth import CHOICES, Smooth
from qcompiler.passes.transform.smoothing.smoothquant import SmoothQuant
from qcompiler.passes.transform.smoothing.sqb import SqB
from qcompiler.spec import QuantSpec, dequantize, quantize
from tests.smoothing_tools import (
    CHANNEL8,
    TOKEN8,
    decibels,
    matrix,
    noise,
    outliers,
    site,
    spread,
)

SEEDS = range(3)
METHODS = (*(method for method in CHOICES if method.name != "repquant"), Repquant(steps=10), Smooth())


def odd_sites() -> dict[str, SmoothingSite]:
    """Sites that make formulas divide by zero."""
    x, weight = noise(40, 12), matrix(8, 12)
    dead, constant, huge, unread = x.clone(), x.clone(), x.clone(), weight.clone()
    dead[:, 3] = 0
    constant[:, 4] = 2.5
    huge[:, 5] *= 1e12
    unread[:, 6] = 0
    return {
        "zero channel": site(dead, weight),
        "constant channel": site(constant, weight),
        "huge channel": site(huge, weight),
        "tiny values": site(x * 1e-20, weight),
        "zero column": site(x, unread),
        "one channel": site(x[:, :1], weight[:, :1]),
        "nothing but zeros": site(torch.zeros(4, 12), weight),
        "nothing but zero weights": site(x, torch.zeros(8, 12)),
        "one sample": site(x[:1], weight),
        "no shift": site(constant, weight, shiftable=False),
        "weights only": site(dead, weight, inputs="", weight="int3 sym block=(1,4) scale=f32"),
        "activations only": site(dead, weight, weight=""),
        "per token": site(dead, weight, inputs=TOKEN8),
        "asymmetric": site(constant, weight, inputs="uint4 asym block=(-1,-1) scale=f32"),
        "small floats": site(dead, weight, inputs="fp4e2m1 sym block=(-1,-1) scale=f32"),
    }


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_vectors_are_positive_and_finite_whatever_the_channels_hold(method: SmoothQuant) -> None:
    for name, odd in odd_sites().items():
        for candidate in method.candidates(odd):
            assert candidate.scale.shape == (odd.size,), name
            assert bool((candidate.scale > 0).all() and candidate.scale.isfinite().all()), name
            if candidate.shift is not None:
                assert bool(candidate.shift.isfinite().all()), name
                assert odd.shiftable or not bool(candidate.shift.any()), name


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_what_is_chosen_is_never_worse_than_nothing(method: SmoothQuant) -> None:
    for name, odd in odd_sites().items():
        chosen = best(odd, method.candidates(odd), guard=True)
        assert chosen is None or odd.error(chosen) < odd.error(None), name


def test_without_a_guard_the_fixed_form_is_taken() -> None:
    flat = site(noise(64, 8), matrix(8, 8))
    candidates = SmoothQuant().candidates(flat)
    assert best(flat, candidates, guard=False) is candidates[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_smoothquant_moves_outliers_into_the_weights(seed: int) -> None:
    planted = site(outliers(512, 256, 4, 30, seed), matrix(256, 256))
    (smoothing,) = SmoothQuant().candidates(planted)
    assert decibels(planted.error(smoothing)) > decibels(planted.error(None)) + 9
    torch.testing.assert_close(smoothing.scale, (planted.absmax / planted.columns).sqrt())


def test_a_searched_share_is_no_worse_than_a_fixed_one() -> None:
    planted = site(outliers(256, 64, 3, 40), matrix(64, 64), inputs=TOKEN8)
    searched = best(planted, SmoothQuant(search=True).candidates(planted), guard=True)
    assert planted.error(searched) <= planted.error(SmoothQuant().candidates(planted)[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_sqb_gains_over_smoothquant_where_channels_are_off_centre(seed: int) -> None:
    x = outliers(512, 256, 4, 10, seed) + 6 * noise(256, seed=seed + 9)
    shifted = site(x, matrix(256, 256), inputs="uint6 asym block=(-1,-1) scale=f32")
    smooth, centred = (method.candidates(shifted)[0] for method in (SmoothQuant(), SqB()))
    assert decibels(shifted.error(centred)) > decibels(shifted.error(smooth)) + 2.5


def uneven(seed: int) -> torch.Tensor:
    return spread(512, 192, seed) + 3 * noise(192, seed=seed + 7)


@pytest.mark.parametrize("seed", SEEDS)
def test_repq_is_as_good_per_tensor_as_per_channel(seed: int) -> None:
    tensor = site(uneven(seed), matrix(192, 192), inputs="uint4 asym block=(-1,-1) scale=f32")
    channel = site(uneven(seed), matrix(192, 192), inputs="uint4 asym block=(-1,1) scale=f32")
    smoothing = RepqVit().candidates(tensor)[0]
    assert decibels(tensor.error(smoothing)) > decibels(tensor.error(None)) + 6
    assert decibels(tensor.error(smoothing)) > decibels(channel.error(None)) - 1


def test_repq_makes_one_quantizer_do_what_one_per_channel_did() -> None:
    x, spec = uneven(1).double(), QuantSpec.parse("uint4 asym block=(-1,-1) scale=f32")
    low, high = clipped_ranges(x, spec, asymmetric=True)
    smoothing = reparameterised(low, high, spec, shiftable=True)
    assert smoothing.shift is not None
    step = ((high - low) / 15).mean()
    zero = (-low / ((high - low) / 15)).round().mean().clamp(0, 15).round()
    moved = (x - smoothing.shift) / smoothing.scale
    scale, point = step.float().reshape(1, 1), zero.float().reshape(1, 1)
    codes = quantize(moved, scale, point, spec)
    back = dequantize(codes, scale, point, spec) * smoothing.scale + smoothing.shift
    wanted = channel_rounded(x, low, high, spec)
    apart = (back - wanted).abs().amax(0) / (high - low)
    # A float32 scale moves single values across the middle between two codes.
    assert apart.quantile(0.9) < 1e-6
    assert apart.max() < 1.01 / 15


def test_learned_ranges_lose_less_than_the_largest_and_the_clipped_ones() -> None:
    x = uneven(0)[:, :32]
    for row in range(0, 512, 31):
        channel = 7 * row % 32
        x[row, channel] += 8 * x[:, channel].std()
    spiky = site(x, matrix(16, 32), inputs="uint4 asym block=(-1,-1) scale=f32")
    spec = spiky.spec
    assert spec is not None
    rows = spiky.rows.double()
    learned = output_loss(spiky, *learned_ranges(spiky, spec, 40, 0.1), spec)
    assert learned < 0.9 * output_loss(spiky, rows.amin(0), rows.amax(0), spec)
    assert learned < 0.95 * output_loss(spiky, *clipped_ranges(rows, spec, True), spec)
    assert decibels(spiky.error(Repquant(40, 0.1).candidates(spiky)[0])) > decibels(spiky.error(None)) + 4


@pytest.mark.parametrize("seed", SEEDS)
def test_gps_balances_both_errors(seed: int) -> None:
    x = spread(512, 128, seed)
    x[:, :4] *= 12
    planted = site(
        x, matrix(128, 128), inputs="int6 sym block=(-1,-1) scale=f32", weight="int6 sym block=(1,-1) scale=f32"
    )
    (smoothing,) = Gps().candidates(planted)
    assert decibels(planted.error(smoothing)) > decibels(planted.error(None)) + 4


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=20)
def test_the_fourth_root_minimises_what_gps_assumes(activation: float, weight: float) -> None:
    def cost(scale: float) -> float:
        return activation * scale**2 + weight / scale**2

    chosen = (weight / activation) ** 0.25
    assert cost(chosen * 1.3) > 1.05 * cost(chosen)
    assert cost(chosen / 1.3) > 1.05 * cost(chosen)


@pytest.mark.parametrize("seed", SEEDS)
def test_cfp_finds_exactly_the_planted_outliers(seed: int) -> None:
    far = 9 + 6 * torch.rand(12, generator=torch.Generator().manual_seed(seed))
    values = torch.cat([noise(4000, seed=seed).abs(), far])
    reserved, threshold = split_outliers(values)
    assert int((values >= threshold).sum()) == 12
    assert reserved < threshold


def test_cfp_leaves_channels_alone_that_do_not_stand_out() -> None:
    planted = site(outliers(256, 64, 2, 50), matrix(16, 64))
    (smoothing,) = Cfp().candidates(planted)
    assert int((smoothing.scale != 1).sum()) == 2
    assert decibels(planted.error(smoothing)) > decibels(planted.error(None)) + 4
    assert split_outliers(torch.ones(20)) == (1.0, torch.inf)


def test_crossquant_leaves_few_zeros_beside_large_columns() -> None:
    planted = site(outliers(512, 128, 3, 60), matrix(64, 128), inputs=TOKEN8)
    (smoothing,) = CrossQuant().candidates(planted)
    assert planted.error(smoothing) < 0.4 * planted.error(None)
    view = planted.views[0]
    moved = view.held_out * view.multiplier(smoothing)

    def zeros(rows: torch.Tensor) -> float:
        return float((rows.abs() < rows.abs().amax(1, keepdim=True) / 254).float().mean())

    assert zeros(moved) < 0.2 * zeros(view.held_out)


@pytest.mark.parametrize("seed", SEEDS)
def test_awq_protects_salient_channels(seed: int) -> None:
    planted = site(spread(256, 128, seed), matrix(64, 128), inputs="", weight="int3 sym block=(1,32) scale=f32")
    chosen = best(planted, Awq().candidates(planted), guard=True)
    assert decibels(planted.error(chosen)) > decibels(planted.error(None)) + 1


@pytest.mark.parametrize("seed", SEEDS)
def test_powers_of_two_widen_small_floats(seed: int) -> None:
    planted = site(spread(512, 128, seed), matrix(64, 128), inputs="fp4e2m1 sym block=(-1,-1) scale=f32")
    (smoothing,) = PreShift().candidates(planted)
    assert decibels(planted.error(smoothing)) > decibels(planted.error(None)) + 2
    assert smoothing.scale.log2().equal(smoothing.scale.log2().round())
    assert smoothing.scale.log2().min() >= -3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_weight_of_least_norm_computes_the_same_on_the_data(seed: int) -> None:
    basis = noise(40, 256, seed=seed)
    x, fresh = noise(512, 40, seed=seed + 1) @ basis, noise(128, 40, seed=seed + 2) @ basis
    weight = matrix(128, 256)
    weight[noise(128, 256, seed=seed + 3) > 3] *= 10
    smaller = minimum_norm(weight, x.double().T @ x.double() / len(x), 1e-9)
    assert smaller.norm() < 0.75 * weight.norm()
    wanted = fresh.double() @ weight.double().T
    error = (fresh.double() @ smaller.T - wanted).square().sum() / wanted.square().sum()
    assert decibels(float(error)) > 60
    calibrated = site(fresh, smaller.float(), inputs="", weight="int3 sym block=(1,-1) scale=f32")
    plain = site(fresh, weight, inputs="", weight="int3 sym block=(1,-1) scale=f32")
    assert decibels(calibrated.error(None)) > decibels(plain.error(None)) + 2


def test_copies_of_a_coordinate_share_the_largest_statistics() -> None:
    x, weight = noise(32, 6), matrix(4, 6)
    place = torch.tensor([0, 1, 0, 1, -1, 2])
    whole = site(x, weight)
    view = whole.views[0]
    shared = SmoothingSite("shared", 3, (View(view.low, view.high, x, -1, view.spec, view.readers, place),))
    assert shared.absmax[0] == whole.absmax[[0, 2]].max()
    assert shared.columns[1] == whole.columns[[1, 3]].max()
    assert shared.rows.shape == (32, 3)
    assert shared.rows[:, 0].sort().values.equal(x[::2, [0, 2]].flatten().sort().values)
    smoothing = Smoothing(torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64))
    assert shared.views[0].multiplier(smoothing).tolist() == [1 / 2, 1 / 3, 1 / 2, 1 / 3, 1, 1 / 4]


def test_migration_is_off_where_a_side_is_zero() -> None:
    found = migrated(torch.tensor([4.0, 0.0, 9.0]), torch.tensor([1.0, 2.0, 0.0]), 0.5, 0.5)
    assert found.tolist() == [2.0, 1.0, 1.0]


def test_the_combination_is_as_good_as_its_best_method() -> None:
    planted = site(uneven(2)[:, :48], matrix(32, 48), inputs="uint4 asym block=(-1,-1) scale=f32", weight=CHANNEL8)
    several = Smooth(methods="smoothquant|sqb|repq_vit|gps|cfp")
    chosen = planted.error(best(planted, several.candidates(planted), guard=True))
    singles = [planted.error(best(planted, method.candidates(planted), guard=True)) for method in several.chosen]
    assert chosen == min(singles)
