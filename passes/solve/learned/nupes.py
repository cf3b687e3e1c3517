"""NUPES: a power-exponent grid whose exponent, ranges and codes are all learned.

Formula   q = round(L sgn(w) (|w| / M)^a), L = 2^(bits-1) - 1, M the scale; w^ = M sgn(q) (|q| / L)^(1/a). First the
          exponent a in 0.2 .. 1.2 by least squared error of the weight (golden section), then real codes v, a and log
          M by least error of the layer's output: dw^/dv = w^ / (a q), at q = 0 the secant to the first level
Shapes    v as the weight; one a per weight; M per block of the spec that was asked for
Promise   Lossy; on held-out examples no layer is worse than with the exponent alone
Needs     calibration data unless `iterations` is 0 (then the data is only walked through); linears and convolutions.
          Of the assigned spec bits and blocks are kept; the stored weight is `powBcA`, symmetric
Source    Yvinec et al. 2023, "NUPES: Non-Uniform Post-Training Quantization via Power Exponent Search"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.formats.companded import power
from qcompiler.formats.search import golden_section
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.driver import Solved
from qcompiler.passes.solve.learned.drive import Plan, UnitName, learn
from qcompiler.passes.solve.learned.variables import Quantized, stored_scale
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.spec import QuantSpec, choose_qparams, dequantize, effective_scale, expand_blocks, nearest, round_through
from qcompiler.training import Schedule, Trained

_SEARCHED, _LEARNED = (0.2, 1.2), (0.2, 1.5)
_DIGITS = 4


@dataclass(frozen=True)
class Nupes:
    """Learns power-exponent weights.

    Args:
        iterations: steps per unit, 0: the exponent alone.
        unit: `layer` or `segment`.
        rate: of codes.
        range_rate: of the exponent and of the logarithm of scales.
        rows: examples per step.
    """

    iterations: int = 1500
    unit: UnitName = "layer"
    rate: float = 0.005
    range_rate: float = 0.001
    rows: int = 32
    name: ClassVar[str] = "nupes"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        self.plan()

    def plan(self) -> Plan:
        """The options as a plan; raises SpecError for those out of range."""
        return Plan(
            lambda start, seed, own: PowerCodes(start, self.rate, self.range_rate),
            Schedule(self.iterations, optimizer="adam_cosine"),
            unit=self.unit,
            rows=self.rows,
        )

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with power-exponent codes in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
            SpecError: when weights were assigned scales of several levels, or more than 8 bits.
        """
        learn(program, ctx, self.plan(), self.name)
        return program


class PowerCodes:
    """Real codes of a power-exponent grid.

    Args:
        start: weight, and the spec whose bits and blocks are kept.
        rate: of codes.
        range_rate: of the exponent and of the logarithm of scales.

    Raises:
        SpecError: when the spec has several levels, or bits that no power-exponent format has.
    """

    def __init__(self, start: Quantized, rate: float, range_rate: float) -> None:
        if len(start.spec.levels) > 1:
            raise SpecError(
                "a power-exponent weight has one level of scales", where=str(start.spec), mend="ask for wNaM or wNaMgK"
            )
        self._start, self._rates = start, (rate, range_rate)
        self._top = (1 << (start.spec.bits - 1)) - 1
        exponent = best_exponent(start.weight, start.spec)
        self._scale = cast(Tensor, choose_qparams(start.weight, power_spec(start.spec, exponent))[0])
        unit = effective_scale(self._scale, start.spec, start.weight.shape)
        codes = self._top * start.weight.sign() * (start.weight.abs() / unit).clamp(max=1) ** exponent
        self._codes = codes.requires_grad_()
        self._exponent = torch.tensor(exponent).requires_grad_()
        self._growth = torch.zeros_like(self._scale).requires_grad_()

    def trained(self) -> Sequence[Trained]:
        """Codes, exponent, logarithm of the growth of scales."""
        rate, slow = self._rates
        return [Trained(self._codes, rate), Trained(self._exponent, slow), Trained(self._growth, slow)]

    def softness(self) -> None:
        """Nothing has to be driven to an end."""
        return

    def soft(self) -> Tensor:
        """The weight, with the gradients of the formula."""
        whole = round_through(self._codes.clamp(-self._top, self._top))
        places, exponent = whole.detach(), self._exponent.clamp(*_LEARNED)
        size = expand_blocks(self._grown(), self._start.spec.block, places.shape)
        share = (places.abs() / self._top).clamp(min=0.5 / self._top)
        magnitude = torch.where(places == 0, 0.0, torch.exp(share.log() / exponent))
        fixed = exponent.detach()
        at_zero = (1 / self._top) ** (1 / fixed)
        slope = torch.where(places == 0, at_zero, magnitude.detach() / (fixed * places.abs().clamp(min=1)))
        return size * (places.sign() * magnitude + slope * (whole - places))

    def hard(self) -> Tensor:
        """The reals of the codes as they would be stored."""
        solved = self.solved()
        return dequantize(solved.codes, solved.scale, None, self.spec())

    def solved(self) -> Solved:
        """Grid values of the power-exponent format, and scales."""
        with torch.no_grad():
            places = self._codes.clamp(-self._top, self._top).round()
            values = torch.tensor(self.spec().format.grid().values.tolist(), dtype=torch.float32)
            return Solved(values[(places + self._top).long()], self._grown(), None)

    def spec(self) -> QuantSpec:
        """The assigned spec with the power-exponent format."""
        return power_spec(self._start.spec, float(self._exponent.detach().clamp(*_LEARNED)))

    def _grown(self) -> Tensor:
        return stored_scale(self._scale, self._growth, self._start.spec)


def power_spec(spec: QuantSpec, exponent: float) -> QuantSpec:
    """Bits and blocks of a spec with the power-exponent format; raises SpecError for a width it does not have."""
    number = power(spec.bits, round(exponent, _DIGITS))
    return replace(spec, format=number, levels=(replace(spec.levels[0], zero_point="none"),))


def best_exponent(weight: Tensor, spec: QuantSpec) -> float:
    """The exponent of least squared error of the weight, whole range kept."""

    def error(exponent: float) -> float:
        found = power_spec(spec, exponent)
        return float((nearest(weight, found) - weight).square().sum())

    return golden_section(error, *_SEARCHED)
