"""The patterns of the matrix: operator x form x numbers x granularity x zero point x bias x layout.

A name such as `MatMul u8 x s8 channel, bias float after, float out` says all that a pattern is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import onnx

from qcompiler.backends.onnx.matrix.sketch import Sketch, codes, middle
from qcompiler.backends.onnx.names import MICROSOFT

Grain = Literal["tensor", "channel", "block"]
Bias = Literal["none", "float", "int32", "added"]
ROWS, INNER, OUTER, BLOCK, IMAGE = 4, 64, 32, 32, (1, 16, 8, 8)
_BYTE = 8
_BLOCK_OPSET, _TWO_BITS_OPSET = 21, 25


@dataclass(frozen=True)
class Pattern:
    """A small graph and what it is called.

    Args:
        name: unique.
        body: writes the graph and returns the names of its results.
        opset: version of the standard operator set.
    """

    name: str
    body: Callable[[Sketch], Sequence[str]]
    opset: int = _BLOCK_OPSET

    def model(self) -> onnx.ModelProto:
        """The graph as a model."""
        sketch = Sketch(self.opset)
        return sketch.model(self.body(sketch))


@dataclass(frozen=True)
class Product:
    """A product with a weight: what may vary.

    Args:
        op: `MatMul`, `Gemm`, `Conv` or `ConvTranspose`.
        activation: number of the input; `f32` leaves it alone, `u8 dynamic` finds its scale at run time.
        weight: number of the weight.
        grain: what shares a scale of the weight.
        points: whether the weight's zero point is written.
        bias: absent, float, int32 codes with their scale, or float and added behind the operator.
        after: an activation behind: empty, `relu`, or `clip`.
        result: number of the result.
        zero: zero point of a quantized result, None for the middle.
        layout: `stored [N, K]` (a Transpose or transB), `rank 3`, `depthwise`, or empty.
        readers: how many products read the quantized input.
    """

    op: str
    activation: str = "u8"
    weight: str = "s8"
    grain: Grain = "channel"
    points: bool = True
    bias: Bias = "none"
    after: str = ""
    result: str = "f32"
    zero: int | None = None
    layout: str = ""
    readers: int = 1

    @property
    def name(self) -> str:
        """All that differs from the plainest form."""
        words = [f"{self.op} {self.activation} x {self.weight}" + (f" {self.grain}" if self.weight != "f32" else "")]
        words += [] if self.points else ["weight zero point left out"]
        words += {"none": [], "float": ["float bias"], "int32": ["int32 bias"], "added": ["bias added behind"]}[
            self.bias
        ]
        words += [self.layout] if self.layout else []
        words += [f"{self.readers} readers"] if self.readers > 1 else []
        words += [self.after] if self.after else []
        point = "" if self.zero is None else f" zero point {self.zero}"
        words.append("float out" if self.result == "f32" else f"{self.result} out{point}")
        return ", ".join(words)

    def pattern(self) -> Pattern:
        """The form as a pattern."""
        return Pattern(self.name, partial(_product, self), _TWO_BITS_OPSET if self.weight[1:] == "2" else _BLOCK_OPSET)


def _product(form: Product, g: Sketch) -> list[str]:
    x = g.input(_input_shape(form))
    fed = _dynamic(g, x) if form.activation == "u8 dynamic" else g.pair(x, form.activation)
    return [_finished(form, g, _multiplied(form, g, fed)) for _ in range(form.readers)]


def _input_shape(form: Product) -> tuple[int, ...]:
    if form.op.startswith("Conv"):
        return IMAGE
    return (2, ROWS, INNER) if form.layout.startswith("rank 3") else (ROWS, INNER)


def _dynamic(g: Sketch, x: str) -> str:
    codes_, scale, zero = g.ops("DynamicQuantizeLinear", [x], 3)
    return g.dequantize(codes_, (scale, zero))


def _multiplied(form: Product, g: Sketch, x: str) -> str:
    image = form.op.startswith("Conv")
    weight, scale = _weight(form, g)
    bias = _bias(form, g, scale)
    if form.op == "MatMul":
        y = g.op("MatMul", [x, weight])
    elif form.op == "Gemm":
        y = g.op("Gemm", [x, weight, *bias], {"transB": int("[N, K]" in form.layout)})
    else:
        attributes: dict[str, object] = {"pads": [1, 1, 1, 1]}
        attributes |= {"group": IMAGE[1]} if form.layout == "depthwise" else {}
        y = g.op(form.op, [x, weight, *bias], attributes)
    if form.bias != "added":
        return y
    shape = (1, OUTER, 1, 1) if image else (OUTER,)
    return g.op("Add", [y, g.constant(np.full(shape, 0.1))])


def _weight(form: Product, g: Sketch) -> tuple[str, np.ndarray]:
    """The dequantized weight and its scales, one per output channel."""
    shape, channel = _weight_shape(form)
    scale_shape = {"tensor": (), "channel": (shape[channel],), "block": tuple(shape)}[form.grain]
    attributes: dict[str, object] = {} if form.grain == "tensor" else {"axis": channel}
    if form.grain == "block":
        inner = 1 - channel
        scale_shape = tuple(size // BLOCK if axis == inner else size for axis, size in enumerate(shape))
        attributes = {"axis": inner, "block_size": BLOCK}
    scales = np.full(scale_shape, 0.01, dtype=np.float32)
    if form.weight == "f32":
        return g.constant(codes(shape, "s8") * 0.01), scales
    inputs = [g.constant(codes(shape, form.weight), form.weight), g.constant(scales)]
    if form.points:
        inputs.append(g.constant(np.full(scale_shape, middle(form.weight)), form.weight))
    weight = g.op("DequantizeLinear", inputs, attributes)
    if form.op == "MatMul" and "[N, K]" in form.layout:
        weight = g.op("Transpose", [weight], {"perm": [1, 0]})
    return weight, scales if form.grain == "channel" else np.full((OUTER,), 0.01, dtype=np.float32)


def _weight_shape(form: Product) -> tuple[tuple[int, ...], int]:
    """Shape, and the axis of output channels."""
    if form.op == "Conv":
        return ((IMAGE[1], 1, 3, 3) if form.layout == "depthwise" else (OUTER, IMAGE[1], 3, 3)), 0
    if form.op == "ConvTranspose":
        return (IMAGE[1], OUTER, 3, 3), 1
    return ((OUTER, INNER), 0) if "[N, K]" in form.layout else ((INNER, OUTER), 1)


def _bias(form: Product, g: Sketch, scale: np.ndarray) -> list[str]:
    outer = IMAGE[1] if form.layout == "depthwise" else OUTER
    if form.bias == "float":
        return [g.constant(np.full((outer,), 0.1))]
    if form.bias != "int32":
        return []
    factor = (np.float32(0.02) * scale.astype(np.float32)).astype(np.float32)
    stored = [g.constant(np.full((outer,), 500), "s32"), g.constant(factor), g.constant(np.zeros((outer,)), "s32")]
    return [g.op("DequantizeLinear", stored, {"axis": 0})]


def _finished(form: Product, g: Sketch, y: str) -> str:
    if form.after == "relu":
        y = g.op("Relu", [y])
    if form.after == "clip":
        y = g.op("Clip", [y, g.constant(np.array(0.0)), g.constant(np.array(6.0))])
    return g.pair(y, form.result, zero=form.zero)


def _products() -> Iterator[Product]:
    for bias in ("none", "added"):
        for result in ("f32", "u8"):
            yield Product("MatMul", bias=bias, result=result)
            yield Product("MatMul", bias=bias, result=result, layout="rank 3")
    for bias in ("none", "float", "int32"):
        for result in ("f32", "u8"):
            yield Product("Gemm", bias=bias, result=result)
    yield Product("Gemm", bias="int32", layout="stored [N, K]")
    yield Product("Gemm", bias="int32", points=False)
    yield Product("Gemm", bias="int32", result="u8", after="relu", zero=0)
    yield Product("Gemm", bias="int32", result="u8", after="relu")
    yield Product("MatMul", layout="stored [N, K]")
    yield Product("MatMul", points=False)
    yield Product("MatMul", grain="tensor")
    yield Product("MatMul", weight="u8", grain="tensor")
    yield Product("MatMul", weight="u8")
    yield Product("MatMul", activation="s8")
    yield Product("MatMul", activation="s8", readers=3)
    yield Product("MatMul", readers=3)
    yield Product("MatMul", activation="u16", result="u16")
    yield Product("MatMul", activation="s16")
    yield Product("MatMul", activation="u8", weight="s16")
    yield Product("MatMul", activation="u8", weight="s4", grain="block")
    yield Product("MatMul", activation="f8", weight="f8", grain="tensor")
    yield Product("MatMul", activation="u8 dynamic")
    yield Product("MatMul", activation="u8 dynamic", bias="added")
    yield Product("MatMul", activation="u8 dynamic", layout="rank 3")
    yield Product("Gemm", activation="u8 dynamic", bias="float")
    yield Product("MatMul", activation="u8 dynamic", weight="s4", grain="block")
    for number in ("s8", "u8", "s4", "u4", "s2", "u2"):
        yield Product("MatMul", activation="f32", weight=number, grain="block")
    for number in ("s8", "s4", "f8"):
        yield Product("MatMul", activation="f32", weight=number)
    yield Product("MatMul", activation="f32", weight="s8", grain="tensor")
    yield Product("MatMul", activation="f32", weight="s4", grain="block", layout="stored [N, K]")
    yield Product("Gemm", activation="f32", weight="s4", grain="block")
    yield Product("Gemm", activation="f32", weight="s4", grain="block", layout="stored [N, K]")
    yield from _convolutions()


def _convolutions() -> Iterator[Product]:
    for bias in ("none", "float", "int32", "added"):
        yield Product("Conv", bias=bias, result="u8")
    yield Product("Conv", bias="int32", points=False, result="u8")
    yield Product("Conv", bias="int32")
    yield Product("Conv", result="u8", after="relu", zero=0)
    yield Product("Conv", result="u8", after="relu")
    yield Product("Conv", result="u8", after="clip", zero=0)
    yield Product("Conv", result="u8", after="clip")
    yield Product("Conv", grain="tensor", result="u8")
    yield Product("Conv", weight="u8", result="u8")
    yield Product("Conv", activation="s8", result="s8")
    yield Product("Conv", activation="s8", result="s8", readers=2)
    yield Product("Conv", activation="u16", result="u16")
    yield Product("Conv", weight="s4", result="u8")
    yield Product("Conv", activation="f32")
    yield Product("Conv", weight="f32", result="u8")
    yield Product("Conv", activation="u8 dynamic")
    yield Product("Conv", layout="depthwise", result="u8")
    yield Product("ConvTranspose", result="u8")
    yield Product("ConvTranspose")
    for op in ("ConvTranspose", "Gemm", "MatMul"):
        yield Product(op, weight="f32", result="u8")


def _two(op: str, attributes: dict[str, object], number: str, g: Sketch) -> list[str]:
    shape = (ROWS, INNER) if op != "MatMul" else (2, 8, 8)
    left, right = (g.pair(g.input(shape), number) for _ in range(2))
    return [g.pair(g.op(op, [left, right], attributes), number)]


def _residual(between: bool, g: Sketch) -> list[str]:
    """Two convolutions added up, with or without codes between them and the sum."""
    branches = [_product(Product("Conv", result="u8" if between else "f32"), g)[0] for _ in range(2)]
    return [g.pair(g.op("Relu", [g.op("Add", branches)]), "u8", zero=0)]


def _one(op: str, attributes: dict[str, object], number: str, g: Sketch) -> list[str]:
    inputs = [g.pair(g.input(IMAGE), number)]
    extra: dict[str, Callable[[], list[str]]] = {
        "Resize": lambda: ["", g.constant(np.array([1.0, 1.0, 2.0, 2.0]))],
        "Reshape": lambda: [g.ints([1, -1])],
        "Slice": lambda: [g.ints([0]), g.ints([4]), g.ints([2])],
        "Clip": lambda: [g.constant(np.array(0.0)), g.constant(np.array(6.0))],
        "ReduceMean": lambda: [g.ints([2, 3])],
        "Pad": lambda: [g.ints([0, 0, 1, 1, 0, 0, 1, 1])],
        "Squeeze": lambda: [g.ints([0])],
    }
    inputs += extra.get(op, list)()
    return [g.pair(g.op(op, inputs, attributes), number)]


_UNARY: tuple[tuple[str, dict[str, object]], ...] = (
    ("Sigmoid", {}), ("LeakyRelu", {"alpha": 0.1}), ("Softmax", {"axis": -1}), ("Relu", {}), ("Clip", {}),
    ("HardSwish", {}), ("Gelu", {}), ("Tanh", {}), ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("GlobalAveragePool", {}), ("ReduceMean", {}), ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("Resize", {"mode": "nearest"}), ("Reshape", {}), ("Transpose", {"perm": [0, 2, 3, 1]}), ("Slice", {}),
    ("Pad", {}), ("Squeeze", {}), ("Flatten", {}),
)  # fmt: skip


def _table(number: str, grain: Grain, on_codes: bool, g: Sketch) -> list[str]:
    """Rows of a quantized table, looked up before or after it is dequantized."""
    indices = g.op("Cast", [g.input((ROWS,))], {"to": 7})
    table = g.constant(codes((OUTER, INNER), number), number)
    grid = [g.constant(np.array(0.01)), g.constant(np.array(middle(number)), number)]
    if on_codes:
        return [g.op("DequantizeLinear", [g.op("Gather", [table, indices]), *grid])]
    attributes: dict[str, object] = {}
    if grain == "block":
        shape = (OUTER, INNER // BLOCK)
        grid = [g.constant(np.full(shape, 0.01)), g.constant(np.full(shape, middle(number)), number)]
        attributes = {"axis": 1, "block_size": BLOCK}
    return [g.op("Gather", [g.op("DequantizeLinear", [table, *grid], attributes), indices])]


def _packed(bits: int, level: int, g: Sketch) -> list[str]:
    """MatMulNBits written as such."""
    x = g.input((ROWS, INNER))
    blocks = INNER // BLOCK
    weight = g.constant(codes((OUTER, blocks, BLOCK * bits // 8), "u8"), "u8")
    attributes = {"K": INNER, "N": OUTER, "bits": bits, "block_size": BLOCK, "accuracy_level": level}
    inputs = [x, weight, g.constant(np.full((OUTER, blocks), 0.01))]
    return [g.op("MatMulNBits", inputs, attributes, domain=MICROSOFT)]


def _integers(op: str, weight: str, g: Sketch) -> list[str]:
    """The integer operators of the standard with run-time scales, scaled back by hand."""
    image = op == "ConvInteger"
    x = g.input(IMAGE if image else (ROWS, INNER))
    codes_, scale, zero = g.ops("DynamicQuantizeLinear", [x], 3)
    stored = g.constant(codes((OUTER, IMAGE[1], 3, 3) if image else (INNER, OUTER), weight), weight)
    total = g.op(op, [codes_, stored, zero, g.constant(np.array(middle(weight)), weight)])
    reals = g.op("Cast", [total], {"to": 1})
    return [g.op("Mul", [reals, g.op("Mul", [scale, g.constant(np.array(0.01))])])]


def _cached(bits: int, grain: Grain, g: Sketch) -> list[str]:
    """One step of attention over keys and values that are kept as codes."""
    heads, groups, width, past = 8, 2, 32, 8
    number, stored = ("s8", width) if bits == _BYTE else ("u8", width // 2)
    query, key, value = (g.input((1, 1, count * width)) for count in (heads, groups, groups))
    old = [g.constant(codes((1, groups, past, stored), number), number) for _ in range(2)]
    lengths = [g.constant(np.full((1,), past + extra), "s32") for extra in (0, 1)]
    scale = g.constant(np.full((1,) if grain == "tensor" else (1, groups, 1, width), 0.02))
    kind = "PER_TENSOR" if grain == "tensor" else "PER_CHANNEL"
    attributes = {"num_heads": heads, "kv_num_heads": groups, "kv_cache_bit_width": bits}
    attributes |= {"k_quant_type": kind, "v_quant_type": kind}
    inputs = [query, key, value, *old, *lengths, *[""] * 5, scale, scale]
    return g.ops("GroupQueryAttention", inputs, 3, attributes, domain=MICROSOFT)


def patterns() -> tuple[Pattern, ...]:
    """All of them, in the order of the matrix."""
    found = [form.pattern() for form in _products()]
    for op in ("Add", "Mul", "MatMul", "Concat", "Sub"):
        for number in ("u8", "s8"):
            attributes: dict[str, object] = {"axis": 0} if op == "Concat" else {}
            found.append(Pattern(f"{op} {number} and {number}, {number} out", partial(_two, op, attributes, number)))
    found.append(Pattern("Conv + Conv, relu, codes between", partial(_residual, True)))
    found.append(Pattern("Conv + Conv, relu, nothing between", partial(_residual, False)))
    found += [Pattern(f"{op} u8, u8 out", partial(_one, op, attributes, "u8")) for op, attributes in _UNARY]
    found.append(Pattern("Gather of a dequantized s8 table", partial(_table, "s8", "tensor", False)))
    found.append(Pattern("Gather of a dequantized u4 block table", partial(_table, "u4", "block", False)))
    found.append(Pattern("Gather of s8 codes, dequantized behind", partial(_table, "s8", "tensor", True)))
    for bits in (2, 4, 8):
        found += [Pattern(f"MatMulNBits {bits} bits, level {n}", partial(_packed, bits, n)) for n in (0, 4)]
    for bits in (4, 8):
        for grain in ("tensor", "channel"):
            name = f"GroupQueryAttention over a cache of {bits} bits per {grain}"
            found.append(Pattern(name, partial(_cached, bits, grain)))
    for op in ("MatMulInteger", "ConvInteger"):
        found += [Pattern(f"{op} u8 dynamic x {w} tensor", partial(_integers, op, w)) for w in ("s8", "u8")]
    return tuple(found)
