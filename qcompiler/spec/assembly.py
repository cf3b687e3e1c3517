"""What a tensor with parts means: planes, signs, masks and remainders put together; narrower models taken out.

Source: Xu et al. 2018, "Alternating Multi-bit Quantization" (planes); Xiang et al. 2025, "SSVQ" (signs); Li et al.
2024, "MVQ" (masks); Yao et al. 2023, "ZeroQuant-V2" (remainder); Huang et al. 2025, "Double Rounding" (narrower
models).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.formats import Codebook, Integer
from qcompiler.spec.arithmetic import Scales, dequantize, effective_scale
from qcompiler.spec.lookup import entries_at
from qcompiler.spec.parts import Parts
from qcompiler.spec.quantspec import QuantSpec

_MOST_COMBINATIONS = 256


@dataclass(frozen=True)
class Stored:
    """The tensors that hold one quantized tensor, as its spec asks for them.

    codes: grid values in a float carrier. scale, zero_point, table: as for `dequantize`. negative, mask: bool, of the
    tensor's shape: whose sign is minus, and which elements are kept. left [rows, rank], right [rank, columns]: the
    remainder. With several planes, codes and every scale have a leading axis of planes.
    """

    codes: Tensor
    scale: Scales
    zero_point: Tensor | None = None
    table: Tensor | None = None
    negative: Tensor | None = None
    mask: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None


def assemble(stored: Stored, spec: QuantSpec) -> Tensor:
    """The reals that a stored tensor stands for.

    Formula: mask * (+-1) * sum over planes of dequantize(codes, scale), plus left @ right.
    Shape of the tensor, dtype of the codes. Raises SpecError when a part that the spec names is missing.
    """
    parts = spec.parts or Parts()
    plain = replace(spec, parts=Parts(table=parts.table, along=parts.along) if parts.table else None)
    value = _sum_of_planes(stored, plain, parts)
    if parts.signs:
        value = torch.where(_present(stored.negative, "signs", spec), -value, value)
    if parts.keep:
        value = torch.where(_present(stored.mask, "mask", spec), value, 0.0)
    if parts.remainder:
        thin = _present(stored.left, "left factor", spec) @ _present(stored.right, "right factor", spec)
        value = value + thin.reshape(value.shape).to(value.dtype)
    return value


def nearest_planes(x: Tensor, scale: Scales, spec: QuantSpec) -> Tensor:
    """Grid values of every plane whose scaled sum is nearest to each element; the first of equals.

    Shapes: x of the spec's rank; every scale [planes, *scale_shape] -> [planes, *x.shape], dtype of `x`.
    Raises SpecError for more than 256 combinations, or when shapes do not fit.
    """
    parts = spec.parts or Parts()
    combinations = list(itertools.product(spec.format.grid().values.tolist(), repeat=parts.planes))
    if len(combinations) > _MOST_COMBINATIONS:
        raise SpecError(f"{parts.planes} planes have {len(combinations)} combinations", where=str(spec))
    plain = replace(spec, parts=None)
    steps = torch.stack([effective_scale(_plane(scale, at), plain, x.shape) for at in range(parts.planes)])
    best = torch.full_like(x, torch.inf)
    chosen = torch.zeros((parts.planes, *x.shape), dtype=x.dtype, device=x.device)
    for combination in combinations:
        values = torch.tensor(combination, dtype=x.dtype, device=x.device).reshape(-1, *[1] * x.dim())
        distance = (x - (steps * values).sum(0)).abs()
        closer = distance < best
        best = torch.where(closer, distance, best)
        chosen = torch.where(closer, values, chosen)
    return chosen


def split_signs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitudes and where the sign is minus (bool); zero counts as plus. Shape of `x`."""
    return x.abs(), x < 0


def narrower(codes: Tensor, scale: Scales, spec: QuantSpec, bits: int) -> tuple[Tensor, Scales, QuantSpec]:
    """The model of fewer bits that lies inside the codes: its grid values, scales and spec.

    Formula: integers `clamp(round(codes / 2^k))` with k the bits that go, half to even, and the innermost scale times
    2^k; codebooks `floor(codes / 2^k)`, to be looked up in the table of that width.
    Shapes: as given. Raises SpecError when the spec does not name this width.
    """
    parts = spec.parts or Parts()
    if bits not in parts.nested:
        raise SpecError(f"no model of {bits} bits lies inside", where=str(spec), mend=f"choose one of {parts.nested}")
    ratio = 1 << (spec.bits - bits)
    inner = replace(parts, nested=tuple(width for width in parts.nested if width < bits))
    left = None if inner == Parts() else inner
    if isinstance(spec.format, Codebook):
        return (codes / ratio).floor(), scale, replace(spec, format=Codebook(bits), parts=left)
    number = replace(spec.format, bits=bits) if isinstance(spec.format, Integer) else spec.format
    scales = (scale,) if isinstance(scale, Tensor) else scale
    wider = (scales[0] * ratio, *scales[1:])
    narrow = replace(spec, format=number, parts=left)
    return number.round(codes / ratio), wider[0] if len(wider) == 1 else wider, narrow


def _sum_of_planes(stored: Stored, plain: QuantSpec, parts: Parts) -> Tensor:
    if parts.planes > 1:
        planes = [
            dequantize(codes, _plane(stored.scale, at), stored.zero_point, plain, stored.table)
            for at, codes in enumerate(stored.codes)
        ]
        return torch.stack(planes).sum(0)
    whole = stored.mask if stored.mask is not None else stored.negative
    if isinstance(plain.format, Codebook) and whole is not None and stored.table is not None:
        # The dimension need not divide the axis: the mask or the signs know its extent.
        values = entries_at(stored.codes, stored.table, plain, whole.shape[parts.along])
        return (values * effective_scale(stored.scale, plain, values.shape)).to(stored.codes.dtype)
    return dequantize(stored.codes, stored.scale, stored.zero_point, plain, stored.table)


def _plane(scale: Scales, at: int) -> Scales:
    return scale[at] if isinstance(scale, Tensor) else tuple(level[at] for level in scale)


def _present(part: Tensor | None, what: str, spec: QuantSpec) -> Tensor:
    if part is None:
        raise SpecError(f"the {what} of this tensor is missing", where=str(spec), mend="hand it on in Stored")
    return part
