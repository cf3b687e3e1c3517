"""Float activations against quantized weights.

Formula: `exact` dequantizes the weight, `(q - z) * s`, and computes in float. `blocked` is what onnxruntime's
MatMulNBits does at accuracy level 4: each run of `block` inputs becomes int8 by its own largest magnitude
(`a / 127`, half to even), integer products are summed per block, scaled by both scales and added up in float.
Source: onnxruntime's MatMulNBits; float sums within a few units in the last place times the number of blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.backends.reference.arithmetic import Parts
from qcompiler.errors import VerifyError
from qcompiler.spec import QuantSpec, block_reduce, dequantize, expand_blocks


def linear(
    input: Tensor, weight: Parts, bias: Tensor | None = None, *, op: str, spec: QuantSpec, block: int = 0
) -> Tensor:
    """A linear layer; `block` inputs share a run-time scale, 0 leaves them in float.

    Shapes: input [..., K], weight [N, K], bias [N] -> [..., N] float32.
    """
    x = input.float()
    if block:
        extent = (1,) * (x.dim() - 1) + (block,)
        scale = block_reduce(x, extent, "absmax") / 127
        spread = expand_blocks(torch.where(scale == 0, torch.ones_like(scale), scale), extent, x.shape)
        x = (x / spread).round() * spread
    return torch.nn.functional.linear(x, reals(weight, spec), None if bias is None else bias.float())


def embedding(weight: Parts, indices: Tensor, *options: object, op: str, spec: QuantSpec) -> Tensor:
    """Rows of a quantized table: only those asked for are dequantized.

    Shapes: weight [V, K], indices [...] -> [..., K] float32.
    """
    return torch.nn.functional.embedding(indices, reals(weight, spec))


def reals(weight: Parts, spec: QuantSpec) -> Tensor:
    """The dequantized weight in float32; raises VerifyError when codes or scale are missing."""
    codes, scale, zero_point = weight
    if codes is None or scale is None:
        raise VerifyError("a quantized weight of a kernel needs codes and a scale")
    return dequantize(codes.float(), scale.float(), None if zero_point is None else zero_point.float(), spec)
