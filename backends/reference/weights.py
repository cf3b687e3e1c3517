"""Float activations against quantized weights.

Formula: without a block the weight is dequantized in float32, `(q - z) * s`, and the layer is one of float. With one,
onnxruntime's MatMulNBits at accuracy level 4: each run of `block` inputs becomes int8 by its own largest magnitude a,
codes `round(x * (127 / a))` half to even and scale `a / 127`, both quotients in float32; integer products are summed
per block in int32, scaled by both scales and added up in float32.
Source: onnxruntime's MatMulNBits and MLAS, `QuantizeARow_CompInt8`. Codes are equal bit for bit. The float32 sums of
the runtime depend on the vector width of the machine, the number of rows and the block; here they are float64 sums
rounded once, from which the runtime's differ by at most `roundings` float32 roundings of the sum of magnitudes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcompiler.errors import VerifyError
from qcompiler.spec import QuantSpec, block_reduce, dequantize, expand_blocks

Levels = Sequence[Tensor | Sequence[Tensor] | None]
"""Codes, scale, zero point or None; scales of scales in the place of the scale, innermost first."""
_INT8 = 127.0
_NARROW, _NARROW_BLOCKS = 2, (32, 64, 128)
"""Codes of two bits have integer kernels for these blocks only; with others the runtime stays in float."""
_LANES = 8
"""Additions of the partial sums of a vector of 16 lanes, scaling, and the bias."""


def linear(
    input: Tensor, weight: Levels, bias: Tensor | None = None, *, op: str, spec: QuantSpec, block: int = 0
) -> Tensor:
    """A linear layer; `block` inputs share a run-time scale, 0 leaves them in float.

    Shapes: input [..., K], weight [N, K], bias [N] -> [..., N] float32.
    """
    taken = run_time_block(spec, block)
    x = blocked(input.float(), taken) if taken else input.double()
    total = torch.matmul(x, reals(weight, spec).double().t())
    return (total if bias is None else total + bias.double()).float()


def run_time_block(spec: QuantSpec, block: int) -> int:
    """The block in which the runtime really quantizes activations when it is asked for `block`; 0 for float."""
    return 0 if spec.bits <= _NARROW and block not in _NARROW_BLOCKS else block


def roundings(inputs: int, block: int) -> int:
    """Largest difference from onnxruntime, in 2^-24 of the sum of the magnitudes of what is added up.

    One for each float32 addition in a row: of all products, or, with a block, of one sum of products and one of zero
    points per block. Below the normal numbers each of them is of 2^-149 at least.
    """
    return _LANES + (2 * -(-inputs // block) if block else inputs)


def blocked(x: Tensor, block: int) -> Tensor:
    """The activations that the runtime computes with: every `block` of the last axis as int8 with a scale of its own.

    Shapes: x float32 [..., K] -> float64 [..., K]. Blocks so small that 127 / a overflows become zeros.
    """
    extent = (1,) * (x.dim() - 1) + (block,)
    largest = block_reduce(x, extent, "absmax")
    # A number divided by a tensor would be a product with its reciprocal, rounded twice.
    inverse = torch.where(largest == 0, torch.zeros_like(largest), torch.full_like(largest, _INT8) / largest)
    inverse = torch.where(inverse.isinf(), torch.zeros_like(inverse), inverse)
    codes = (x * expand_blocks(inverse, extent, x.shape)).round()
    return codes.double() * expand_blocks(largest / _INT8, extent, x.shape).double()


def embedding(weight: Levels, indices: Tensor, *options: object, op: str, spec: QuantSpec) -> Tensor:
    """Rows of a quantized table: only those asked for are dequantized.

    Shapes: weight [V, K], indices [...] -> [..., K] float32.
    """
    return torch.nn.functional.embedding(indices, reals(weight, spec))


def reals(weight: Levels, spec: QuantSpec) -> Tensor:
    """The dequantized weight in float32; raises VerifyError when codes or scale are missing."""
    codes, scale, zero_point = weight
    if not isinstance(codes, Tensor) or scale is None:
        raise VerifyError("a quantized weight of a kernel needs codes and a scale")
    scales = scale.float() if isinstance(scale, Tensor) else tuple(level.float() for level in scale)
    zero = zero_point.float() if isinstance(zero_point, Tensor) else None
    return dequantize(codes.float(), scales, zero, spec)
