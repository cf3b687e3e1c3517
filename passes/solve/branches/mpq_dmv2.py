"""MPQ-DMv2: rows in one bit less, with planes of scaled signs for what is left; rows with outliers get more planes.

Formula   W_c ~ Q(W_c) + sum_{k <= z_c} a_ck sign(R_ck), R_ck what is left after k - 1 planes, Q one bit narrower than
          the spec. z_c is 2 for the tenth of the rows with the largest kurtosis, 0 for the tenth with the smallest, 1
          for the rest, or 1 for all; a_ck = mean |R_ck| at first, then `sweeps` rounds: numbers a and a factor of the
          base by least squared output error for given codes, then base and signs anew for given numbers
Shapes    W [rows, columns]; a [rows]; planes of one bit, sign(0) = 1
Promise   Lossy; on the calibration data no worse than the nearest values of the full width, which stay otherwise
Needs     calibration data; integer weights of 2 bits and more
Source    Feng et al. 2025, "MPQ-DMv2: Flexible Residual Mixed Precision Quantization for Low-Bit Diffusion Models with
          Temporal Distillation" (abstract; planes, thresholds and sweeps reconstructed)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.formats import Integer
from qcompiler.ir.program import Builder, Node, Program, Stage
from qcompiler.passes.solve.decompose import decompose, nearest_codes
from qcompiler.passes.solve.expression import Codes, Expression, Scaled, join
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.blocks import output_error
from qcompiler.passes.solve.lowbit.fits import sign
from qcompiler.passes.solve.lowbit.planes import halves, rounded, signs
from qcompiler.passes.solve.ranges import Search
from qcompiler.passes.solve.slim import spec_of_width
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.spec import QuantSpec, qparams_from_range, quantize, round_scale

_MOST = 2
_DAMPING = 1e-6


@dataclass(frozen=True)
class MpqDmV2:
    """Weights as a narrow base and binary planes beside it.

    Args:
        share: of the rows that get two planes, and of those that get none.
        sweeps: rounds in which numbers and signs answer each other; 0 keeps the first ones.
    """

    share: float = 0.1
    sweeps: int = 4
    name: ClassVar[str] = "mpq_dmv2"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5 or self.sweeps < 0:
            raise SpecError(f"{self.share} of the rows, {self.sweeps} sweeps", mend="0.1 and 4 are usual")

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with weights in planes.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return decompose(program, ctx, self.solve, self.name, ("quantized",))

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`."""
        plain = nearest_codes(layer)
        if not isinstance(layer.spec.format, Integer) or layer.spec.bits < _MOST or layer.spec.block[0] != 1:
            return plain
        moment = layer.inputs.second_moment[0]
        alike = torch.ones(len(layer.weight), dtype=torch.int64)
        candidates: list[Expression] = [plain]
        for count in (alike, planes_by_kurtosis(layer.weight, self.share)):
            candidates.append(self.fit(layer, moment, count))
        return min(candidates, key=lambda each: output_error(each.value() - layer.weight, moment))

    def fit(self, layer: Layer, moment: Tensor, count: Tensor) -> Expression:
        """The weight with `count` planes in each row."""
        parts, places = [], []
        for planes in range(_MOST + 1):
            rows = (count == planes).nonzero()[:, 0]
            if len(rows):
                parts.append(fit_rows(layer.weight[rows], layer.spec, moment, planes, self.sweeps))
                places.append(rows)
        return parts[0] if len(parts) == 1 else Rows(tuple(parts), torch.cat(places).argsort())


@dataclass(frozen=True)
class Rows:
    """Parts one below the other, each with its own rows of the weight.

    Args:
        parts: [some rows, columns] each.
        order: int64 [rows]: which row of the joined parts stands at each place.
    """

    parts: tuple[Expression, ...]
    order: Tensor

    def value(self) -> Tensor:
        """The rows in their places."""
        return torch.cat([part.value() for part in self.parts])[self.order]

    def bits(self) -> float:
        """Those of the parts, and per row which part it is of."""
        width = math.ceil(math.log2(max(2, len(self.parts))))
        return sum(part.bits() for part in self.parts) + width * self.order.numel()

    def build(self, builder: Builder, name: str) -> Node:
        """A concatenation and a choice of rows."""
        nodes = [part.build(builder, f"{name}.{index}") for index, part in enumerate(self.parts)]
        joined = builder.call("aten.cat", nodes, 0)
        return builder.call("aten.index_select", joined, 0, builder.param(f"{name}.order", self.order))


def planes_by_kurtosis(weight: Tensor, share: float) -> Tensor:
    """Two planes for rows with heavy tails, none for those with light ones: int64 [rows], mean 1."""
    centred = weight.double() - weight.double().mean(1, keepdim=True)
    spread = centred.square().mean(1).clamp(min=torch.finfo(torch.float64).tiny)
    order = (centred.pow(4).mean(1) / spread.square()).argsort(stable=True)
    moved, count = round(share * len(weight)), torch.ones(len(weight), dtype=torch.int64)
    count[order[:moved]], count[order[len(order) - moved :]] = 0, 2
    return count


def fit_rows(weight: Tensor, spec: QuantSpec, moment: Tensor, planes: int, sweeps: int) -> Expression:
    """Rows with the same number of planes; the best of all sweeps."""
    base = base_codes(weight, spec)
    if not planes:
        return base
    plane, size = residual_planes(weight - base.value(), planes)
    found = [assembled(base, plane, size)]
    for _ in range(sweeps):
        base, size = refit(weight, base, plane, moment)
        found.append(assembled(base, plane, size))
        beside = torch.stack([a[:, None] * b for a, b in zip(size, plane, strict=True)]).sum(0)
        base = replace(base, codes=quantize(weight - beside, base.scale, base.zero_point, base.spec))
        plane, size = residual_planes(weight - base.value(), planes)
        found.append(assembled(base, plane, size))
    return min(found, key=lambda each: output_error(each.value() - weight, moment))


def base_codes(weight: Tensor, spec: QuantSpec) -> Codes:
    """The nearest values in one bit less."""
    narrow = spec_of_width(spec, spec.bits - 1)
    low, high = Search("mse").range(weight, narrow)
    scale, zero_point = qparams_from_range(low, high, narrow)
    zero = None if narrow.symmetric else zero_point
    return Codes(narrow, quantize(weight, scale, zero, narrow), scale, zero)


def residual_planes(left: Tensor, planes: int) -> tuple[list[Tensor], list[Tensor]]:
    """Signs [rows, columns] and sizes [rows] of a residual, one plane after the other."""
    found, sizes = [], []
    for _ in range(planes):
        found.append(sign(left))
        sizes.append(rounded(left.abs().mean(1)))
        left = left - sizes[-1][:, None] * found[-1]
    return found, sizes


def refit(weight: Tensor, base: Codes, plane: Sequence[Tensor], moment: Tensor) -> tuple[Codes, list[Tensor]]:
    """A factor of the base's scales and sizes of the planes of least squared output error, row by row."""
    basis = torch.stack([base.value(), *plane], 1).double()
    moved = basis @ moment.double()
    normal = moved @ basis.transpose(1, 2)
    wanted = (moved @ weight.double()[:, :, None])[:, :, 0]
    ridge = _DAMPING * normal.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.float32).tiny)
    eye = torch.eye(basis.shape[1], dtype=torch.float64)
    found = torch.linalg.solve(normal + ridge[:, None, None] * eye, wanted).float()
    factor = torch.where((found[:, 0] > 0.1) & (found[:, 0] < 10), found[:, 0], 1.0)
    inner = round_scale(base.scales[0] * factor[:, None], base.spec.levels[0].scale)
    scale = inner if len(base.scales) == 1 else (inner, *base.scales[1:])
    return replace(base, scale=scale), [rounded(size) for size in found[:, 1:].unbind(1)]


def assembled(base: Codes, plane: Sequence[Tensor], size: Sequence[Tensor]) -> Expression:
    """The base and its planes as one expression."""
    beside = [Scaled(signs(b), halves(a[:, None])) for a, b in zip(size, plane, strict=True)]
    return join([base, *beside])
