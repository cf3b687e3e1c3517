"""Layers between codes of 16 bits, or of 8-bit floats: runtimes without kernels of their own compute them on reals.

Formula: `op((qx - zx) * sx, (qw - zw) * sw) + b` in float32, quantized by division by the scale of the result.
Source: ONNX QuantizeLinear and DequantizeLinear; the float product itself differs between runtimes in its last places.
"""

from __future__ import annotations

from torch import Tensor

from qcompiler.backends.reference.arithmetic import Codes, Grid, Parts, along, apply
from qcompiler.backends.reference.dense import Bias


def layer(
    input: Parts,
    weight: Parts,
    bias: Bias = None,
    *window: object,
    op: str,
    result: Parts | None = None,
    low: float = 0,
    high: float = 0,
) -> Tensor:
    """A convolution or linear layer `op`.

    Shapes: as the ATen operator; `window` its arguments after the bias. Weight scales one or one per output channel.
    Returns float32 codes, float32 reals without `result`.
    """
    x, w = Codes.of(input), Codes.of(weight)
    values = w.offsets().float() * along(w.scale, 0, w.codes.dim())
    reals = apply(op, x.reals(), values, bias if isinstance(bias, Tensor) else None, *window)
    return reals if result is None else Grid.of(result, low, high).quantize(reals)
