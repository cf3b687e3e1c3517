"""Every operator of the ONNX front-end against onnxruntime, with fixed and with free axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qcompiler.frontends.onnx_import import import_onnx
from qcompiler.ir.parse import parse_program
from qcompiler.ir.verify import verify
from tests.onnx_models import Const, assert_same, build, const, integers, normal, positive

Attribute = int | float | str | Sequence[int] | Sequence[float] | onnx.TensorProto


@dataclass(frozen=True)
class Case:
    """One operator on example inputs; `free` lists the axes left symbolic in a second import."""

    op: str
    inputs: Sequence[np.ndarray | Const | None]
    attributes: dict[str, Attribute] = field(default_factory=dict)
    opset: int = 21
    outputs: int = 1
    free: tuple[int, ...] = (0,)
    note: str = ""

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}" + (f"-{self.note}" if self.note else "")


def build_case(case: Case, free: Sequence[int] = ()) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    feeds: dict[str, np.ndarray] = {}
    constants: dict[str, np.ndarray] = {}
    names = []
    for index, item in enumerate(case.inputs):
        names.append("" if item is None else f"in{index}")
        if isinstance(item, Const):
            constants[f"in{index}"] = item.array
        elif item is not None:
            feeds[f"in{index}"] = item
    outputs = [f"out{index}" for index in range(case.outputs)]
    node = helper.make_node(case.op, names, outputs, name="the_node", **case.attributes)  # pyright: ignore[reportArgumentType]
    return build([node], feeds, outputs, constants, case.opset, free), feeds


X4 = normal(2, 4, 8, 6)
X3 = normal(2, 3, 8)
X2 = normal(3, 4)
CASES = [
    *(
        Case(op, [X3])
        for op in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Sign", "Sin", "Tan", "Atan", "Sinh")
    ),
    *(
        Case(op, [X3])
        for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Selu", "Elu", "HardSwish", "Mish", "Round")
    ),
    *(Case(op, [positive(2, 5)]) for op in ("Log", "Sqrt", "Reciprocal")),
    *(Case(op, [X2, normal(3, 4)]) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")),
    *(Case(op, [X2, normal(4)]) for op in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")),
    *(Case(op, [X2 > 0, normal(3, 4) > 0]) for op in ("And", "Or", "Xor")),
    Case("Add", [const(2.5, np.float32), X2], note="scalar-left"),
    Case("Sub", [const(2.5, np.float32), X2], note="scalar-left"),
    Case("Mul", [X2, const([[0.1]], np.float32)], note="scalar"),
    Case("Div", [const(1.0, np.float32), positive(3, 4)], note="reciprocal"),
    Case("Div", [integers(-9, 9, 3, 4), const(4)], note="integers"),
    Case("Mod", [integers(-9, 9, 3, 4), const(4)]),
    Case("Mod", [X2, const([[0.7]], np.float32)], {"fmod": 1}),
    Case("Pow", [positive(3, 4), const(2.0, np.float32)]),
    Case("Pow", [positive(3, 4), positive(3, 4)], note="tensor"),
    Case("Not", [X2 > 0]),
    Case("Where", [X2 > 0, X2, normal(4)]),
    Case("IsNaN", [X2]),
    Case("BitShift", [integers(0, 9, 3).astype(np.uint8), const([1], np.uint8)], {"direction": "LEFT"}),
    Case("Celu", [X3], {"alpha": 1.7}),
    Case("LeakyRelu", [X3], {"alpha": 0.2}),
    Case("PRelu", [X4, const(normal(4, 1, 1), np.float32)]),
    Case("PRelu", [X4, const(normal(8, 6), np.float32)], note="general"),
    Case("Gelu", [X3], {"approximate": "tanh"}),
    Case("Gelu", [X3]),
    Case("HardSigmoid", [X3]),
    Case("HardSigmoid", [X3], {"alpha": 1 / 6, "beta": 0.5}),
    Case("ThresholdedRelu", [X3], {"alpha": 0.3}),
    Case("Clip", [X3], {"min": -0.5, "max": 0.7}, opset=9),
    Case("Clip", [X3, None, const(0.7, np.float32)]),
    Case("Clip", [X3, np.array(-0.5, np.float32), const(0.7, np.float32)], note="dynamic"),
    Case("Softmax", [X3], {"axis": 1}, opset=11),
    Case("Softmax", [X3], {"axis": 1}),
    Case("LogSoftmax", [X3]),
    Case("MatMul", [X3, const(normal(8, 5), np.float32)]),
    Case("MatMul", [X3, normal(2, 8, 5)]),
    Case("Gemm", [X2, const(normal(5, 4), np.float32), const(normal(5), np.float32)], {"transB": 1}),
    Case(
        "Gemm",
        [normal(4, 3), const(normal(4, 5), np.float32), const(normal(5), np.float32)],
        {"transA": 1, "alpha": 0.5, "beta": 2.0},
        free=(1,),
    ),
    Case("Gemm", [X2, normal(4, 5), normal(1, 5)], free=()),
    Case("Einsum", [normal(2, 3, 4, 5), normal(2, 6, 4, 5)], {"equation": "bihd,bjhd->bhij"}),
    Case("Einsum", [normal(2, 3, 4), normal(4, 5)], {"equation": "abc,cd->ad"}),
    Case("Einsum", [normal(2, 3)], {"equation": "ij->j"}),
    Case("Conv", [X4, const(normal(6, 4, 3, 3), np.float32), const(normal(6), np.float32)], {"pads": [1, 1, 1, 1]}),
    Case("Conv", [X4, const(normal(4, 2, 3, 3), np.float32)], {"group": 2, "pads": [0, 1, 2, 1], "strides": [2, 1]}),
    Case("Conv", [X4, const(normal(6, 4, 3, 3), np.float32)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    Case("Conv", [X3, const(normal(6, 3, 3), np.float32)], {"dilations": [2]}, note="1d"),
    Case("ConvTranspose", [X4, const(normal(4, 3, 3, 3), np.float32)], {"strides": [2, 2], "output_padding": [1, 1]}),
    Case("ConvTranspose", [X4, const(normal(4, 3, 3, 3), np.float32)], {"pads": [1, 0, 0, 1], "strides": [2, 2]}),
    Case("MaxPool", [X4], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", [X4], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1], "ceil_mode": 1}),
    Case("AveragePool", [X4], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", [X4], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1}),
    Case("GlobalAveragePool", [X4]),
    Case("GlobalMaxPool", [X4]),
    Case("BatchNormalization", [X4, *(Const(positive(4)) for _ in range(4))]),
    Case("LayerNormalization", [X3, Const(positive(8)), Const(normal(8))]),
    Case("LayerNormalization", [X3, Const(positive(3, 8))], {"axis": 1, "epsilon": 1e-3}),
    Case("RMSNormalization", [X3, Const(positive(8))], opset=23),
    Case("GroupNormalization", [X4, Const(positive(4)), Const(normal(4))], {"num_groups": 2}),
    Case("GroupNormalization", [X4, Const(positive(2)), Const(normal(2))], {"num_groups": 2}, opset=18),
    Case("InstanceNormalization", [X4, Const(positive(4)), Const(normal(4))]),
    Case("LpNormalization", [X3], {"axis": 1, "p": 1}),
    Case("MeanVarianceNormalization", [X4]),
    Case("Reshape", [X3, const([0, -1])]),
    Case("Transpose", [X3], {"perm": [2, 0, 1]}),
    Case("Transpose", [X3], note="reversed"),
    Case("Squeeze", [normal(2, 1, 3, 1)], {"axes": [1, -1]}, opset=11),
    Case("Squeeze", [normal(2, 1, 3, 1), const([1])]),
    Case("Unsqueeze", [X2], {"axes": [0, 3]}, opset=11),
    Case("Unsqueeze", [X2, const([-1, 1])]),
    Case("Flatten", [X4], {"axis": 2}),
    Case("Flatten", [X4], {"axis": 0}),
    Case("Expand", [normal(3, 1), const([2, 1, 4])]),
    Case("Concat", [X2, normal(3, 2)], {"axis": -1}),
    Case("Split", [X3], {"axis": 2, "split": [3, 5]}, opset=11, outputs=2),
    Case("Split", [X3, const([3, 5])], {"axis": 2}, outputs=2),
    Case("Split", [X3], {"axis": 2, "num_outputs": 3}, outputs=3),
    Case("Slice", [X3], {"starts": [1, -5], "ends": [9, -1], "axes": [1, 2]}, opset=9),
    Case("Slice", [X3, const([1]), const([2**62]), const([2]), const([3])]),
    Case("Slice", [X3, const([-1]), const([-(2**62)]), const([0]), const([-1])], note="backwards"),
    Case("Slice", [X3, const([6, -1]), const([1, -4]), const([2, 1]), const([-2, -1])], note="backwards"),
    Case("Gather", [X3, const([[0, 2], [-1, 1]])], {"axis": 2}),
    Case("Gather", [X3, const(-1)], {"axis": 1}, note="scalar"),
    Case("Gather", [const(normal(7, 5), np.float32), integers(0, 7, 2, 3)], note="table"),
    Case("Gather", [X3, integers(0, 3, 2)], {"axis": 1}, note="dynamic"),
    Case("GatherElements", [X2, const([[0, -1], [2, 1], [1, 0]])], {"axis": 1}, free=()),
    Case("GatherND", [X3, const([[0, 1], [1, -1]])]),
    Case("ScatterND", [X2, const([[0, 1], [2, 3]]), normal(2)]),
    Case("ScatterElements", [X2, const([[0, -1, 2], [1, 0, 2]]), normal(2, 3)], {"axis": 1}),
    Case("ScatterElements", [X2, const([[0, 0, 2]]), normal(1, 3)], {"axis": 1, "reduction": "add"}, note="add"),
    Case("Tile", [X2, const([2, 3])]),
    Case("Pad", [X4], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.5}, opset=9),
    Case("Pad", [X4, const([1, 2, 3, 0]), const(0.5, np.float32), const([2, 3])]),
    Case("Pad", [X4, const([0, 0, 1, 2, 0, 0, 3, 0])], {"mode": "reflect"}),
    Case("Pad", [X2, const([0, 1, 0, 2])], {"mode": "reflect"}, note="matrix"),
    Case("Pad", [X4, const([0, 0, 1, 2, 0, 0, 3, 0])], {"mode": "edge"}),
    Case("DepthToSpace", [X4], {"blocksize": 2}),
    Case("DepthToSpace", [X4], {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", [X4], {"blocksize": 2}),
    Case("Trilu", [normal(2, 4, 5), const(1)], {"upper": 0}),
    Case("OneHot", [integers(-3, 5, 2, 3), const([5]), const([0.5, 2.0], np.float32)], {"axis": 1}),
    Case("EyeLike", [X2], {"k": 1}, free=()),
    Case("Cast", [X2 * 4], {"to": TensorProto.INT32}),
    Case("CastLike", [X2, const(1)]),
    Case("Identity", [X2]),
    Case("Dropout", [X2]),
    *(
        Case(f"Reduce{name}", [positive(2, 3, 4)], {"axes": [0, -1], "keepdims": 0}, opset=11)
        for name in ("Sum", "Mean", "Max")
    ),
    *(
        Case(f"Reduce{name}", [positive(2, 3, 4), const([1])])
        for name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2")
    ),
    *(
        Case(f"Reduce{name}", [positive(2, 3, 4), const([1, 2])])
        for name in ("LogSum", "LogSumExp", "SumSquare", "Prod")
    ),
    Case("ReduceSum", [integers(0, 9, 2, 3)], note="all"),
    Case("ArgMax", [X3], {"axis": 1, "keepdims": 0}),
    Case("ArgMin", [X3], {"axis": -1}),
    Case("TopK", [X3, const([3])], {"axis": 2}, outputs=2),
    Case("CumSum", [X3, const(2)], {"exclusive": 1, "reverse": 1}),
    Case("Upsample", [X4, const([1, 1, 2, 3], np.float32)], {"mode": "nearest"}, opset=9),
    Case("Resize", [X4, None, const([1, 1, 2, 2], np.float32)], {"coordinate_transformation_mode": "asymmetric"}),
    Case("Resize", [X4, None, const([1, 1, 0.6, 1.7], np.float32)], note="fractional"),
    Case("Resize", [X4, None, None, const([2, 4, 13, 9])], {"mode": "linear"}, free=()),
    Case(
        "Resize", [X4, None, None, const([2, 4, 16, 3])], {"coordinate_transformation_mode": "align_corners"}, free=()
    ),
    Case(
        "Resize",
        [X4, None, const([1, 1, 2, 2], np.float32)],
        {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    Case(
        "LSTM",
        [normal(5, 2, 3), *(Const(normal(2, 16, n)) for n in (3, 4)), Const(normal(2, 32))],
        {"hidden_size": 4, "direction": "bidirectional"},
        outputs=3,
        free=(1,),
    ),
    Case(
        "LSTM",
        [normal(5, 2, 3), *(Const(normal(1, 16, n)) for n in (3, 4)), None, None, normal(1, 2, 4), normal(1, 2, 4)],
        {"hidden_size": 4, "direction": "reverse"},
        outputs=3,
        free=(),
    ),
    Case(
        "GRU",
        [normal(3, 2, 3), *(Const(normal(1, 12, n)) for n in (3, 4)), Const(normal(1, 24))],
        {"hidden_size": 4, "linear_before_reset": 1},
        outputs=2,
        free=(1,),
    ),
    Case("RNN", [normal(3, 2, 3), *(Const(normal(1, 4, n)) for n in (3, 4))], {"hidden_size": 4}, outputs=2, free=(1,)),
    Case(
        "Attention", [normal(2, 4, 5, 8), normal(2, 2, 5, 8), normal(2, 2, 5, 8)], {"is_causal": 1}, opset=23, free=()
    ),
    Case(
        "Attention",
        [normal(2, 5, 16), normal(2, 5, 16), normal(2, 5, 16), Const(normal(5, 5))],
        {"q_num_heads": 2, "kv_num_heads": 2, "scale": 0.3},
        opset=23,
        free=(),
    ),
    Case("RotaryEmbedding", [normal(2, 4, 5, 8), *(Const(normal(2, 5, 4)) for _ in range(2))], opset=23, free=()),
    Case(
        "RotaryEmbedding",
        [normal(2, 5, 32), *(Const(normal(9, 2)) for _ in range(2)), integers(0, 9, 2, 5)],
        {"num_heads": 4, "interleaved": 1, "rotary_embedding_dim": 4},
        opset=23,
        free=(),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case) -> None:
    model, feeds = build_case(case)
    program = import_onnx(model)
    verify(program)
    assert_same(program, model, feeds)


@pytest.mark.parametrize("case", [case for case in CASES if case.free], ids=str)
def test_operator_with_a_free_axis(case: Case) -> None:
    model, feeds = build_case(case, case.free)
    program = import_onnx(model)
    verify(program)
    text = str(program)
    assert str(parse_program(text)) == text
    assert_same(program, model, feeds)
