"""Spectra as products with constant matrices of cosines and sines, which every backend has."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir
import torch

from qcompiler.frontends.onnx_ops.context import Known, OpContext, Result
from qcompiler.frontends.onnx_ops.tensors import torch_dtype
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]


def dft(ctx: OpContext) -> Result:
    """DFT along one axis: real or complex (last axis of size 1 or 2), forward, inverse, and one-sided."""
    x = ctx.tensor(0)
    rank = ctx.rank(x)
    axis = ctx.ints(2, "the axis")[0] if ctx.has(2) else ctx.integer("axis", -2 if ctx.version >= 20 else 1)
    axis = ctx.axis(axis, rank)
    inverse, half = bool(ctx.integer("inverse", 0)), bool(ctx.integer("onesided", 0))
    size = ctx.static(ctx.shape(x)[axis], "a transformed axis")
    default = 2 * (size - 1) if inverse and half else size
    length = ctx.ints(1, "the length")[0] if ctx.has(1) else default
    last = [other for other in range(rank - 1) if other != axis] + [axis, rank - 1]
    result = _spectrum(ctx, ctx.call("aten.permute", x, last), length, inverse=inverse, half=half)
    return ctx.call("aten.permute", result, [last.index(other) for other in range(rank)])


def _spectrum(ctx: OpContext, x: Node, length: int, *, inverse: bool, half: bool) -> Node:
    """The transform of `[..., size, 1 or 2]` along its second axis from the end."""
    size = ctx.static(ctx.shape(x)[-2], "a transformed axis")
    parts = ctx.static(ctx.shape(x)[-1], "the real and imaginary parts")
    used = min(size, length // 2 + 1 if inverse and half else length)
    rows = length // 2 + 1 if half and not inverse else length
    angle = 2 * math.pi * (torch.arange(used).reshape(-1, 1) * torch.arange(rows) % length).double() / length
    cosine, sine = torch.cos(angle), torch.sin(angle)
    if inverse:
        weight = torch.full((used, 1), 1.0 / length, dtype=torch.float64)
        if half:  # the frequencies that are left out mirror these
            mirrored = torch.arange(used) * 2 % length != 0
            weight[mirrored] *= 2
        cosine, sine = cosine * weight, -sine * weight
    # [real, imaginary] of the signal to [real, imaginary] of the spectrum
    matrix = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], 1)
    outputs = 1 if inverse and half else 2
    matrix = matrix[:, :parts, :, :outputs].reshape(used * parts, rows * outputs)
    taken = x if used == size else ctx.call("aten.slice.Tensor", x, ctx.rank(x) - 2, 0, used, 1)
    lead = [ctx.size(dim) for dim in ctx.shape(x)[:-2]]
    flat = ctx.call("aten.reshape", taken, [*lead, used * parts])
    product = ctx.call("aten.matmul", flat, ctx.fixed(f"{ctx.name}_basis", matrix.to(ctx.dtype(x))))
    return ctx.call("aten.reshape", product, [*lead, rows, outputs])


def stft(ctx: OpContext) -> Result:
    """STFT: windows of the signal, then their transforms: `[batch, frames, frequencies, 2]`."""
    x = ctx.tensor(0)
    step = ctx.ints(1, "the frame step")[0]
    window = ctx.optional(2)
    if ctx.has(3):
        length = ctx.ints(3, "the frame length")[0]
    elif window is not None:
        length = ctx.static(ctx.shape(window)[0], "the window")
    else:
        raise ctx.refuse("neither a window nor a frame length is given")
    size = ctx.static(ctx.shape(x)[1], "the signal")
    count = (size - length) // step + 1
    places = (torch.arange(count).reshape(-1, 1) * step + torch.arange(length)).reshape(-1)
    parts = ctx.static(ctx.shape(x)[2], "the real and imaginary parts") if ctx.rank(x) == 3 else 1
    picked = ctx.call("aten.index_select", x, 1, ctx.fixed(f"{ctx.name}_frames", places))
    frames = ctx.call("aten.reshape", picked, [ctx.size(ctx.shape(x)[0]), count, length, parts])
    if window is not None:
        frames = ctx.call("aten.mul.Tensor", frames, ctx.call("aten.reshape", window, [length, 1]))
    return _spectrum(ctx, frames, length, inverse=False, half=bool(ctx.integer("onesided", 1)))


def mel_weights(ctx: OpContext) -> Result:
    """MelWeightMatrix: triangles on the mel scale, `[length // 2 + 1, bins]`."""
    bins, length, rate = (ctx.ints(index, "the size of a mel matrix")[0] for index in range(3))
    low, high = (float(ctx.constant(index, "an edge of a mel matrix").item()) for index in (3, 4))
    number = ctx.integer("output_datatype", int(onnx_ir.DataType.FLOAT))
    bottom, top = (2595 * math.log10(1 + edge / 700) for edge in (low, high))
    mels = np.arange(bins + 2) * ((top - bottom) / (bins + 2)) + bottom
    points = ((length + 1) * (700 * (10 ** (mels / 2595) - 1)) // rate).astype(int)
    matrix = torch.zeros(length // 2 + 1, bins, dtype=torch.float64)
    for column in range(bins):
        left, centre, right = (int(point) for point in points[column : column + 3])
        rising, falling = centre - left, right - centre
        for row in range(left, centre + 1):
            matrix[row, column] = (row - left) / rising if rising else 1.0
        for row in range(centre, right):
            matrix[row, column] = (right - row) / falling
    return Known(ctx.name, matrix.to(torch_dtype(onnx_ir.DataType(number), ctx.where)))


SIGNAL: dict[str, Operator] = {"DFT": dft, "MelWeightMatrix": mel_weights, "STFT": stft}
