"""From ranges to scale and zero point, from reals to grid values and back, and the gradients between."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qcompiler.errors import InputError, SpecError
from qcompiler.formats import FORMATS, SCALE_FORMATS, Format, Integer, ScaleName
from qcompiler.formats.blocks import block_reduce, expand_blocks
from qcompiler.spec import (
    Level,
    QuantSpec,
    Scales,
    choose_qparams,
    dequantize,
    effective_scale,
    parse_scheme,
    qparams_from_range,
    quantize,
)

SCALES: list[ScaleName] = [stored.name for stored in SCALE_FORMATS]
UINT8 = QuantSpec.parse("uint8 asym block=(-1,-1) scale=f32")
INT8_ROWS = QuantSpec.parse("int8 sym block=(1,-1) scale=f32")
NVFP4 = QuantSpec.parse("fp4e2m1 sym block=(1,16) scale=e4m3 block=(-1,-1) scale=f32")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def single(scale: Scales) -> torch.Tensor:
    assert isinstance(scale, torch.Tensor)
    return scale


def round_trip(x: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    scale, zero_point = choose_qparams(x, spec)
    return dequantize(quantize(x, scale, zero_point, spec), scale, zero_point, spec)


# --- scale and zero point ---


def test_scale_and_zero_point_by_hand() -> None:
    scale, zero_point = qparams_from_range(torch.tensor([[-1.0]]), torch.tensor([[4.1]]), UINT8)
    assert single(scale).item() == pytest.approx(0.02)
    assert zero_point.item() == 50
    signed = QuantSpec.parse("int8 asym block=(-1,-1) scale=f32")
    assert qparams_from_range(torch.tensor([[-1.0]]), torch.tensor([[4.1]]), signed)[1].item() == -78
    scale, zero_point = qparams_from_range(torch.tensor([[-2.54]]), torch.tensor([[1.0]]), INT8_ROWS)
    assert (single(scale).item(), zero_point.item()) == (pytest.approx(0.02), 0)


def test_range_is_widened_to_hold_zero() -> None:
    scale, zero_point = qparams_from_range(torch.tensor([[2.0]]), torch.tensor([[5.1]]), UINT8)
    assert (single(scale).item(), zero_point.item()) == (pytest.approx(0.02), 0)
    scale, zero_point = qparams_from_range(torch.tensor([[-5.1]]), torch.tensor([[-2.0]]), UINT8)
    assert (single(scale).item(), zero_point.item()) == (pytest.approx(0.02), 255)


@pytest.mark.parametrize("number", FORMATS, ids=str)
@pytest.mark.parametrize("stored", SCALES)
def test_blocks_of_zero_get_scale_one_and_stay_zero(number: Format, stored: str) -> None:
    spec = QuantSpec.parse(f"{number} sym block=(1,-1) scale={stored}")
    scale, zero_point = choose_qparams(torch.zeros(2, 3), spec)
    assert torch.equal(single(scale), torch.ones(2, 1))
    assert torch.equal(zero_point, torch.zeros(2, 1))
    if number.name != "binary":
        assert torch.equal(round_trip(torch.zeros(2, 3), spec), torch.zeros(2, 3))


@given(
    number=st.sampled_from(FORMATS),
    scales=st.lists(st.sampled_from(SCALES), min_size=1, max_size=3),
    asymmetric=st.booleans(),
    exponents=st.lists(st.integers(-149, 127), min_size=12, max_size=12),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_scales_are_positive_and_finite_for_any_finite_block(
    number: Format, scales: list[ScaleName], asymmetric: bool, exponents: list[int], seed: int
) -> None:
    zero_point_kind = "int" if asymmetric and number.is_integer else "none"
    blocks = ((1, 2), (2, 4), (-1, -1))
    levels = [Level(block, stored) for block, stored in zip(blocks, scales, strict=False)]
    spec = QuantSpec(number, (replace(levels[0], zero_point=zero_point_kind), *levels[1:]))
    x = torch.ldexp(noise(12, seed=seed).clamp(-1.9, 1.9), torch.tensor(exponents)).reshape(3, 4)
    scale, zero_point = choose_qparams(x, spec)
    for level, stored in enumerate((scale,) if isinstance(scale, torch.Tensor) else scale):
        assert stored.shape == spec.scale_shapes(x.shape)[level]
        assert bool((stored > 0).all())
        assert bool(stored.isfinite().all())
    assert bool((zero_point >= spec.format.lowest).all())
    assert bool((zero_point <= spec.format.highest).all())
    assert torch.equal(zero_point, zero_point.round())
    assert bool(quantize(x, scale, zero_point, spec).isfinite().all())


def test_the_whole_float_range_does_not_overflow() -> None:
    big = torch.tensor([[-3e38, 3e38]])
    scale, zero_point = choose_qparams(big, UINT8)
    assert single(scale).item() == pytest.approx(6e38 / 255)
    assert zero_point.item() == 128


@pytest.mark.parametrize("stored", ["f16", "bf16", "e4m3", "e8m0"])
def test_zero_point_is_computed_from_the_stored_scale(stored: str) -> None:
    spec = QuantSpec.parse(f"uint8 asym block=(1,-1) scale={stored}")
    x = noise(64, 50) * 3 - 1
    scale, zero_point = choose_qparams(x, spec)
    low = x.amin(1, keepdim=True)
    assert torch.equal(zero_point, (0 - low / single(scale)).round().clamp(0, 255))


def test_two_levels_follow_nvfp4() -> None:
    x = noise(4, 40) * torch.tensor([[1e-3], [1.0], [0.0], [50.0]])
    scale, zero_point = choose_qparams(x, NVFP4)
    assert isinstance(scale, tuple)
    inner, outer = scale
    assert outer.shape == (1, 1)
    assert outer.item() == pytest.approx(float(x.abs().max()) / (6 * 448))
    ideal = block_reduce(x, (1, 16), "absmax") / 6 / outer
    wanted = ideal.to(torch.float8_e4m3fn).float().clamp(min=2**-9)
    wanted[2] = 1.0
    assert torch.equal(inner, wanted)
    whole = effective_scale(scale, NVFP4, x.shape)
    assert torch.equal(whole, expand_blocks(inner * outer, (1, 16), x.shape))
    back = dequantize(quantize(x, scale, zero_point, NVFP4), scale, zero_point, NVFP4)
    assert torch.equal(back[2], torch.zeros(40))
    assert float((back - x)[1].norm() / x[1].norm()) < 0.15


def test_two_levels_of_nothing_but_zero_are_one() -> None:
    scale, _ = choose_qparams(torch.zeros(2, 32), NVFP4)
    assert isinstance(scale, tuple)
    assert torch.equal(scale[0], torch.ones(2, 2))
    assert torch.equal(scale[1], torch.ones(1, 1))


def test_integer_scales_of_scales_keep_most_of_the_precision() -> None:
    spec = QuantSpec.parse("int4 sym block=(1,16) scale=u6 block=(1,64) scale=f16")
    x = noise(4, 128) * (1 + torch.arange(128) // 16)
    scale, _ = choose_qparams(x, spec)
    assert isinstance(scale, tuple)
    assert torch.equal(scale[0], scale[0].round())
    assert float(scale[0].max()) == 63
    plain = round_trip(x, QuantSpec.parse("int4 sym block=(1,16) scale=f32"))
    assert float((round_trip(x, spec) - x).norm()) < 1.1 * float((plain - x).norm())


# --- quantize and dequantize ---


@given(signed=st.booleans(), bits=st.sampled_from([2, 4, 8]), symmetric=st.booleans(), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=50)
def test_error_inside_the_range_is_half_a_step(signed: bool, bits: int, symmetric: bool, seed: int) -> None:
    number = Integer(bits, signed=signed)
    spec = QuantSpec(number, (Level((1, 7), "f32", "none" if symmetric else "int"),))
    x = noise(3, 19, seed=seed)
    x = x.abs() if symmetric and not signed else x
    scale, zero_point = choose_qparams(x, spec)
    back = dequantize(quantize(x, scale, zero_point, spec), scale, zero_point, spec)
    step = effective_scale(scale, spec, x.shape)
    # With a zero point, the end of the range may fall half a step outside the rounded grid.
    assert bool(((back - x).abs() <= step * (0.5 if symmetric else 1.0) * (1 + 1e-5)).all())


def test_values_on_the_grid_come_back_exactly() -> None:
    codes = torch.arange(-127, 128).float().reshape(1, -1)
    assert torch.equal(quantize(codes * 0.125, torch.tensor([[0.125]]), None, INT8_ROWS), codes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_carrier_keeps_its_dtype(dtype: torch.dtype) -> None:
    x = noise(4, 8).to(dtype)
    scale, zero_point = choose_qparams(x, UINT8)
    codes = quantize(x, scale, zero_point, UINT8)
    assert codes.dtype == dtype
    assert torch.equal(codes, codes.round())
    assert dequantize(codes, scale, zero_point, UINT8).dtype == dtype


def test_wide_codes_saturate_in_a_narrow_carrier() -> None:
    spec = QuantSpec.parse("uint16 sym block=(-1) scale=f32")
    codes = quantize(torch.tensor([6e4, 1.0], dtype=torch.float16), torch.tensor([0.5]), None, spec)
    assert codes.tolist() == [65504, 2]


def onnx_codes(kind: int, x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and reals of ONNX Runtime's QuantizeLinear and DequantizeLinear along axis 0."""
    zero_tensor = helper.make_tensor("zero", kind, zero.shape, zero.astype(int).tolist())
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=0),
        helper.make_node("Cast", ["q"], ["codes"], to=TensorProto.FLOAT),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("codes", "y")],
        [onnx.numpy_helper.from_array(scale, "scale"), zero_tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    codes, y = session.run(None, {"x": x})
    return np.asarray(codes), np.asarray(y)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("uint8", TensorProto.UINT8),
        ("int8", TensorProto.INT8),
        ("uint4", TensorProto.UINT4),
        ("int4", TensorProto.INT4),
        ("uint16", TensorProto.UINT16),
    ],
)
def test_onnx_runtime_gives_the_same_numbers(name: str, kind: int) -> None:
    spec = QuantSpec.parse(f"{name} asym block=(1,-1) scale=f32")
    x = torch.cat([noise(8, 300) * 5, torch.arange(-40, 40).repeat(8, 1) * 0.125], dim=1)
    scale, zero_point = choose_qparams(x, spec)
    scale = single(scale)
    scale[:4] = 0.25  # every eighth is a tie, and the far values saturate
    # Near-ties, where a division and a multiplication by the reciprocal part ways.
    x = torch.cat([x, (torch.arange(-40, 40) + 0.5) * scale], dim=1)
    codes, reals = onnx_codes(kind, x.numpy(), scale[:, 0].numpy(), zero_point[:, 0].numpy())
    ours = quantize(x, scale, zero_point, spec)
    np.testing.assert_array_equal(ours.numpy(), codes)
    np.testing.assert_array_equal(dequantize(ours, scale, zero_point, spec).numpy(), reals)


def test_dynamic_range_equals_onnx_dynamic_quantize_linear() -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"])
    outputs = [("q", TensorProto.UINT8), ("scale", TensorProto.FLOAT), ("zero", TensorProto.UINT8)]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "K"])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for seed in range(30):
        x = noise(5, 33, seed=seed) * 10 ** ((seed % 7) - 3) + (seed % 3 - 1)
        q, scale_there, zero_there = session.run(None, {"x": x.numpy()})
        scale, zero_point = choose_qparams(x, UINT8)
        assert single(scale).item() == np.asarray(scale_there).item()
        assert zero_point.item() == np.asarray(zero_there).item()
        np.testing.assert_array_equal(quantize(x, scale, zero_point, UINT8).numpy(), q)


# --- gradients ---


def test_gradient_of_the_input_is_one_inside_and_zero_outside() -> None:
    x = torch.tensor([[-9.0, -0.3, 0.2, 9.0]], requires_grad=True)
    scale, zero_point = torch.tensor([[0.02]]), torch.tensor([[100.0]])
    dequantize(quantize(x, scale, zero_point, UINT8), scale, zero_point, UINT8).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, pytest.approx(1), pytest.approx(1), 0.0]]


def test_gradient_of_the_scale_is_the_learned_step_size_rule() -> None:
    x = torch.tensor([[0.31, -0.77, 5.0, -5.0]])
    scale = torch.tensor([[0.01]], requires_grad=True)
    dequantize(quantize(x, scale, None, INT8_ROWS), scale, None, INT8_ROWS).sum().backward()
    ratio = x / 0.01
    inside = ratio.round() - ratio
    wanted = torch.where(ratio > 127, 127.0, torch.where(ratio < -128, -128.0, inside)).sum()
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(float(wanted), abs=1e-3)


def test_forward_with_gradients_equals_forward_without() -> None:
    x = noise(4, 64)
    for spec in (UINT8, INT8_ROWS, NVFP4):
        scale, zero_point = choose_qparams(x, spec)
        plain = quantize(x, scale, zero_point, spec)
        tracked = quantize(x.clone().requires_grad_(), scale, zero_point, spec)
        assert tracked.requires_grad
        assert torch.equal(plain, tracked.detach())


# --- refusals ---


def test_quantize_refuses_what_does_not_fit() -> None:
    scale, zero_point = torch.ones(2, 1), torch.zeros(2, 1)
    rows = QuantSpec.parse("uint8 asym block=(1,-1) scale=f32")
    with pytest.raises(InputError, match="real numbers"):
        quantize(torch.ones(2, 3, dtype=torch.int32), scale, zero_point, rows)
    with pytest.raises(InputError, match="float tensor"):
        dequantize(torch.ones(2, 3, dtype=torch.int32), scale, zero_point, rows)
    with pytest.raises(SpecError, match="needs its zero point"):
        quantize(torch.ones(2, 3), scale, None, rows)
    with pytest.raises(SpecError, match=r"scale of shape \(2, 1\)"):
        quantize(torch.ones(4, 3), scale, zero_point, rows)
    with pytest.raises(SpecError, match="1 scale tensors for 2 levels"):
        quantize(torch.ones(2, 3), scale, None, NVFP4)
    with pytest.raises(SpecError, match="ranges of shape"):
        qparams_from_range(torch.zeros(2), torch.ones(2), rows)


def test_group_wise_weights_beat_channel_wise_ones_and_bits_help() -> None:
    w = noise(16, 256) * torch.exp(noise(16, 256, seed=1))
    errors = [
        float((round_trip(w, weight.spec(2, 0, 1)) - w).norm())
        for name in ("w4a16", "w4a16g128", "w4a16g32", "w6a16g32", "w8a16")
        if (weight := parse_scheme(name).weight)
    ]
    assert errors[0] > errors[1] > errors[2] > errors[3]


def test_a_product_of_scales_that_underflows_stays_positive() -> None:
    spec = QuantSpec.parse("int2 asym block=(1,2) scale=f32 block=(2,4) scale=f32 block=(-1,-1) scale=f32")
    high = torch.tensor([[1.0, 1.0], [1.0, 2.0**-45], [1.0, 2.0**107]])
    for low in (torch.zeros(3, 2), -high):
        scale, zero_point = qparams_from_range(low, high, spec)
        assert bool(zero_point.isfinite().all())
        assert bool(quantize(torch.zeros(3, 4), scale, zero_point, spec).isfinite().all())
