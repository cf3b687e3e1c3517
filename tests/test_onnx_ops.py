"""Every operator: what onnxruntime computes from the written model is what the interpreter computes."""

from __future__ import annotations

import pytest
import torch

from qcompiler.ir.types import TensorType
from tests.onnx_tools import (
    BOOL,
    I64,
    IMAGE,
    Body,
    Case,
    X,
    assert_same,
    build,
    parameters,
    sample,
    single,
    typed,
)


def of_shifted(op: str, *arguments: object, **keywords: object) -> Body:
    """A body that calls one operator on its input minus 2, so that integers of both signs are seen."""
    return lambda b, x: b.call(op, b.call("aten.sub.Tensor", x, 2), *arguments, kwargs=keywords)


ELEMENTWISE: list[Case] = [
    *[(name, single(f"aten.{name}"), [X]) for name in (
        "selu", "neg", "abs", "exp", "sin", "cos", "tan", "atan", "sinh", "cosh", "asinh", "floor", "ceil", "round",
        "sign", "erf", "expm1", "trunc", "relu", "sigmoid", "tanh", "hardswish", "silu", "mish", "hardsigmoid", "isnan",
    )],
    *[(name, lambda b, x, name=name: b.call(f"aten.{name}", b.call("aten.exp", x)), [X]) for name in (
        "log", "sqrt", "rsqrt", "reciprocal", "log1p", "log2", "log10",
    )],
    *[(name, single(f"aten.{name}.Tensor"), [X, typed(4, 1)]) for name in ("add", "sub", "mul", "div", "remainder")],
    *[(f"{name}.Tensor", single(f"aten.{name}.Tensor"), [X, X]) for name in ("eq", "ne", "lt", "le", "gt", "ge")],
    *[(f"{name} scalar", single(f"aten.{name}.Scalar", 0.25), [X]) for name in ("eq", "ne", "lt", "le", "gt", "ge")],
    *[(name, single(f"aten.{name}"), [X, X]) for name in ("maximum", "minimum")],
    *[(name, single(f"aten.{name}"), [typed(4, dtype=BOOL), typed("s0", 4, dtype=BOOL)]) for name in (
        "logical_and", "logical_or", "logical_xor", "bitwise_and.Tensor", "bitwise_or.Tensor", "bitwise_xor.Tensor",
    )],
    ("logical_not float", single("aten.logical_not"), [X]),
    ("bitwise_not", single("aten.bitwise_not"), [typed("s0", dtype=BOOL)]),
    ("bitwise_and ints", single("aten.bitwise_and.Scalar", 2), [typed("s0", 7, dtype=I64)]),
    ("add alpha", single("aten.add.Tensor", alpha=3), [X, X]),
    ("add number", single("aten.add.Tensor", 1.5), [X]),
    ("add promotes", single("aten.add.Tensor"), [X, typed(6, dtype=I64)]),
    ("int plus float number", single("aten.mul.Tensor", 0.5), [typed("s0", 7, dtype=I64)]),
    ("compare promotes", single("aten.lt.Tensor"), [typed("s0", 7, dtype=I64), typed(7)]),
    ("compare int with real", single("aten.gt.Scalar", 1.5), [typed("s0", 7, dtype=I64)]),
    ("eq booleans", single("aten.eq.Tensor"), [typed("s0", dtype=BOOL), typed("s0", dtype=BOOL)]),
    ("true division of ints", single("aten.div.Tensor", 3), [typed("s0", 7, dtype=I64)]),
    ("floor division", of_shifted("aten.div.Tensor_mode", 2, rounding_mode="floor"), [typed("s0", 9, dtype=I64)]),
    ("truncated division", single("aten.div.Tensor_mode", 0.3, rounding_mode="trunc"), [X]),
    ("floor of reals", single("aten.div.Tensor_mode", 0.3, rounding_mode="floor"), [X]),
    ("remainder of ints", of_shifted("aten.remainder.Scalar", 3), [typed("s0", 9, dtype=I64)]),
    ("square", single("aten.pow.Tensor_Scalar", 2), [X]),
    ("power", lambda b, x: b.call("aten.pow.Tensor_Tensor", b.call("aten.exp", x), x), [X]),
    ("clamp", single("aten.clamp", -0.5, 0.25), [X]),
    ("clamp above", single("aten.clamp", None, 0.25), [X]),
    ("clamp tensor", single("aten.clamp.Tensor"), [X, typed(6)]),
    ("clamp ints", single("aten.clamp", 1, 2), [typed("s0", 9, dtype=I64)]),
    ("clamp_min", single("aten.clamp_min", 0.5), [X]),
    ("where", single("aten.where.self"), [typed("s0", 1, 1, dtype=BOOL), X, typed(6)]),
    ("where scalar", single("aten.where.ScalarOther", 0.0), [typed("s0", 4, 6, dtype=BOOL), X]),
    ("where booleans", single("aten.where.self"), [typed("s0", dtype=BOOL)] * 3),
    ("masked_fill", single("aten.masked_fill.Scalar", float("-inf")), [X, typed(4, 6, dtype=BOOL)]),
    ("cast", single("aten._to_copy", dtype=I64), [X]),
    ("cast to bool", single("aten._to_copy", dtype=BOOL), [typed("s0", 7, dtype=I64)]),
    ("gelu", single("aten.gelu"), [X]),
    ("gelu tanh", single("aten.gelu", approximate="tanh"), [X]),
    ("celu", single("aten.celu", 0.6), [X]),
    ("fmod", single("aten.fmod.Scalar", 0.7), [X]),
    ("leaky_relu", single("aten.leaky_relu", 0.2), [X]),
    ("elu", single("aten.elu", 0.7), [X]),
    ("prelu", parameters("aten.prelu", (4,)), [X]),
    ("softplus", single("aten.softplus", 2.0), [X]),
    ("glu", single("aten.glu", -1), [X]),
    ("softmax", single("aten.softmax.int", 1), [X]),
    ("log_softmax", single("aten.log_softmax.int", -1), [X]),
]  # fmt: skip

LAYERS: list[Case] = [
    ("conv1d", parameters("aten.conv1d", (5, 4, 3), (5,), rest=([2], [1])), [X]),
    ("conv2d", parameters("aten.conv2d", (5, 4, 3, 3), (5,), rest=([2, 1], [1, 2], [1, 2])), [IMAGE]),
    ("conv2d depthwise", parameters("aten.conv2d", (8, 1, 3, 3), rest=(None, [1], [1], [1], 4)), [IMAGE]),
    ("conv2d same", parameters("aten.conv2d.padding", (5, 4, 4, 3), rest=(None, [1, 1], "same")), [IMAGE]),
    ("conv2d without batch", parameters("aten.conv2d", (5, 4, 3, 3)), [typed(4, 8, "s1")]),
    ("conv3d", parameters("aten.conv3d", (3, 2, 2, 2, 2), (3,)), [typed("s0", 2, 4, 4, 3)]),
    ("conv_transpose1d", parameters("aten.conv_transpose1d", (4, 3, 3), (3,), rest=([2],)), [X]),
    (
        "conv_transpose2d",
        parameters("aten.conv_transpose2d.input", (4, 3, 3, 3), (6,), rest=([2, 2], [1, 1], [1, 0], 2)),
        [IMAGE],
    ),
    ("linear rank 1", parameters("aten.linear", (3, 6), (3,)), [typed(6)]),
    ("linear rank 2", parameters("aten.linear", (3, 6), (3,)), [typed("s0", 6)]),
    ("linear rank 2 without bias", parameters("aten.linear", (3, 6)), [typed("s0", 6)]),
    ("linear rank 3", parameters("aten.linear", (3, 6), (3,)), [X]),
    ("linear of two inputs", single("aten.linear"), [X, typed(5, 6)]),
    ("matmul", single("aten.matmul"), [typed("s0", 4, "s1"), typed("s0", "s1", 3)]),
    ("bmm", single("aten.bmm"), [typed("s0", 4, 6), typed("s0", 6, 3)]),
    ("einsum", lambda b, x, y: b.call("aten.einsum", "bij,bkj->bik", [x, y]), [X, typed("s0", 3, 6)]),
    ("determinant", single("aten.linalg_det"), [typed("s0", 4, 4)]),
    ("layer_norm", parameters("aten.layer_norm", rest=([4, 6],)), [X]),
    (
        "layer_norm affine",
        lambda b, x: b.call("aten.layer_norm", x, [6], b.param("w", torch.rand(6)), b.param("b", torch.rand(6)), 1e-3),
        [X],
    ),
    ("rms_norm", lambda b, x: b.call("aten.rms_norm", x, [6], b.param("w", torch.rand(6)), 1e-3), [X]),
    ("rms_norm default", single("aten.rms_norm", [4, 6]), [X]),
    (
        "group_norm",
        lambda b, x: b.call("aten.group_norm", x, 2, b.param("w", torch.rand(4)), b.param("b", torch.rand(4))),
        [typed("s0", 4, "s1", 6)],
    ),
    ("group_norm two symbols", single("aten.group_norm", 2), [typed("s0", 4, "s1", "s1")]),
    (
        "instance_norm",
        lambda b, x: b.call(
            "aten.instance_norm",
            x,
            b.param("w", torch.rand(4)),
            b.param("b", torch.rand(4)),
            None,
            None,
            True,
            0.1,
            1e-5,
            False,
        ),
        [IMAGE],
    ),
    ("max_pool1d", single("aten.max_pool1d", [2]), [X]),
    ("max_pool2d", single("aten.max_pool2d", [3, 2], [2, 2], [1, 1], [1, 2]), [IMAGE]),
    (
        "max_pool2d ceil",
        single("aten.max_pool2d", [3, 3], [2, 2], [0, 0], [1, 1], True),
        [typed("s0", 4, 8, 7)],
    ),
    ("avg_pool2d", single("aten.avg_pool2d", [3, 3], [2, 2], [1, 1]), [IMAGE]),
    ("avg_pool2d excluding pads", single("aten.avg_pool2d", [3, 3], [2, 2], [1, 1], True, False), [IMAGE]),
    ("avg_pool2d divisor", single("aten.avg_pool2d", [2, 3], [1, 1], [0, 1], False, True, 5), [IMAGE]),
    ("adaptive_avg_pool2d to one", single("aten.adaptive_avg_pool2d", [1, 1]), [typed("s0", 4, "s1", 6)]),
    ("adaptive_avg_pool2d even", single("aten.adaptive_avg_pool2d", [4, 3]), [IMAGE]),
    ("adaptive_avg_pool2d uneven", single("aten.adaptive_avg_pool2d", [3, 5]), [IMAGE]),
    ("adaptive_avg_pool1d uneven", single("aten.adaptive_avg_pool1d", [4]), [X]),
    ("nearest by factor", single("aten.upsample_nearest2d.vec", None, [2.0, 1.5]), [typed("s0", 4, 4, "s1")]),
    ("nearest by size", single("aten.upsample_nearest2d.vec", [12, 6], None), [IMAGE]),
    ("bilinear", single("aten.upsample_bilinear2d.vec", [11, 9], False, None), [IMAGE]),
    ("bilinear corners", single("aten.upsample_bilinear2d.vec", None, True, [2.0, 2.0]), [IMAGE]),
    ("bilinear to one", single("aten.upsample_bilinear2d.vec", [1, 1], False, None), [IMAGE]),
    ("bicubic antialias", single("aten._upsample_bicubic2d_aa.vec", [4, 9], False, None), [IMAGE]),
    ("bicubic", single("aten.upsample_bicubic2d.vec", [16, 12], False, None), [IMAGE]),
    ("bilinear antialias", single("aten._upsample_bilinear2d_aa.vec", [4, 3], False, None), [IMAGE]),
]


@pytest.mark.parametrize(("body", "types"), [pytest.param(b, t, id=n) for n, b, t in ELEMENTWISE + LAYERS])
def test_operator_with_symbolic_batch_matches_the_interpreter(body: Body, types: list[TensorType]) -> None:
    program = build(body, *types)
    for sizes in ({"s0": 3, "s1": 5}, {"s0": 1, "s1": 4}):
        assert_same(program, [sample(type_, sizes, seed) for seed, type_ in enumerate(types)])
