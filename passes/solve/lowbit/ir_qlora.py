"""IR-QLoRA, information calibration: each group of weights is moved so that its codes carry the most information.

Formula   tables and other symmetric formats: `w ~ q s + t`, t = median + f max |w - median|, s maps the largest
          |w - t| to the top of the format; f among 2 n + 1 numbers in +-0.054 of largest entropy of the codes, of least
          squared error where entropies tie. Integers with a zero point: the range times p, p in 0.9 .. 1.1, alike
Shapes    codes [rows, columns]; a scale and a shift per row and group in 8 bits, and one factor for 256 groups each
Promise   Lossy; entropy never below that of the plain shift (f = 0, p = 1); the error may be larger than its. 4.25 bits
          per weight for 4-bit tables in groups of 64
Needs     nothing but the weight; of the spec its format and groups
Source    Qin et al. 2024, "Accurate LoRA-Finetuning Quantization of LLMs via Information Retention" (arXiv:2402.05445);
          Dettmers et al. 2023, "QLoRA" (scales quantized in turn). The elastic connection belongs to adapters, of which
          there are none here
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.formats import Format, Integer
from qcompiler.formats.blocks import block_reduce
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.decompose import decompose_alone
from qcompiler.passes.solve.expression import Codes, Expression, Sum
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.blocks import block_size
from qcompiler.passes.solve.lowbit.planes import Spread
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.spec import Level, QuantSpec, dequantize, qparams_from_range, quantize

_REACH = 0.1 / 1.8481
_STRETCH = 0.1
_SCALES_TOGETHER = 256
_TIE = 1e-6

Trial = Callable[[float], tuple[Tensor, Tensor]]
"""A candidate to its codes (small whole numbers) and reals, [groups, size] each."""


def entropies(codes: Tensor, levels: int) -> Tensor:
    """Entropy in bits of the codes of each group: int64 [groups, size] -> [groups]."""
    counts = torch.zeros(codes.shape[0], levels).scatter_add_(1, codes, torch.ones(codes.shape))
    share = counts / codes.shape[1]
    return -(share * share.clamp(min=1e-30).log2()).sum(1)


def most_informative(groups: Tensor, candidates: Sequence[float], trial: Trial, levels: int) -> Tensor:
    """For each group [groups, size] the candidate of largest entropy, of least squared error where entropies tie."""
    best = groups.new_zeros(len(groups))
    most, least = torch.full_like(best, -1.0), torch.full_like(best, torch.inf)
    for candidate in candidates:
        codes, reals = trial(candidate)
        entropy, error = entropies(codes, levels), (reals - groups).square().sum(1)
        better = (entropy > most + _TIE) | ((entropy > most - _TIE) & (error < least))
        best = torch.where(better, candidate, best)
        most, least = torch.where(better, entropy, most), torch.where(better, error, least)
    return best


def candidates(count: int, reach: float) -> list[float]:
    """Zero, then outwards in both directions."""
    steps = [reach * step / max(count, 1) for step in range(1, count + 1)]
    return [0.0, *(sign * step for step in steps for sign in (1, -1))]


def best_shift(groups: Tensor, number: Format, count: int) -> Tensor:
    """The shift of each group [groups, size], each with a scale of its own."""
    middle = groups.median(1).values
    reach = (groups - middle[:, None]).abs().amax(1)
    values = number.grid().values.float()
    bounds, top = (values[1:] + values[:-1]) / 2, number.highest

    def trial(factor: float) -> tuple[Tensor, Tensor]:
        moved = groups - (middle + factor * reach)[:, None]
        step = moved.abs().amax(1, keepdim=True) / top
        codes = torch.bucketize(moved / torch.where(step > 0, step, 1.0), bounds)
        return codes, values[codes] * step + (groups - moved)

    return middle + most_informative(groups, candidates(count, _REACH), trial, len(values)) * reach


def best_stretch(groups: Tensor, spec: QuantSpec, count: int) -> Tensor:
    """The factor of the range of each group [groups, size] for a spec with zero points."""
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    lowest, levels = int(spec.format.lowest), int(spec.format.highest - spec.format.lowest) + 1

    def trial(factor: float) -> tuple[Tensor, Tensor]:
        scale, zero_point = qparams_from_range(low * (1 + factor), high * (1 + factor), spec)
        codes = quantize(groups, scale, zero_point, spec)
        return codes.long() - lowest, dequantize(codes.clone(), scale, zero_point, spec)

    return 1 + most_informative(groups, candidates(count, _STRETCH), trial, levels)


@dataclass(frozen=True)
class IrQlora:
    """Groups moved to carry the most information.

    Args:
        count: candidates in each direction.
    """

    count: int = 25
    name: ClassVar[str] = "ir_qlora"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        if self.count < 0:
            raise SpecError(f"{self.count} candidates in each direction", mend="25 is usual, 0 keeps the median")

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`.

        Raises:
            SpecError: when a group spans several rows, or scales have several levels.
        """
        spec = layer.spec
        if spec.block[0] != 1 or len(spec.levels) != 1:
            raise SpecError("ir_qlora takes groups of one row with one scale each", where=str(spec), mend="use nf4")
        return self.shifted(layer.weight, spec) if spec.symmetric else self.stretched(layer.weight, spec)

    def shifted(self, weight: Tensor, spec: QuantSpec) -> Expression:
        """Codes and a shift per group; scales and shifts in 8 bits."""
        size = block_size(spec.block, weight.shape[1])
        columns = [best_shift(part, spec.format, self.count) for part in weight.split(size, 1)]
        together = max(1, _SCALES_TOGETHER // len(columns))
        shift = torch.stack(columns, 1)
        shift_spec = QuantSpec(Integer(8, signed=True), (Level((together, -1), "f32"),))
        span = block_reduce(shift.abs(), (together, -1), "amax")
        scale, _ = qparams_from_range(-span, span, shift_spec)
        shifts = Spread(Codes(shift_spec, quantize(shift, scale, None, shift_spec), scale), _index(weight, size))
        rest = weight - shifts.value()
        two_levels = QuantSpec(spec.format, (Level((1, size), "u8"), Level((together, -1), "f32")))
        span = block_reduce(rest.abs(), (1, size), "amax")
        scales, _ = qparams_from_range(-span, span, two_levels)
        return Sum((Codes(two_levels, quantize(rest, scales, None, two_levels), scales), shifts))

    def stretched(self, weight: Tensor, spec: QuantSpec) -> Codes:
        """Codes of the spec, the range of each group stretched."""
        size = block_size(spec.block, weight.shape[1])
        single = QuantSpec(spec.format, (Level((1, -1), spec.levels[0].scale, "int"),))
        factor = torch.stack([best_stretch(part, single, self.count) for part in weight.split(size, 1)], 1)
        low, high = (block_reduce(weight, spec.block, which) for which in ("amin", "amax"))
        scale, zero_point = qparams_from_range(low * factor, high * factor, spec)
        return Codes(spec, quantize(weight, scale, zero_point, spec), scale, zero_point)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with moved groups.

        Raises:
            InputError: when weights hold NaN or infinity.
            SpecError: when a group spans several rows.
        """
        return decompose_alone(program, ctx, self.solve, self.name)


def _index(weight: Tensor, size: int) -> Tensor:
    return torch.arange(weight.shape[1]) // size
