"""Float activations against quantized weights that the runtime dequantizes exactly.

Formula 4 bits in blocks (MatMulNBits at accuracy level 0, two rows or more): one chain of fused multiply-adds, `+ b`
        others (DequantizeLinear and Gemm): `backends.reference.floats.product`, the bias under the first block
Shapes  input [..., K], weight [N, K], bias [N] -> [..., N], float32
Source  onnxruntime 1.31, MLAS `SQ4BitGemm_CompFp32` and `MlasSgemmOperation`, on one thread
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.backends.reference import weights as real
from qcompiler.backends.reference.arithmetic import Parts
from qcompiler.backends.reference.floats.product import chains, product
from qcompiler.spec import QuantSpec

_PACKED_BITS = (3, 4)
"""Widths that are stored in 4 bits."""


def linear(
    input: Tensor, weight: Parts, bias: Tensor | None = None, *, op: str, spec: QuantSpec, block: int = 0
) -> Tensor:
    """A linear layer; a single row, and activations that are quantized at run time, follow the kernel's own meaning."""
    rows = input.reshape(-1, input.shape[-1])
    if block or len(rows) == 1 or input.dtype != torch.float32:
        return real.linear(input, weight, bias, op=op, spec=spec, block=block)
    matrix = real.reals(weight, spec).t()
    if spec.bits in _PACKED_BITS and spec.granularity == "group":
        found = chains(rows, matrix)
        found = found if bias is None else found + bias
    else:
        found = product(rows, matrix, 1.0, None if bias is None else bias.expand(len(rows), -1))
    return found.reshape(*input.shape[:-1], matrix.shape[-1])
