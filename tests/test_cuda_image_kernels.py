"""Kernels on int8 images: each equals the meaning of its name in the reference bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.arch import ARCHITECTURES, Architecture
from qcompiler.backends.cuda.image_launches import (
    Convolution,
    Result,
    Scaled,
    Size,
    Window,
    launch_add,
    launch_average,
    launch_codes,
    launch_max,
    launch_mean,
    launch_table,
    table_of,
)
from qcompiler.backends.cuda.layer import Input, Launch, Output, Rows, Weight
from qcompiler.backends.cuda.steps import Plan
from qcompiler.backends.reference import dense, moving, pointwise, pooling
from qcompiler.spec import QuantSpec, quantize
from tests.cuda_harness import aligned, run_instance, run_sanitized, traffic_of

UNSIGNED, SIGNED = "uint8 asym block=(-1,-1,-1,-1) scale=f32", "int8 asym block=(-1,-1,-1,-1) scale=f32"
WEIGHT = "int8 sym block=(1,-1,-1,-1) scale=f32"
Pair = tuple[int, int]
ONE: Pair = (1, 1)


@dataclass(frozen=True)
class Case:
    """Codes of an image and their grid."""

    codes: torch.Tensor
    grid: Scaled

    @property
    def parts(self) -> list[torch.Tensor | None]:
        return [self.codes, self.grid.scale, self.grid.zero_point]

    @property
    def size(self) -> Size:
        return Size(*self.codes.shape[1:])


def scaled(spec: str, scale: float, zero: float) -> Scaled:
    return Scaled.of(QuantSpec.parse(spec), torch.tensor(scale), torch.tensor(zero))


def image(spec: str, shape: tuple[int, int, int, int], seed: int, scale: float = 0.021, zero: float = 7) -> Case:
    """Random codes [images, channels, height, width] of the program."""
    number = QuantSpec.parse(spec).format
    rng = np.random.default_rng(seed)
    codes = rng.integers(int(number.lowest), int(number.highest) + 1, shape).astype(np.float32)
    return Case(torch.from_numpy(codes), scaled(spec, scale, zero))


def result(spec: str, scale: float, zero: float, low: float | None = None) -> Result:
    number = QuantSpec.parse(spec).format
    return Result(scaled(spec, scale, zero), number.lowest if low is None else low, number.highest)


def stored(codes: torch.Tensor, spec: QuantSpec, filling: int = 0) -> np.ndarray:
    """Bytes, channels last and filled up."""
    shift = 0 if spec.format.lowest < 0 else 128
    last = (codes - shift).permute(0, 2, 3, 1).to(torch.int8)
    return aligned(torch.nn.functional.pad(last, (0, -last.shape[-1] % 16), value=filling).numpy())


def started(launch: Launch, inputs: list[np.ndarray], out: np.ndarray, images: int) -> dict:
    """Arguments of a launch whose weights are already in its place."""
    found: dict = {}
    for name, value in launch.arguments.items():
        match value:
            case Rows():
                found[name] = value.rows * images
            case Input():
                found[name] = inputs[value.input]
            case Output():
                found[name] = out
            case _:
                found[name] = value
    return found


def run(plan: Plan, inputs: list[np.ndarray], out: np.ndarray, images: int, tensors: dict | None = None) -> np.ndarray:
    """What the one launch of a plan makes of bytes."""
    (launch,) = plan.launches
    arguments = started(launch, inputs, out, images)
    for name, value in arguments.items():
        if isinstance(value, Weight) and tensors is not None:
            arguments[name] = aligned(tensors[value.weight].numpy())
    run_instance(launch.kernel, launch.instance, arguments, ("out",))
    return arguments["out"]


def plan(images: int = 1) -> Plan:
    return Plan(images, ARCHITECTURES[87], bounded=True)


def counted(codes: torch.Tensor, channels: int) -> torch.Tensor:
    """The channels that count of bytes [images, height, width, channels], as the program has them."""
    return codes[..., :channels].permute(0, 3, 1, 2)


def numbers(out: np.ndarray, channels: int, grid: Scaled) -> torch.Tensor:
    return counted(torch.from_numpy(out).float(), channels) - grid.shift


SPECS = st.sampled_from([UNSIGNED, SIGNED])
SHAPES = st.tuples(st.integers(1, 2), st.sampled_from([3, 16, 40]), st.integers(3, 8), st.integers(3, 8))
FEW = settings(deadline=None, max_examples=8)


@given(spec=SPECS, shape=SHAPES, seed=st.integers(0, 99))
@FEW
def test_codes_of_reals(spec: str, shape: tuple[int, int, int, int], seed: int) -> None:
    reals = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    grid = scaled(spec, 0.02, -5 if spec == SIGNED else 100)
    made, size = plan(), Size(*shape[1:])
    launch_codes(made, size, grid, "float32")
    out = run(made, [aligned(reals.numpy())], aligned(np.full((shape[0], *size.stored.shape), 99, np.int8)), shape[0])
    expected = quantize(reals, grid.scale.reshape(1, 1, 1, 1), grid.zero_point.reshape(1, 1, 1, 1), grid.spec)
    assert torch.equal(numbers(out, shape[1], grid), expected)
    assert not out[..., shape[1] :].any()


@given(specs=st.tuples(SPECS, SPECS, SPECS), shape=SHAPES, seed=st.integers(0, 99), low=st.sampled_from([None, 4.0]))
@FEW
def test_sum(specs: tuple[str, str, str], shape: tuple[int, int, int, int], seed: int, low: float | None) -> None:
    left, right = image(specs[0], shape, seed, 0.031), image(specs[1], shape, seed + 1, 0.017, -3)
    end = result(specs[2], 0.04, 11, low)
    made = plan()
    launch_add(made, left.size.stored.width, left.grid, right.grid, end)
    inputs = [stored(one.codes, one.grid.spec) for one in (left, right)]
    out = run(made, inputs, aligned(np.zeros_like(inputs[0])), shape[0])
    expected = pointwise.add(
        left.parts,
        right.parts,
        op="",
        result=_parts(end),
        low=end.low,
        high=end.high,
    )
    assert torch.equal(numbers(out, shape[1], end.codes), expected)


def _parts(end: Result) -> list[torch.Tensor | None]:
    return [end.codes.scale, end.codes.zero_point]


@given(specs=st.tuples(SPECS, SPECS), shape=SHAPES, seed=st.integers(0, 99))
@FEW
def test_functions_of_one_code(specs: tuple[str, str], shape: tuple[int, int, int, int], seed: int) -> None:
    source, end = image(specs[0], shape, seed, 0.05), result(specs[1], 0.043, 3)

    def meaning(codes: torch.Tensor) -> torch.Tensor:
        parts = [codes, *source.parts[1:]]
        return pointwise.table(parts, op="aten.silu", result=_parts(end), low=end.low, high=end.high)

    made, bytes_ = plan(), stored(source.codes, source.grid.spec)
    launch_table(made, source.size.stored.width)
    tensors = {"table": table_of(source.grid, end, meaning)}
    found = run(made, [bytes_], aligned(np.zeros_like(bytes_)), shape[0], tensors)
    assert torch.equal(numbers(found, shape[1], end.codes), meaning(source.codes))


WINDOWS = st.tuples(st.sampled_from([(2, 2), (3, 3), (3, 2)]), st.sampled_from([(1, 1), (2, 2), (2, 1)]), st.booleans())


def pooled(source: Case, size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Size:
    channels, height, width = source.codes.shape[1:]
    sides = [
        (side + 2 * padding[i] - dilation[i] * (size[i] - 1) - 1) // stride[i] + 1
        for i, side in enumerate((height, width))
    ]
    return Size(channels, *sides)


@given(spec=SPECS, shape=SHAPES, window=WINDOWS, dilation=st.sampled_from([(1, 1), (1, 2)]), seed=st.integers(0, 99))
@FEW
def test_largest_codes(
    spec: str, shape: tuple[int, int, int, int], window: tuple[Pair, Pair, bool], dilation: Pair, seed: int
) -> None:
    size, stride, padded = window
    padding, source = ((1, 1) if padded else (0, 0)), image(spec, shape, seed)
    end = pooled(source, size, stride, padding, dilation)
    if min(end.height, end.width) < 1:
        return
    made = plan()
    launch_max(made, source.size, end, Window(size, stride, padding, dilation))
    out = aligned(np.zeros((shape[0], *end.stored.shape), np.int8))
    found = run(made, [stored(source.codes, source.grid.spec)], out, shape[0])
    expected = moving.carry(
        source.parts,
        size,
        stride,
        padding,
        dilation,
        False,
        op="aten.max_pool2d",
        result=source.parts[1:],
        low=-128,
        high=255,
    )
    assert torch.equal(numbers(found, shape[1], source.grid), expected)


@given(specs=st.tuples(SPECS, SPECS), shape=SHAPES, window=WINDOWS, whole=st.booleans(), seed=st.integers(0, 99))
@FEW
def test_averages(
    specs: tuple[str, str], shape: tuple[int, int, int, int], window: tuple[Pair, Pair, bool], whole: bool, seed: int
) -> None:
    size, stride, padded = window
    padding, source, end = ((1, 1) if padded else (0, 0)), image(specs[0], shape, seed), result(specs[1], 0.0173, 21)
    out_size = pooled(source, size, stride, padding, ONE)
    made = plan()
    launch_average(made, source.size, out_size, Window(size, stride, padding, ONE), whole, source.grid, end)
    out = aligned(np.zeros((shape[0], *out_size.stored.shape), np.int8))
    found = run(made, [stored(source.codes, source.grid.spec)], out, shape[0])
    expected = pooling.average(
        source.parts,
        size,
        stride,
        padding,
        False,
        whole,
        None,
        op="aten.avg_pool2d",
        result=_parts(end),
        low=end.low,
        high=end.high,
    )
    assert torch.equal(numbers(found, shape[1], end.codes), expected)


@given(specs=st.tuples(SPECS, SPECS), shape=SHAPES, seed=st.integers(0, 99))
@FEW
def test_means_of_images(specs: tuple[str, str], shape: tuple[int, int, int, int], seed: int) -> None:
    source, end = image(specs[0], shape, seed), result(specs[1], 0.0031, 90 if specs[1] == UNSIGNED else -30)
    made = plan()
    launch_mean(made, source.size, source.grid, end)
    out = aligned(np.zeros((shape[0], 1, 1, source.size.stored.shape[2]), np.int8))
    found = run(made, [stored(source.codes, source.grid.spec)], out, shape[0])
    expected = pooling.global_mean(
        source.parts, [2, 3], True, op="aten.mean.dim", result=_parts(end), low=end.low, high=end.high
    )
    assert torch.equal(numbers(found, shape[1], end.codes), expected)


def convolution(
    source: Case, window: Window, alone: bool, columns: int, end: Result | None, seed: int
) -> tuple[Convolution, torch.Tensor]:
    """A convolution, and what it means."""
    rng = np.random.default_rng(seed)
    channels = source.size.channels
    columns = channels if alone else columns
    weight = torch.from_numpy(rng.integers(-127, 128, (columns, 1 if alone else channels, *window.size)).astype("f"))
    scale = torch.from_numpy(rng.uniform(1e-3, 2e-3, (columns, 1, 1, 1)).astype(np.float32))
    bias = torch.from_numpy(rng.integers(-900, 900, columns).astype(np.float32))
    expected = dense.conv(
        source.parts,
        [weight, scale.reshape(-1), None],
        [bias, scale.reshape(-1), None],
        list(window.stride),
        list(window.padding),
        list(window.dilation),
        channels if alone else 1,
        op="aten.conv2d",
        result=None if end is None else _parts(end),
        low=0 if end is None else end.low,
        high=0 if end is None else end.high,
    )
    out = Size(columns, *expected.shape[2:])
    numbers = QuantSpec.parse(WEIGHT)
    made = Convolution(source.size, out, window, source.grid, weight, numbers, scale, bias, end, "float32")
    return made, expected


@given(
    specs=st.tuples(SPECS, SPECS),
    shape=SHAPES,
    window=WINDOWS,
    dilation=st.sampled_from([(1, 1), (2, 1)]),
    alone=st.booleans(),
    real=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=16)
def test_convolutions(
    specs: tuple[str, str],
    shape: tuple[int, int, int, int],
    window: tuple[Pair, Pair, bool],
    dilation: Pair,
    alone: bool,
    real: bool,
    seed: int,
) -> None:
    source = image(specs[0], shape, seed)
    end = None if real else result(specs[1], 0.9, 5)
    seen = Window(window[0], window[1], (2, 1), dilation)
    made, expected = convolution(source, seen, alone, 9, end, seed)
    steps = plan(shape[0])
    made.launch(steps, made.tensors())
    port = made.out.stored if end else made.out.reals("float32", channels_last=True)
    out = aligned(np.zeros((shape[0], *port.shape), np.int8 if end else np.float32))
    # What fills channels up means nothing.
    found = run(steps, [stored(source.codes, source.grid.spec, 77)], out, shape[0], made.tensors())
    channels = made.out.channels
    assert torch.equal(
        counted(torch.from_numpy(found), channels) if end is None else numbers(found, channels, end.codes), expected
    )
    assert steps.launches[0].kernel == ("depthwise_i8" if alone else "conv_i8")


def depthwise(images: int = 1) -> tuple[dict, np.ndarray]:
    """Arguments of a launch with channels of their own, and its result."""
    source, end = image(UNSIGNED, (images, 48, 6, 5), 3), result(UNSIGNED, 0.9, 5)
    made, expected = convolution(source, Window((3, 3), ONE, ONE, ONE), True, 0, end, 4)
    steps = plan(images)
    made.launch(steps, made.tensors())
    bytes_ = stored(source.codes, source.grid.spec)
    arguments = started(steps.launches[0], [bytes_], aligned(np.zeros_like(bytes_)), images)
    tensors = made.tensors()
    for name, value in arguments.items():
        if isinstance(value, Weight):
            arguments[name] = aligned(tensors[value.weight].numpy())
    return arguments, stored(expected, end.codes.spec)


def test_depthwise_reads_whole_sectors() -> None:
    arguments, _ = depthwise()
    traffic = traffic_of("depthwise_i8", "qc_depthwise_i8_4", arguments)
    assert traffic.shared_wavefronts == 0
    assert traffic.global_sectors <= 1.25 * traffic.global_ideal


def test_touches_nothing_outside() -> None:
    arguments, expected = depthwise(2)
    found = run_sanitized("depthwise_i8", "qc_depthwise_i8_4", arguments, ("out",))
    np.testing.assert_array_equal(found["out"], expected)


@pytest.mark.parametrize("target", ARCHITECTURES.values(), ids=lambda target: target.name)
def test_windows_of_one_place_are_products(target: Architecture) -> None:
    source = image(UNSIGNED, (1, 16, 7, 7), 1)
    for seen, kernel in ((Window(ONE, ONE, (0, 0), ONE), "gemm_i8"), (Window(ONE, (2, 2), (0, 0), ONE), "conv_i8")):
        made, _ = convolution(source, seen, False, 9, None, 1)
        steps = Plan(4, target, bounded=True)
        made.launch(steps, made.tensors())
        assert steps.launches[0].kernel == kernel
        row, instance = steps.launches[0].rows()
        assert instance in row.on(target)


def test_pools_touch_nothing_outside() -> None:
    source, made, end = image(SIGNED, (2, 16, 4, 3), 1), plan(2), Size(16, 3, 2)
    ends = result(SIGNED, 0.02, 0)
    launch_average(made, source.size, end, Window((2, 2), (2, 2), ONE, ONE), True, source.grid, ends)
    inputs, out = [stored(source.codes, source.grid.spec)], aligned(np.zeros((2, *end.stored.shape), np.int8))
    arguments = started(made.launches[0], inputs, out, 2)
    found = run_sanitized("image_average", made.launches[0].instance, arguments, ("out",))
    np.testing.assert_array_equal(found["out"], run(made, inputs, out, 2))
