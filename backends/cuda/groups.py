"""Scales of groups: which weights and activations with them have a kernel, and how it reads them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qcompiler.backends.cuda.integer_packing import by_group
from qcompiler.backends.cuda.kernels.tiles import Scales
from qcompiler.errors import VerifyError
from qcompiler.formats import Integer
from qcompiler.spec import QuantSpec

GroupWay = Literal["w4a8", "w2a8", "w4a4"]
_GROUPS = (32, 64, 128)
_NIBBLES, _BYTES = 4, 8
_LEAST_OF_NIBBLES = 64
"""Codes of an instruction."""
_WAYS: dict[int, GroupWay] = {2: "w2a8", 3: "w4a8", 4: "w4a8"}
"""By bits of weights, under bytes."""
_MATRIX_RANK = 2


def group_of(matrix: QuantSpec) -> int:
    """Inputs that share a scale of weights, as kernels of groups read them; 0 where they do not."""
    plain = matrix.parts is None and len(matrix.levels) == 1 and matrix.levels[0].scale == "f16"
    if not plain or matrix.rank != _MATRIX_RANK or matrix.block[0] != 1:
        return 0
    return matrix.block[1] if matrix.block[1] in _GROUPS else 0


def block_of(reading: QuantSpec) -> int:
    """Neighbours in a row of activations that share a scale; 0 where all of them do."""
    return max(reading.block[-1], 0)


def blocks_fit(reading: QuantSpec) -> bool:
    """Whether blocks of activations find their scales in a kernel."""
    rows = all(extent == 1 for extent in reading.block[:-1]) and block_of(reading) in _GROUPS
    return rows and reading.symmetric and reading.dynamic and isinstance(reading.format, Integer)


def way_of_groups(matrix: QuantSpec, reading: QuantSpec) -> GroupWay | None:
    """How weights with scales of groups are multiplied with activations; None when there is no kernel."""
    weight, source, group = matrix.format, reading.format, group_of(matrix)
    if not isinstance(weight, Integer) or not isinstance(source, Integer):
        return None
    if not group or block_of(reading) not in (0, group):
        return None
    if source.bits == _BYTES:
        return None if block_of(reading) and has_zeros(matrix, reading) else _WAYS.get(weight.bits)
    nibbles = weight.bits <= source.bits == _NIBBLES and group >= _LEAST_OF_NIBBLES
    return "w4a4" if nibbles and not has_zeros(matrix, reading) else None


def has_zeros(matrix: QuantSpec, reading: QuantSpec) -> bool:
    """Whether codes of either side, as they are stored, have a zero point."""
    return not all(spec.symmetric and spec.format.signed for spec in (matrix, reading))


def scales_of(matrix: QuantSpec, reading: QuantSpec) -> Scales:
    """What kernels of groups read beside codes."""
    if block_of(reading):
        return "blocks"
    if not has_zeros(matrix, reading):
        return "groups"
    moving = reading.dynamic and not reading.symmetric
    return "zeros" if moving or not (matrix.symmetric and matrix.format.signed) else "moved"


def packed_group_scales(scale: Tensor) -> Tensor:
    """Scales of groups in the order of kernels.

    Shapes: scale float32 [N, groups] -> float16 [groups, N filled up to 2]. Raises VerifyError for scales that half
    precision does not hold.
    """
    if not torch.equal(scale, scale.half().float()):
        raise VerifyError("scales of groups are stored in half precision, which does not hold them")
    return torch.from_numpy(by_group(scale.numpy(), np.float16))


def packed_group_zeros(codes: np.ndarray, zero: Tensor | None, shift: int, group: int) -> dict[str, Tensor]:
    """What kernels read where codes have zero points: sums of groups of weights, in pairs, and their zero points.

    Args:
        codes: [N, K] as they are stored.
        zero: [N, groups] zero points; None where they are 0.
        shift: what is stored less the code.
        group: codes that share a zero point.
    """
    starts = range(0, codes.shape[1], group)
    zeros = np.zeros((len(codes), len(starts)), np.int64) if zero is None else zero.numpy().astype(np.int64)
    zeros, counts = zeros + shift, np.diff([*starts, codes.shape[1]])
    sums = np.add.reduceat(codes.astype(np.int64), list(starts), axis=1) - zeros * counts
    found = {"group_sum": torch.from_numpy(by_group(sums, np.int16).view(np.int32))}
    return found | ({"group_zero": torch.from_numpy(by_group(zeros, np.int8))} if zeros.any() else {})
