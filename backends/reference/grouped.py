"""Linear layers of codes whose weights have a scale for every group of neighbouring inputs.

Formula (q codes, z zero points, s scales, x input, w weight, g groups), `total_g = sum (qx - zx) * (qw - zw_g)` int32:
  a scale per row:   `y = 0`, for each group in order `y = fma(float(total_g), sw_g, y)`; then `y * sx + b`
  a scale per block: `y = 0`, for each group in order `y = fma(float(total_g), sx_g * sw_g, y)`; then `y + b`
  in float32, products and sums behind the groups rounded apart.
Source: Lin et al. 2024, "QServe: W4A8KV4 Quantization and System Co-design" (groups of weights); Li et al. 2024,
  "SVDQuant" (blocks on both sides).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qcompiler.backends.reference.arithmetic import Codes, Parts, check_terms, fused_multiply_add
from qcompiler.errors import VerifyError


def linear(
    input: Parts, weight: Parts, bias: Tensor | None = None, *, op: str, group: int, blocked: bool = False
) -> Tensor:
    """A linear layer whose weights have a scale for each `group` of inputs, the last one perhaps short.

    Shapes: input [..., K], its scale one or [..., 1], when `blocked` [..., G]; weight [N, K], its scale [N, G], zero
    points as scales; bias [N] -> [..., N] float32, G = ceil(K / group). Raises VerifyError for scales of other shapes,
    UnsupportedError when int32 might overflow.
    """
    codes, scale, zero = weight
    x, inputs = Codes.of(input), input[0].shape[-1] if input[0] is not None else 0
    starts = range(0, inputs, group)
    if codes is None or scale is None or tuple(scale.shape) != (codes.shape[0], len(starts)):
        raise VerifyError(f"weights of a kernel of groups of {group} need a scale for each of {len(starts)} groups")
    if blocked != (x.scale.dim() > 0 and x.scale.shape[-1] == len(starts)) and len(starts) > 1:
        raise VerifyError("scales of activations are for blocks where a kernel takes them for rows, or the other way")
    check_terms(group)
    offsets = x.codes.double() if blocked else x.offsets()
    total = torch.zeros((), dtype=torch.float32)
    for index, start in enumerate(starts):
        part = offsets[..., start : start + group]
        if blocked and x.zero_point is not None:
            part = part - _of_block(x.zero_point, index).double()
        columns = codes[:, start : start + group].double()
        if zero is not None:
            columns = columns - zero[:, index, None].double()
        steps = scale[:, index].float()
        steps = _of_block(x.scale, index) * steps if blocked else steps
        total = fused_multiply_add(torch.matmul(part, columns.t()).float(), steps, total)
    reals = total if blocked else total * x.scale
    return reals if bias is None else reals + bias.float()


def _of_block(values: Tensor, index: int) -> Tensor:
    """What belongs to a block of every row."""
    return values[..., index, None] if values.dim() else values


def roundings(inputs: int, group: int) -> int:
    """Largest difference from the sum of real products, in 2^-24 of the sum of the magnitudes of groups.

    One for each group, two for the product of scales and with it, one for the bias; as many again where kernels add
    groups up in another order, as those for few rows do, and those whose blocks share a sum.
    """
    return -(-inputs // group) + 3


GROUPED_MEANINGS: Mapping[str, Callable[..., object]] = {
    name: linear for name in ("linear_grouped", "linear_grouped_int4", "linear_blocked", "linear_blocked_int4")
}
"""What kernels of groups compute, beside `reference.MEANINGS`: onnxruntime has no such kernels."""
