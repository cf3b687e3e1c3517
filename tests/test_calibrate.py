"""Activation ranges, their driver, and bias correction."""

from collections.abc import Sequence
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import InputError, PassError, SpecError
from qcompiler.histogram import Histogram
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program
from qcompiler.passes.calibrate import METHODS, BiasCorrection, Calibrate, Entropy, MinMax, Mse, Percentile
from qcompiler.passes.calibrate.energy import channel_energies
from qcompiler.passes.calibrate.entropy import divergence
from qcompiler.passes.calibrate.method import Energy, RangeMethod
from qcompiler.passes.calibrate.mse import least_squares
from qcompiler.passes.solve import Nearest, WeightRanges
from qcompiler.pipeline import Context, Pass, run_passes
from qcompiler.spec import QuantSpec, choose_qparams, dequantize, qparams_from_range, quantize
from qcompiler.stats import Batch
from qcompiler.target import Backend, Target

UINT8 = QuantSpec.parse("uint8 asym block=(-1,-1) scale=f32")
SPECS = [
    UINT8,
    QuantSpec.parse("int8 sym block=(-1,-1) scale=f32"),
    QuantSpec.parse("uint4 asym block=(-1,1) scale=f16"),
    QuantSpec.parse("int4 asym block=(-1,1) scale=f32"),
    QuantSpec.parse("fp8e4m3 sym block=(-1,-1) scale=f32"),
    QuantSpec.parse("fp4e2m1 sym block=(-1,-1) scale=e4m3 block=(-1,-1) scale=f32"),
]
TARGET = Target("nowhere", cast(Backend, None), ())


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ranges(
    method: RangeMethod, spec: QuantSpec, *batches: torch.Tensor, energy: Energy | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    accumulator = method.reducer(spec.block, energy).start()
    for batch in batches:
        accumulator.update(batch)
    return method.ranges([accumulator.result()], spec)


def squared_error(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, spec: QuantSpec) -> float:
    scale, zero_point = qparams_from_range(low.reshape(1, 1), high.reshape(1, 1), spec)
    found = dequantize(quantize(x, scale, zero_point, spec), scale, zero_point, spec)
    return (found - x).double().square().mean().item()


def compiled(program: Program, passes: Sequence[Pass], batches: Sequence[Batch] = ()) -> Program:
    return run_passes(program, passes, Context(TARGET), batches, sample=[])[0]


def values(program: Program, name: str) -> list[float]:
    return program.param(program.node(name)).flatten().tolist()


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("method", [cls() for cls in METHODS], ids=lambda method: method.name)
@given(st.integers(0, 999), st.sampled_from(["both", "positive", "negative", "zero", "constant", "one"]))
@settings(deadline=None, max_examples=8)
def test_the_law_of_ranges(method: RangeMethod, spec: QuantSpec, seed: int, kind: str) -> None:
    data = noise(64, 3, seed=seed) * 10.0 ** (seed % 7 - 3)
    data = {
        "both": data,
        "positive": data.abs(),
        "negative": -data.abs(),
        "zero": torch.zeros(64, 3),
        "constant": torch.full((64, 3), -2.5),
        "one": data[:1],
    }[kind]
    low, high = ranges(method, spec, *data.split(16))
    again_low, again_high = ranges(method, spec, *data.split(16))
    assert torch.equal(low, again_low)
    assert torch.equal(high, again_high)
    shape = spec.levels[0].scale_shape(data.shape)
    scales, zero_point = qparams_from_range(low.reshape(*shape), high.reshape(*shape), spec)  # pyright: ignore[reportArgumentType, reportCallIssue]
    for scale in scales if isinstance(scales, tuple) else (scales,):
        assert bool((scale > 0).all() & scale.isfinite().all())
    assert bool((quantize(torch.zeros(64, 3), scales, zero_point, spec) == zero_point).all())
    inside = data.abs().max().item() * (1 + 1e-6)
    assert bool((low >= -inside).all())
    assert bool((high <= inside).all())


def test_minmax_is_what_a_dynamic_grid_would_choose() -> None:
    data = noise(40, 6)
    low, high = ranges(MinMax(), UINT8, *data.split(8))
    scale, zero_point = qparams_from_range(low.reshape(1, 1), high.reshape(1, 1), UINT8)
    expected, expected_zero = choose_qparams(data, UINT8)
    assert torch.equal(cast(torch.Tensor, scale), cast(torch.Tensor, expected))
    assert torch.equal(zero_point, expected_zero)


@given(st.floats(60, 99.99), st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_percentiles_are_right_within_a_bin(percentile: float, seed: int) -> None:
    data = noise(1000, 20, seed=seed).exp() - 1.5
    low, high = ranges(Percentile(percentile), UINT8, *data.split(250))
    bin_width = (data.max() - data.min()).item() / 1300
    allowed = (1 - percentile / 100) * data.numel()
    assert (data > high + bin_width).sum() <= allowed + 1
    assert (data >= high - bin_width).sum() >= allowed - 1
    assert (data < low - bin_width).sum() <= allowed + 1
    assert (data <= low + bin_width).sum() >= allowed - 1


def test_a_symmetric_percentile_looks_at_magnitudes() -> None:
    data = torch.cat([noise(5000, 1).abs(), torch.tensor([[-3.0]])])
    low, high = ranges(Percentile(90.0), SPECS[1], data)
    assert high.item() == pytest.approx(1.645, abs=0.1)
    assert low == -high


@pytest.mark.parametrize(("bits", "gain"), [(4, 1.8), (8, 1.0)])
@pytest.mark.parametrize("signed", [True, False])
def test_mse_beats_minmax(bits: int, gain: float, signed: bool) -> None:
    data = noise(20000, 1) ** 3
    data = data if signed else data.abs()
    spec = QuantSpec.parse(f"uint{bits} asym block=(-1,-1) scale=f32")
    found = squared_error(data, *ranges(Mse(), spec, data), spec)
    assert found * gain <= squared_error(data, *ranges(MinMax(), spec, data), spec)


@pytest.mark.parametrize("text", ["uint4 asym", "int4 sym", "fp4e2m1 sym", "nf4 sym"])
def test_mse_finds_what_brute_force_finds(text: str) -> None:
    spec = QuantSpec.parse(f"{text} block=(-1,-1) scale=f32")
    data = noise(3000, 1) ** 3 + 0.4
    found = squared_error(data, *ranges(Mse(), spec, data), spec)
    lows = torch.linspace(1, 0.02, 50) * data.min() if not spec.symmetric else torch.zeros(1)
    highs = torch.linspace(1, 0.02, 50) * data.abs().max()
    best = min(squared_error(data, low, high, spec) for low in lows for high in highs)
    assert found <= best * 1.03


def test_mse_keeps_the_range_of_a_distribution_without_tails() -> None:
    data = torch.linspace(-1, 3, 8192)[:, None]
    low, high = ranges(Mse(), UINT8, data)
    assert low.item() == pytest.approx(-1.0, abs=0.03)
    assert high.item() == pytest.approx(3.0, abs=0.03)


def test_mse_cuts_each_end_for_itself() -> None:
    data = torch.cat([torch.linspace(-1, 1, 4000), torch.tensor([40.0])])[:, None]
    low, high = ranges(Mse(), QuantSpec.parse("uint4 asym block=(-1,-1) scale=f32"), data)
    assert high.item() < 20
    assert low.item() < -0.5


def test_mse_spends_the_grid_on_the_channels_that_weigh() -> None:
    data = noise(4000, 2) * torch.tensor([1.0, 30.0])
    energy = Energy(1, (1.0, 1e-6))
    spec = QuantSpec.parse("uint4 asym block=(-1,-1) scale=f32")
    weighted = ranges(Mse(), spec, data, energy=energy)[1].item()
    ignored = ranges(Mse(weighted=False), spec, data, energy=energy)[1].item()
    assert weighted < 5 < 30 < ignored


def test_mse_of_nothing_that_weighs_is_the_whole_range() -> None:
    empty = Histogram(0, -2, torch.zeros(8, dtype=torch.float64), -2.0, 5.0)
    assert least_squares(empty, UINT8) == (-2.0, 5.0)


def test_entropy_cuts_long_tails_and_little_else() -> None:
    spec = QuantSpec.parse("int8 sym block=(-1,-1) scale=f32")
    uniform = torch.linspace(-1, 1, 100_000)[:, None]
    assert ranges(Entropy(), spec, uniform)[1].item() > 0.9
    tailed = noise(100_000, 1)
    tailed[:20] *= 40
    top = ranges(Entropy(), spec, tailed)[1].item()
    assert 2.0 < top < 15 < tailed.abs().max().item()
    assert squared_error(tailed[20:], torch.tensor(-top), torch.tensor(top), spec) < 1e-3


def test_divergence_is_zero_where_quantization_loses_nothing() -> None:
    counts = torch.tensor([4.0, 4, 2, 2, 1, 1, 3, 3], dtype=torch.float64)
    assert divergence(counts, 8, 4) == pytest.approx(0.0, abs=1e-12)
    assert divergence(counts, 8, 2) > 0.01
    assert divergence(counts, 4, 4) > 0.1


def test_options_are_checked() -> None:
    with pytest.raises(SpecError, match="no range method 'best'"):
        Calibrate(method="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SpecError, match="percentile 40"):
        Calibrate(percentile=40.0)
    with pytest.raises(SpecError, match="momentum"):
        Calibrate(momentum=1.0)


SHARED = """
spec @a = uint8 asym block=(-1,-1) scale=f32
program @net stage=quantized {
  input %x : f32[4,3]
  param %s : f32[1,1] = unset()
  param %z : f32[1,1] = unset()
  param %c : f32[1,3] = values(-6.0, 0.0, 1.0)
  %r = aten.relu %x : f32[4,3]
  %xq = qc.quantize %x, %s, %z : @a[4,3]
  %xd = qc.dequantize %xq, %s, %z : f32[4,3]
  %rq = qc.quantize %r, %s, %z : @a[4,3]
  %rd = qc.dequantize %rq, %s, %z : f32[4,3]
  %cq = qc.quantize %c, %s, %z : @a[1,3]
  %cd = qc.dequantize %cq, %s, %z : f32[1,3]
  %y = aten.cat [%xd, %rd, %cd], 0 : f32[9,3]
  return %y
}
"""


def test_values_that_share_a_grid_are_calibrated_together() -> None:
    data = [[noise(4, 3, seed=seed).clamp(max=2.5)] for seed in range(3)] + [[torch.full((4, 3), 9.0)]]
    done = compiled(parse_program(SHARED), [Calibrate("minmax")], data)
    assert values(done, "s") == pytest.approx([15.0 / 255])
    assert values(done, "z") == [102.0]


@pytest.mark.parametrize("method", ["minmax", "moving_average", "percentile", "mse", "entropy"])
def test_every_method_calibrates_a_program(method: str) -> None:
    batches = [[noise(4, 3, seed=seed)] for seed in range(20)]
    done = compiled(parse_program(SHARED), [Calibrate(method)], batches)  # pyright: ignore[reportArgumentType]
    result = evaluate(done, batches[0])[0]
    assert (result[:4] - batches[0][0]).abs().max() < 0.1


def test_no_data_is_an_error_that_names_the_value() -> None:
    with pytest.raises(InputError, match="range of '%x' must be known"):
        compiled(parse_program(SHARED), [Calibrate()])


def test_broken_data_is_an_error_that_names_the_value() -> None:
    with pytest.raises(InputError, match=r"value of '%x' holds NaN"):
        compiled(parse_program(SHARED), [Calibrate()], [[torch.full((4, 3), float("nan"))]])


NET = """
spec @a4 = uint4 asym block=(-1,-1,-1,-1) scale=f32
spec @a2 = uint8 asym block=(-1,-1) scale=f32
spec @w4 = int3 sym block=(1,-1,-1,-1) scale=f32
spec @w2 = int3 sym block=(1,-1) scale=f32
program @net stage=quantized {
  input %x : f32[4,3,6,6]
  param %w : f32[8,3,3,3] = normal(seed=1)
  param %v : f32[5,8] = uniform(seed=2)
  param %b : f32[5] = normal(seed=3)
  param %ws : f32[8,1,1,1] = unset()
  param %vs : f32[5,1] = unset()
  param %xs : f32[1,1,1,1] = unset()
  param %xz : f32[1,1,1,1] = unset()
  param %hs : f32[1,1] = unset()
  param %hz : f32[1,1] = unset()
  %xq = qc.quantize %x, %xs, %xz : @a4[4,3,6,6]
  %xd = qc.dequantize %xq, %xs, %xz : f32[4,3,6,6]
  %wq = qc.quantize %w, %ws, none : @w4[8,3,3,3]
  %wd = qc.dequantize %wq, %ws, none : f32[8,3,3,3]
  %c = aten.conv2d %xd, %wd, none, [1, 1], [1, 1] : f32[4,8,6,6]
  %r = aten.relu %c : f32[4,8,6,6]
  %h = aten.mean.dim %r, [2, 3] : f32[4,8]
  %hq = qc.quantize %h, %hs, %hz : @a2[4,8]
  %hd = qc.dequantize %hq, %hs, %hz : f32[4,8]
  %vq = qc.quantize %v, %vs, none : @w2[5,8]
  %vd = qc.dequantize %vq, %vs, none : f32[5,8]
  %y = aten.linear %hd, %vd, %b : f32[4,5]
  return %c, %y
}
"""
BATCHES = [[noise(4, 3, 6, 6, seed=seed) + 0.5] for seed in range(6)]


def mean_errors(done: Program, index: int) -> torch.Tensor:
    """Mean of result `index` per channel, minus that of the float program."""
    original = parse_program(NET)
    gaps = [
        evaluate(done, batch)[index] - evaluate(original, batch, bypass_quantization=True)[index] for batch in BATCHES
    ]
    gap = torch.stack(gaps)
    return gap.movedim(2, -1).flatten(0, -2).mean(0)


def test_bias_correction_takes_out_the_mean_error_of_the_first_layer() -> None:
    plain = compiled(parse_program(NET), [Calibrate(), WeightRanges()], BATCHES)
    done = compiled(plain, [BiasCorrection(), Nearest()], BATCHES)
    assert mean_errors(plain, 0).abs().max() > 0.05
    assert mean_errors(done, 0).abs().max() < 1e-5
    assert done.param(done.node("c_bias")).shape == (8,)


def test_bias_correction_lowers_the_error_of_the_result() -> None:
    plain = compiled(parse_program(NET), [Calibrate(), WeightRanges()], BATCHES)
    done = compiled(plain, [BiasCorrection()], BATCHES)
    # What the noise of the first layer makes of the mean behind the activation stays.
    assert mean_errors(done, 1).abs().mean() < 0.8 * mean_errors(plain, 1).abs().mean()


def test_bias_correction_leaves_operators_without_bias_when_told() -> None:
    plain = compiled(parse_program(NET), [Calibrate(), WeightRanges()], BATCHES)
    done = compiled(plain, [BiasCorrection(add=False)], BATCHES)
    assert done.bind(done.node("c"))["bias"] is None
    assert values(done, "b") != values(plain, "b")
    assert values(plain, "b") == values(parse_program(NET), "b")


def test_bias_correction_needs_weight_scales() -> None:
    with pytest.raises(PassError, match="weight of '%c' has no scales yet"):
        compiled(parse_program(NET), [Calibrate(), BiasCorrection()], BATCHES)


def test_energies_are_the_squares_of_the_weights_that_follow() -> None:
    program = parse_program(NET)
    found = channel_energies(program)
    w, v = program.param(program.node("w")).double(), program.param(program.node("v")).double()
    assert found[program.node("x")].axis == 1
    assert found[program.node("x")].weights == pytest.approx(w.square().sum((0, 2, 3)).tolist())
    for name, axis in (("hd", 1), ("h", 1), ("r", 1), ("c", 1)):
        assert found[program.node(name)].axis == axis
        assert found[program.node(name)].weights == pytest.approx(v.square().sum(0).tolist())
    assert program.node("y") not in found


MOVES = """
program @net stage=canonical {
  input %x : f32[2,4,5]
  param %w : f32[6,2,3] = normal(seed=1)
  param %t : f32[4,3,2] = normal(seed=2)
  param %v : f32[7,4] = normal(seed=3)
  %g = aten.conv1d %x, %w, none, [1], [1], [1], 2 : f32[2,6,5]
  %u = aten.conv_transpose1d %x, %t, none : f32[2,3,6]
  %p = aten.permute %x, [0, 2, 1] : f32[2,5,4]
  %l = aten.linear %p, %v : f32[2,5,7]
  return %g, %u, %l
}
"""


def test_energies_know_groups_transposition_and_moved_axes() -> None:
    program = parse_program(MOVES)
    w, t, v = (program.param(program.node(name)).double().square() for name in "wtv")
    grouped = torch.cat([w[:3].sum((0, 2)), w[3:].sum((0, 2))])
    expected = grouped + t.sum((1, 2)) + v.sum(0)
    found = channel_energies(program)[program.node("x")]
    assert found.axis == 1
    assert found.weights == pytest.approx(expected.tolist())


GROUPED = """
spec @a3 = uint4 asym block=(-1,-1,-1) scale=f32
spec @w3 = int3 sym block=(-1,-1,-1) scale=f32
program @grouped stage=quantized {
  input %x : f32[4,4,9]
  param %w : f32[4,3,3] = normal(seed=1)
  param %ws : f32[1,1,1] = unset()
  param %xs : f32[1,1,1] = unset()
  param %xz : f32[1,1,1] = unset()
  %xq = qc.quantize %x, %xs, %xz : @a3[4,4,9]
  %xd = qc.dequantize %xq, %xs, %xz : f32[4,4,9]
  %wq = qc.quantize %w, %ws, none : @w3[4,3,3]
  %wd = qc.dequantize %wq, %ws, none : f32[4,3,3]
  %c = aten.conv_transpose1d %xd, %wd, none, [2], [1], [1], 2 : f32[4,6,18]
  return %c
}
"""


def test_bias_correction_of_a_grouped_transposed_convolution() -> None:
    batches = [[noise(4, 4, 9, seed=seed) + 0.5] for seed in range(4)]
    plain = compiled(parse_program(GROUPED), [Calibrate(), WeightRanges()], batches)
    gaps = []
    for done in (plain, compiled(plain, [BiasCorrection(), Nearest()], batches)):
        gap = [evaluate(done, batch)[0] - evaluate(plain, batch, bypass_quantization=True)[0] for batch in batches]
        gaps.append(torch.cat(gap).mean((0, 2)).abs().max())
    assert gaps[0] > 0.01
    assert gaps[1] < 1e-5


def test_energies_do_not_depend_on_the_order_of_readers() -> None:
    params = "".join(f"  param %w{i} : f32[4,8] = normal(seed={i})\n" for i in range(5))
    calls = "".join(f"  %y{i} = aten.linear %x, %w{i}, none : f32[2,4]\n" for i in range(5))
    results = ", ".join(f"%y{i}" for i in range(5))
    inputs = "  input %x : f32[2,8]\n  input %z : f32[2,8]\n"
    program = parse_program(f"program @p stage=canonical {{\n{inputs}{params}{calls}  return {results}\n}}\n")
    turned = program.copy()
    x, other = turned.inputs
    for user in list(x.users)[:3]:
        turned.redirect(user, x, other)
        turned.redirect(user, other, x)
    assert [user.name for user in x.users] == ["y3", "y4", "y0", "y1", "y2"]
    assert channel_energies(program)[program.inputs[0]] == channel_energies(turned)[x]
