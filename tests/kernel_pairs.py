"""Pairs of an operator and its numbers: how a random call of each is built, how close its meaning must be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from qcompiler.backends.onnx.settings import Settings
from tests.kernel_bench import CONTRIB, STANDARD, Bench
from tests.kernel_calls import (
    CHANNEL,
    SHAPES,
    TENSOR,
    Window,
    averaged,
    carried,
    combined,
    convolution,
    dense,
    dequantized,
    dynamic,
    embedded,
    joined,
    limited,
    looked_up,
    padded,
    product,
    through_codes,
    through_run_time_codes,
    transposed,
    weight_only,
    whole_mean,
)

Build = Callable[[Bench], object]
FAST = Settings(opset=21, weight_only="fast")


@dataclass(frozen=True)
class Pair:
    """An operator with its numbers.

    Args:
        operator: for people.
        numbers: for people: activations x weights -> result.
        build: draws one kernel call into a bench.
        realised: what onnxruntime must run, one of these.
        settings: of the ONNX backend.
        number: of the activations.
        summed: the result is a float32 sum, which may be off by the stated number of roundings.
        steps: by how many codes the result may be off, because a float32 sum is quantized; else every element must be
            equal.
    """

    operator: str
    numbers: str
    build: Build
    realised: tuple[str, ...]
    settings: Settings = STANDARD
    number: str = "uint8"
    summed: bool = False
    steps: int = 0

    @property
    def name(self) -> str:
        return f"{self.operator}: {self.numbers}"

    def bench(self, seed: int) -> Bench:
        """A bench with one random call."""
        bench = Bench(seed, self.settings)
        bench.number = self.number
        self.build(bench)
        return bench

    def excess(self, bench: Bench, difference: torch.Tensor) -> float:
        """The largest difference as a part of what is allowed; infinite where none is."""
        if self.summed:
            return bench.excess(difference)
        steps = float((difference / bench.step).abs().max().round()) if difference.any() else 0.0
        return steps / self.steps if self.steps else math.inf if steps else 0.0


def conv_pair(operator: str, numbers: str, *, number: str = "uint8", **window: object) -> Pair:
    chosen = Window(**window)  # pyright: ignore[reportArgumentType]
    return Pair(operator, numbers, partial(convolution, window=chosen), ("QLinearConv",), number=number)


def linear_pair(operator: str, numbers: str, realised: str, settings: Settings = STANDARD, **options: object) -> Pair:
    return Pair(operator, numbers, partial(dense, **options), (realised,), settings)  # pyright: ignore[reportArgumentType]


def carried_pair(op: str, make: Callable[[torch.Tensor], list[object]], *realised: str, kernel: str = "carry") -> Pair:
    return Pair(op.removeprefix("aten."), "u8", partial(carried, kernel=kernel, op=op, make=make), realised)


def packed_pair(number: str, *, level: int, block: int = 0, rows: int = 6) -> Pair:
    build = partial(weight_only, number=number, block=block, rows=rows)
    kernel = ("MatMulNBits",) if level >= 0 else ("Gemm",)
    text = f"f32 x {number}" + (" in one row" if rows == 1 else "")
    name = f"MatMulNBits level {level}" if level >= 0 else "DequantizeLinear + Gemm"
    return Pair(name, text, build, kernel, FAST if level == 4 else STANDARD, summed=True)


CONVOLUTIONS = (
    conv_pair("QLinearConv 1-D", "u8 x s8 channel", rank=1),
    conv_pair("QLinearConv 2-D", "u8 x s8 channel"),
    conv_pair("QLinearConv 2-D", "u8 x s8 tensor", weight=TENSOR),
    conv_pair("QLinearConv 2-D", "u8 x s4 as s8", weight="int4 sym channel"),
    conv_pair("QLinearConv 2-D no bias", "u8 x s8 channel", biased=False),
    conv_pair("QLinearConv 3-D", "u8 x s8 channel", rank=3),
    conv_pair("QLinearConv grouped", "u8 x s8 channel", groups=3),
    conv_pair("QLinearConv depthwise", "u8 x s8 channel", depthwise=True, kernels=(3, 3)),
    conv_pair("QLinearConv depthwise 5x5", "u8 x s8 tensor", depthwise=True, kernels=(5, 5), weight=TENSOR),
    conv_pair("QLinearConv pointwise", "u8 x s8 channel", kernels=(1, 1)),
    conv_pair("QLinearConv padded", "u8 x s8 channel", kernels=(3, 5), padded=True),
    conv_pair("QLinearConv dilated", "u8 x s8 channel", kernels=(2, 3), dilated=True, padded=True),
    conv_pair("QLinearConv + Relu", "u8 x s8 channel", limits="relu"),
    conv_pair("QLinearConv + Clip", "u8 x s8 channel", limits="inner"),
    conv_pair("QLinearConv 2-D", "s8 x s8 channel", number="int8"),
)
PRODUCTS = (
    linear_pair("QGemm", "u8 x s8 channel -> f32", "QGemm", rank=2),
    linear_pair("QGemm of rows", "u8 x s8 channel -> f32", "QGemm", rank=3),
    linear_pair("QGemm", "u8 x s8 tensor -> f32", "QGemm", rank=2, weight=TENSOR),
    linear_pair("QGemm", "u8 x s8 channel -> u8", "QGemm", rank=2, quantized=True),
    linear_pair("QGemm of rows", "u8 x s8 tensor -> u8", "QGemm", rank=3, weight=TENSOR, quantized=True),
    linear_pair("QGemm no bias", "u8 x s8 channel -> u8", "QGemm", rank=2, bias="none", quantized=True),
    linear_pair("QLinearMatMul", "u8 x s8 channel -> u8", "QLinearMatMul", rank=3, bias="none", quantized=True),
    linear_pair(
        "QLinearMatMul", "u8 x s8 tensor -> u8", "QLinearMatMul", rank=4, bias="none", quantized=True, weight=TENSOR
    ),
    linear_pair("MatMulIntegerToFloat", "u8 x s8 channel", "MatMulIntegerToFloat", rank=3, bias="none"),
    linear_pair(
        "MatMulIntegerToFloat + bias", "u8 x s8 channel", "MatMulIntegerToFloat", CONTRIB, rank=3, bias="float"
    ),
    Pair(
        "DynamicQuantizeMatMul",
        "f32 x s8 channel",
        partial(dynamic, weight=CHANNEL, biased=False),
        ("DynamicQuantizeMatMul",),
    ),
    Pair(
        "DynamicQuantizeMatMul + bias",
        "f32 x s8 channel",
        partial(dynamic, weight=CHANNEL, biased=True),
        ("DynamicQuantizeMatMul",),
    ),
    Pair(
        "DynamicQuantizeMatMul",
        "f32 x s8 tensor",
        partial(dynamic, weight=TENSOR, biased=False),
        ("DynamicQuantizeMatMul",),
    ),
    Pair(
        "MatMulIntegerToFloat at run time",
        "f32 x s8 channel",
        partial(dynamic, weight=CHANNEL, biased=True),
        ("MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
        CONTRIB,
    ),
)
ACTIVATIONS = tuple(
    Pair("QLinearMatMul of activations", f"u8 x u8, {rank} axes", partial(product, rank=rank), ("QLinearMatMul",))
    for rank in (2, 3, 4)
)
QUANTIZERS = (
    Pair("DynamicQuantizeLinear", "f32 -> u8", through_run_time_codes, ("DynamicQuantizeLinear",)),
    *(
        Pair("QuantizeLinear", f"f32 -> {name}", through_codes, ("QuantizeLinear",), number=name)
        for name in ("uint8", "int8", "uint16", "int16")
    ),
    *(
        Pair("DequantizeLinear", f"{name} -> f32", partial(dequantized, number=name), ("DequantizeLinear",))
        for name in (
            "int8 sym channel",
            "int4 sym group=16",
            "uint4 asym group=32",
            "int8 sym group=32",
            "uint8 asym channel",
        )
    ),
)
POINTWISE = (
    *(
        Pair(
            f"QLinear{op.title()} {shapes}",
            "u8 x u8",
            partial(combined, op=op, shapes=shapes),
            (f"QLinear{op.title()}",),
        )
        for op in ("add", "mul")
        for shapes in SHAPES
    ),
    Pair("QLinearAdd + Clip", "u8 x u8", partial(combined, op="add", shapes="alike", limited=True), ("QLinearAdd",)),
    Pair("QLinearMul alike", "s8 x s8", partial(combined, op="mul", shapes="alike"), ("QLinearMul",), number="int8"),
    Pair("QLinearConcat", "u8", joined, ("QLinearConcat",)),
    Pair("QLinearConcat", "s8", joined, ("QLinearConcat",), number="int8"),
    Pair("QLinearSigmoid", "u8", partial(looked_up, op="aten.sigmoid"), ("QLinearSigmoid",)),
    Pair("QLinearLeakyRelu", "u8", partial(looked_up, op="aten.leaky_relu", options=[0.1]), ("QLinearLeakyRelu",)),
    Pair("QLinearAveragePool", "u8", partial(averaged, counted=False, padded=False), ("QLinearAveragePool",)),
    Pair("QLinearAveragePool padded", "u8", partial(averaged, counted=False, padded=True), ("QLinearAveragePool",)),
    Pair(
        "QLinearAveragePool counting pads", "u8", partial(averaged, counted=True, padded=True), ("QLinearAveragePool",)
    ),
    Pair("QLinearGlobalAveragePool", "u8", whole_mean, ("QLinearGlobalAveragePool",)),
    Pair("Clip", "u8", limited, ("Clip",)),
    Pair("Pad", "u8", padded, ("Pad",)),
)
MOVED = (
    carried_pair("aten.max_pool2d", lambda x: [[3, 3], [2, 2], [1, 1], [1, 1], False], "MaxPool", "NhwcMaxPool"),
    carried_pair("aten.reshape", lambda x: [[x.shape[0], -1]], "Reshape", "Flatten"),
    carried_pair("aten.permute", lambda x: [[0, 3, 1, 2]], "Transpose"),
    carried_pair("aten.unsqueeze", lambda x: [1], "Unsqueeze", "Reshape"),
    carried_pair("aten.slice.Tensor", lambda x: [2, 1, 6, 2], "Slice"),
    carried_pair("aten.select.int", lambda x: [1, 2], "Gather", "Slice", "Squeeze"),
    carried_pair("aten.expand", lambda x: [[1, *x.shape]], "Expand"),
    carried_pair("aten.flip", lambda x: [[2]], "Slice"),
    carried_pair("aten.repeat", lambda x: [[1, 2, 1, 1]], "Tile"),
    carried_pair("aten.pixel_shuffle", lambda x: [2], "DepthToSpace"),
    carried_pair("aten.pixel_unshuffle", lambda x: [2], "SpaceToDepth"),
    carried_pair("aten.upsample_nearest2d.vec", lambda x: [None, [2.0, 3.0]], "Resize", kernel="resize"),
)
PACKED = (
    packed_pair("uint4 asym group=32", level=4, block=32),
    packed_pair("uint4 asym group=32", level=4, block=32, rows=1),
    packed_pair("int4 sym group=128", level=4, block=128),
    packed_pair("int4 sym group=16", level=4, block=16),
    packed_pair("int8 sym channel", level=4, block=32),
    packed_pair("uint8 asym group=64", level=4, block=64),
    packed_pair("uint2 asym group=32", level=4, block=32),
    packed_pair("uint4 asym group=32", level=0),
    packed_pair("uint4 asym group=32", level=0, rows=1),
    packed_pair("int4 sym group=16", level=0),
    packed_pair("uint3 asym group=32", level=0),
    packed_pair("int8 sym group=32", level=-1),
    packed_pair("int8 sym channel", level=-1),
    packed_pair("uint8 asym group=64", level=-1),
    *(
        Pair("GatherBlockQuantized", number, partial(embedded, number=number), ("GatherBlockQuantized",))
        for number in ("uint4 asym group=16", "int4 sym group=32", "int8 sym group=32", "uint8 asym group=16")
    ),
    *(
        Pair("Gather of codes", number, partial(embedded, number=number), ("Gather",))
        for number in ("int8 sym channel", "uint4 asym channel")
    ),
)
ON_REALS = (
    Pair("ConvTranspose", "u8 x s8 channel", transposed, ("ConvTranspose",), steps=1),
    *(
        Pair(
            "Conv between codes",
            f"{number} x s8 channel",
            partial(convolution, window=Window(kernel="conv_wide", biased=False)),
            ("Conv", "FusedConv"),
            number=number,
            steps=1,
        )
        for number in ("uint16", "int16")
    ),
    *(
        Pair(
            "MatMul between codes",
            f"{number} x s8 channel",
            partial(dense, rank=3, bias="none", quantized=True, kernel="linear_wide"),
            ("MatMul", "Gemm", "FusedMatMul"),
            number=number,
            steps=1,
        )
        for number in ("uint16", "int16")
    ),
)
PAIRS = (*CONVOLUTIONS, *ACTIVATIONS, *ON_REALS, *PRODUCTS, *QUANTIZERS, *POINTWISE, *MOVED, *PACKED)
