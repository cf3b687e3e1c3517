"""Format search: each weight gets the format of its width that loses least, and per block the scale that does.

Formula   format = argmin over a family of `sum h_j (w^ - w)^2`, ranges of each candidate by the same criterion; h the
          second moment of what column j reads, or 1. A real-valued exponent bias b is the scale 2^-b. Codes are the
          nearest values, or those of the column core on the found grid
Shapes    of the assigned spec bits and blocks are kept; one format per weight, without zero point
Promise   Lossy; before compensation no weight loses more than in any other format of the family
Needs     calibration data; linears and convolutions (other weights go to the nearest value). Scales that are set
          already are not used: they belong to another grid
Source    Liu et al. 2023, "LLM-FP4: 4-Bit Floating-Point Quantized Transformers" (splits of exponent and mantissa, and
          the bias); Yang et al. 2025, "LRQ-DiT" (twin-log grids)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from torch import Tensor

from qcompiler.formats import Format, normal_float, parse_format, power, twin_log
from qcompiler.formats.search import minifloats
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.expression import Codes
from qcompiler.passes.solve.front_to_back import solve_layers
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.ranges import Search
from qcompiler.passes.solve.second_order import Switches, one_of, prepare, solve_layer
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.spec import QuantSpec, qparams_from_range, quantize

Family = Literal["float", "log", "power", "table"]
_GAMMAS = (3.0, 10.0, 30.0)
_EXPONENTS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
FAMILIES: dict[Family, Callable[[int], tuple[Format, ...]]] = {
    "float": minifloats,
    "log": lambda bits: (
        parse_format(f"log2_{bits}"),
        parse_format(f"logsqrt2_{bits}"),
        *(twin_log(bits, gamma) for gamma in _GAMMAS),
    ),
    "power": lambda bits: tuple(power(bits, exponent) for exponent in _EXPONENTS),
    "table": lambda bits: (normal_float(bits),),
}


@dataclass(frozen=True)
class FormatSearch:
    """Chooses a format for each weight.

    Args:
        family: formats to choose from: `float`, `log`, `power`, `table`, or several with `+` between them.
        weighted: whether an error counts by what its column reads.
        compensate: whether columns answer the errors of those before them, as `gptq` does.
    """

    family: str = "float"
    weighted: bool = True
    compensate: bool = True
    name: ClassVar[str] = "format_search"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        for family in self.family.split("+"):
            one_of("family", family, get_args(Family))

    def candidates(self, bits: int) -> tuple[Format, ...]:
        """The formats of a width; raises SpecError where a family has none."""
        return tuple(found for name, make in FAMILIES.items() if name in self.family.split("+") for found in make(bits))

    def solve(self, layer: Layer) -> Codes:
        """One weight; see `LayerSolver`."""
        importance = self.importance(layer) if self.weighted else None
        tried = [(_loss(found, layer.weight, importance), found) for found in self.tries(layer, importance)]
        best = min(tried, key=lambda pair: pair[0])[1]
        if not self.compensate:
            return best
        switches = Switches(search="mse")
        found = replace(layer, spec=best.spec, qparams=(best.scale, None))
        return solve_layer(found, prepare(layer.inputs, switches), switches)

    def tries(self, layer: Layer, importance: Tensor | None) -> list[Codes]:
        """The nearest values in every candidate, each with its best ranges."""
        found = []
        for number in self.candidates(layer.spec.bits):
            spec = in_format(layer.spec, number)
            scale, _ = qparams_from_range(*Search("mse").range(layer.weight, spec, importance), spec)
            found.append(Codes(spec, quantize(layer.weight, scale, None, spec), scale))
        return found

    def importance(self, layer: Layer) -> Tensor:
        """What an error of each element counts: [rows, columns]."""
        diagonal = layer.inputs.second_moment.diagonal(dim1=1, dim2=2)
        return diagonal.repeat_interleave(layer.weight.shape[0] // layer.groups, 0)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with weights in the formats found.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
            SpecError: for a width that the family has not.
        """
        names: dict[str, int] = {}

        def solver(layer: Layer) -> Codes:
            found = self.solve(layer)
            names[found.spec.format.name] = names.get(found.spec.format.name, 0) + 1
            return found

        solve_layers(program, ctx, solver, ("quantized",), self.name)
        ctx.log("weights by format: " + ", ".join(f"{count} {name}" for name, count in sorted(names.items())))
        return program


def in_format(spec: QuantSpec, number: Format) -> QuantSpec:
    """Blocks and scales of a spec with another format, symmetric."""
    return replace(spec, format=number, levels=(replace(spec.levels[0], zero_point="none"), *spec.levels[1:]))


def _loss(codes: Codes, weight: Tensor, importance: Tensor | None) -> float:
    squares = (codes.value() - weight).square()
    return float((squares if importance is None else squares * importance).sum())
