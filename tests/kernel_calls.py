"""Random calls of every kernel, drawn into a bench."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from qcompiler.backends.reference.arithmetic import apply
from qcompiler.ir.program import Node
from qcompiler.ir.types import TensorType
from tests.kernel_bench import F32, Bench, Feed, Operand, tensor_spec

CHANNEL, TENSOR = "int8 sym channel", "int8 sym tensor"


@dataclass(frozen=True)
class Window:
    """What a convolution may be drawn from."""

    rank: int = 2
    weight: str = CHANNEL
    groups: int = 1
    depthwise: bool = False
    kernels: tuple[int, int] = (1, 3)
    padded: bool = False
    dilated: bool = False
    stride: int = 2
    biased: bool = True
    limits: str = "none"
    kernel: str = "conv"


def convolution(bench: Bench, window: Window) -> None:
    """A convolution of random sizes."""
    rank, groups = window.rank, bench.pick(2, 9) if window.depthwise else window.groups
    inner = 1 if window.depthwise else bench.pick(1, 9 if bench.chance(0.8) else 160 // 3 ** (rank - 1))
    outer = groups * bench.pick(1, 1 if window.depthwise else 9)
    kernel = [bench.pick(*window.kernels) for _ in range(rank)]
    dilation = [bench.pick(1, 2) if window.dilated else 1 for _ in range(rank)]
    padding = [bench.pick(0, size // 2) if window.padded else 0 for size in kernel]
    stride = [bench.pick(1, window.stride) for _ in range(rank)]
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
    sizes = [size + bench.pick(0, 6) for size in reach]
    (x,) = bench.inputs([bench.pick(1, 3), groups * inner, *sizes])
    a = bench.activation(x)
    w, _ = bench.weight([outer, inner, *kernel], window.weight)
    wide = window.kernel != "conv"
    b = (bench.float_bias(outer) if wide else bench.bias(a, w, outer)) if window.biased else None
    gain = 60 * math.sqrt(inner * math.prod(kernel))
    result = bench.result(rank + 2, a, w, gain=gain, zero_point=0 if window.limits == "relu" else None)
    out = [(s + 2 * p - r) // d + 1 for s, p, r, d in zip(sizes, padding, reach, stride, strict=True)]
    low = bench.pick(1, 100) if window.limits == "inner" else None
    limits = None if low is None else (float(low), float(bench.pick(low, 255)))
    shape = [bench.program.shape(x)[0], outer, *out]
    options = (stride, padding, dilation, groups)
    bench.finish(window.kernel, f"aten.conv{rank}d", [a, w, b, *options], [int(n) for n in shape], result, limits)


def dense(
    bench: Bench,
    *,
    rank: int,
    weight: str = CHANNEL,
    bias: str = "int32",
    quantized: bool = False,
    kernel: str = "linear",
) -> None:
    """A linear layer of random sizes, long sums among them."""
    k = bench.pick(1, 70) if bench.chance(0.8) else bench.pick(500, 3000)
    n, leading = bench.pick(1, 33), [bench.pick(1, 9) for _ in range(rank - 1)]
    (x,) = bench.inputs([*leading, k])
    a = bench.activation(x)
    w, _ = bench.weight([n, k], weight)
    b = {"int32": lambda: bench.bias(a, w, n), "float": lambda: bench.float_bias(n), "none": lambda: None}[bias]()
    result = bench.result(rank, a, w, gain=60 * math.sqrt(k)) if quantized else None
    bench.finish(kernel, "aten.linear", [a, w, b], [*leading, n], result)


def product(bench: Bench, *, rank: int) -> None:
    """A product of two activations."""
    m, k, n = (bench.pick(1, 40) for _ in range(3))
    leading = [bench.pick(1, 4) for _ in range(rank - 2)]
    a, b = (bench.activation(node) for node in bench.inputs([*leading, m, k], [*leading, k, n]))
    result = bench.result(rank, a, b, gain=60 * math.sqrt(k))
    bench.finish("matmul", "aten.matmul", [a, b], [*leading, m, n], result)


def transposed(bench: Bench) -> None:
    """A transposed convolution."""
    n, c, outer, stride = bench.pick(1, 2), bench.pick(1, 9), bench.pick(1, 9), bench.pick(1, 2)
    kernel, sizes = bench.pick(stride, 3), [bench.pick(1, 6), bench.pick(1, 6)]
    (x,) = bench.inputs([n, c, *sizes])
    a = bench.activation(x)
    w, _ = bench.weight([c, outer, kernel, kernel], CHANNEL, 1)
    b = bench.bias(a, w, outer)
    result = bench.result(4, a, w, gain=60 * math.sqrt(c * kernel))
    out = [(size - 1) * stride + kernel for size in sizes]
    window = ([stride] * 2, [0, 0], [0, 0], 1, [1, 1])
    bench.finish("conv_transpose", "aten.conv_transpose2d.input", [a, w, b, *window], [n, outer, *out], result)


def dynamic(bench: Bench, *, weight: str, biased: bool) -> None:
    """A linear layer whose input gets its scale at run time."""
    k, n, leading = bench.pick(1, 300), bench.pick(1, 33), [bench.pick(1, 4), bench.pick(1, 9)]
    x = bench.input(Feed((*leading, k), "reals"))
    codes = run_time_codes(bench, x)
    w, _ = bench.weight([n, k], weight)
    b = bench.float_bias(n) if biased else None
    bench.finish("linear_dynamic", "aten.linear", [codes, w, b], [*leading, n])


def run_time_codes(bench: Bench, x: Node) -> Operand:
    """Codes, scale and zero point that are found at run time."""
    spec = tensor_spec("uint8", len(bench.program.shape(x)), dynamic=True)
    scale, zero = bench.builder.items(bench.builder.call("qc.choose_qparams", x, kwargs={"spec": spec}))
    return [bench.builder.call("qc.quantize", x, scale, zero, kwargs={"spec": spec}), scale, zero]


def through_run_time_codes(bench: Bench) -> None:
    """The quantizer at run time and back."""
    x = bench.input(Feed((bench.pick(1, 40), bench.pick(1, 40)), "reals"))
    codes = run_time_codes(bench, x)
    spec = tensor_spec("uint8", 2, dynamic=True)
    bench.close([bench.builder.call("qc.dequantize", *codes, kwargs={"spec": spec})])


def through_codes(bench: Bench) -> None:
    """The static quantizer of any number and back."""
    x = bench.input(Feed((bench.pick(1, 40), bench.pick(1, 40)), "reals"))
    spec, parts = tensor_spec(bench.number, 2), bench.grid(2)
    codes = bench.builder.call("qc.quantize", x, *parts, kwargs={"spec": spec})
    bench.close([bench.builder.call("qc.dequantize", codes, *parts, kwargs={"spec": spec})])


SHAPES = {
    "alike": lambda n, c, h, w: ((n, c, h, w), (n, c, h, w)),
    "channels": lambda n, c, h, w: ((n, c, h, w), (n, c, 1, 1)),
    "leading": lambda n, c, h, w: ((1, c, 1, 1), (n, c, h, w)),
    "one": lambda n, c, h, w: ((n, c, h, w), (1, 1, 1, 1)),
    "rows": lambda n, c, h, w: ((n, c, h, 1), (n, c, h, w + 1)),
}


def combined(bench: Bench, *, op: str, shapes: str, limited: bool = False) -> None:
    """A sum or product."""
    found = SHAPES[shapes](*(bench.pick(1, 7) for _ in range(4)))
    first, second = found[::-1] if bench.chance(0.5) else found
    nodes = bench.inputs(first, second)
    operands = [bench.activation(node) for node in nodes]
    sources = operands if op == "mul" else operands[:1]
    result = bench.result(4, *sources, gain=90 if op == "mul" else 2)
    limits = (11.0, 200.0) if limited else None
    bench.finish(op, f"aten.{op}.Tensor", operands, torch.broadcast_shapes(first, second), result, limits)


def joined(bench: Bench) -> None:
    """Several tensors side by side."""
    n, w, counts = bench.pick(1, 4), bench.pick(1, 9), [bench.pick(1, 4) for _ in range(bench.pick(2, 4))]
    nodes = bench.inputs(*[[n, count, w] for count in counts])
    operands = [bench.activation(node) for node in nodes]
    bench.finish("cat", "aten.cat", [operands, 1], [n, sum(counts), w], bench.result(3, operands[0]))


def averaged(bench: Bench, *, counted: bool, padded: bool) -> None:
    """An average over windows."""
    sizes, padding = [bench.pick(3, 12), bench.pick(3, 12)], 1 if padded else 0
    n, c, stride = bench.pick(1, 3), bench.pick(1, 40), bench.pick(1, 3)
    (x,) = bench.inputs([n, c, *sizes])
    a = bench.activation(x)
    window = ([3, 3], [stride] * 2, [padding] * 2, False, counted)
    out = [(size + 2 * padding - 3) // stride + 1 for size in sizes]
    bench.finish("average_pool", "aten.avg_pool2d", [a, *window], [n, c, *out], bench.result(4, a))


def whole_mean(bench: Bench) -> None:
    """An average over whole images."""
    n, c, h, w = bench.pick(1, 3), bench.pick(1, 40), bench.pick(1, 20), bench.pick(1, 20)
    (x,) = bench.inputs([n, c, h, w])
    keep = bench.chance(0.5)
    out = [n, c, 1, 1] if keep else [n, c]
    a = bench.activation(x)
    bench.finish("global_mean", "aten.mean.dim", [a, [2, 3], keep], out, bench.result(len(out), a))


def looked_up(bench: Bench, *, op: str, options: Sequence[float] = ()) -> None:
    """A function of every element."""
    (x,) = bench.inputs([bench.pick(1, 40), 256])
    a = bench.activation(x)
    bench.finish("table", op, [a, *options], [int(n) for n in bench.program.shape(x)], bench.grid(2))


def carried(bench: Bench, *, kernel: str, op: str, make: Callable[[torch.Tensor], list[object]]) -> None:
    """An operator that moves or picks codes; `make` gives its arguments for an image [N, 4C, 2H, 2W]."""
    n, c, h, w = bench.pick(1, 3), bench.pick(1, 4), bench.pick(2, 5), bench.pick(2, 5)
    (x,) = bench.inputs([n, 4 * c, 2 * h, 2 * w])
    a = bench.activation(x)
    arguments = make(bench.feeds[0])
    out = apply(op, bench.feeds[0], *arguments)
    bench.finish(kernel, op, [a, *arguments], list(out.shape), [a[1], a[2]])


def padded(bench: Bench) -> None:
    """Padding with a constant."""
    (x,) = bench.inputs([bench.pick(1, 2), bench.pick(1, 3), bench.pick(1, 5), bench.pick(1, 5)])
    a = bench.activation(x)
    pad = [bench.pick(0, 2) for _ in range(4)]
    n, c, h, w = (int(size) for size in bench.program.shape(x))
    out = [n, c, h + pad[2] + pad[3], w + pad[0] + pad[1]]
    value = float(bench.uniform(-1, 1))
    bench.finish("pad", "aten.constant_pad_nd", [a, pad, value], out, [a[1], a[2]])


def limited(bench: Bench) -> None:
    """A relu or clamp."""
    (x,) = bench.inputs([bench.pick(1, 40), bench.pick(1, 40)])
    a = bench.activation(x)
    low = bench.pick(0, 128)
    shape = [int(n) for n in bench.program.shape(x)]
    bench.finish("limit", "aten.relu", [a], shape, [a[1], a[2]], (low, bench.pick(low, 255)))


def weight_only(bench: Bench, *, number: str, block: int = 0, rows: int = 6) -> None:
    """A linear layer of float activations and quantized weights; `block` activations share a run-time scale."""
    k, n = bench.pick(17, 300), bench.pick(1, 40)
    x = bench.input(Feed((bench.pick(1, rows), k), "reals"))
    w, spec = bench.weight([n, k], number)
    b = bench.float_bias(n) if bench.chance(0.5) else None
    shape = [int(bench.program.shape(x)[0]), n]
    if block:
        bench.finish("linear_weight_only", "aten.linear", [x, w, b], shape, spec=spec, block=block)
    else:
        bench.finish("linear_weight_only", "aten.linear", [x, w, b], shape, spec=spec)


def embedded(bench: Bench, *, number: str) -> None:
    """Rows of a quantized table."""
    count, width = bench.pick(1, 50), 16 * bench.pick(1, 5)
    rows = bench.input(Feed((2, bench.pick(1, 9)), "rows", 0, count - 1))
    w, spec = bench.weight([count, width], number)
    shape = [*(int(n) for n in bench.program.shape(rows)), width]
    bench.finish("embedding_weight_only", "aten.embedding", [w, rows, -1, False, False], shape, spec=spec)


def dequantized(bench: Bench, *, number: str) -> None:
    """A weight in blocks or channels, dequantized."""
    shape = [bench.pick(1, 20), bench.pick(17, 100)]
    x = bench.program.add_input("x0", TensorType(F32, (1, 1)))
    bench.drawn, bench.feeds = [Feed((1, 1), "reals")], [torch.zeros(1, 1)]
    w, spec = bench.weight(shape, number)
    reals = bench.builder.call("qc.dequantize", *w, kwargs={"spec": spec})
    zero = bench.builder.call("aten.mul.Tensor", x, bench.builder.param("nil", torch.zeros(1, 1)))
    bench.close([bench.builder.call("aten.add.Tensor", reals, zero)])
