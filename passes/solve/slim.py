"""SliM-LLM: more bits for the column groups that matter, fewer for those that do not, and ranges that mind salience.

Formula   S_ij = w_ij^2 / U_jj^2, U^T U = H^-1. SBA: the i groups of largest mean S get one bit more, the i of smallest
          one bit less, the rest stay; i, 0 included, minimises the mean square of x (V - W)^T over rounded weights V,
          or, as published, KL(softmax(x W^T) | softmax(x V^T)), which large outputs saturate. SQC: ranges minimise
          sum |error|^2.4, elements of outstanding S (|z-score| > 2) times `salience`. Then the columns are solved as
          by GPTQ in their order. One bit is +-mean|w|
Shapes    an expression of column groups by width; plain codes where all widths are equal
Promise   Lossy; the mean width of the codes is that of the spec, up to a short last group
Needs     calibration data; integer weights in column groups (others are solved by GPTQ); activations calibrated
Source    Huang et al. 2024, "SliM-LLM: Salience-Driven Mixed-Precision Quantization for Large Language Models"
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.formats import Integer, parse_format
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.column import column_sequential_solve
from qcompiler.passes.solve.curvature import Curvature, factorise
from qcompiler.passes.solve.expression import Codes, Columns, Expression
from qcompiler.passes.solve.front_to_back import solve_layers
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.ranges import Search
from qcompiler.passes.solve.rounder import GridRounder
from qcompiler.passes.solve.second_order import NORM, Switches, one_of, second_order
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.spec import QuantSpec, block_reduce, qparams_from_range

Metric = Literal["kl", "mse"]
_OUTSTANDING = 2.0
_WIDEST = 8
_TOKENS = 1024
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Slim:
    """Rounds weights column by column with a width of its own for every column group.

    Args:
        metric: of the allocation: `kl` over softmax of outputs, or their `mse`.
        salience: weight of outstanding elements in the range search; 1 counts all alike.
        damping: share of the mean diagonal that is added to the second moment.
    """

    metric: Metric = "mse"
    salience: float = 2.0
    damping: float = 0.01
    name: ClassVar[str] = "slim"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        one_of("metric", self.metric, get_args(Metric))
        if not self.salience > 0:
            raise SpecError(f"a salience of {self.salience}", mend="2 is usual, 1 counts all elements alike")

    def solve(self, layer: Layer) -> Expression:
        """One layer; see `layers.LayerSolver`."""
        spec, columns = layer.spec, layer.weight.shape[1]
        if layer.groups != 1 or layer.qparams is not None or not has_column_groups(spec, columns):
            return second_order(Switches(damping=self.damping, search="mse"))(layer)
        curvature = factorise(layer.inputs.second_moment, self.damping)
        salience = layer.weight.square() * curvature.pivots
        grids = group_grids(layer.weight, spec, salience, self.salience, curvature)
        widths = allocate_widths(layer, grids, salience, self.metric)
        rounder = MixedRounder([grids[width][group] for group, width in enumerate(widths)], spec.block[1])
        column_sequential_solve(layer.weight[None], curvature, rounder)
        return rounder.result()

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with mixed column groups in place of float weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        count = solve_layers(program, ctx, self.solve, ("quantized",), self.name)
        ctx.log(f"{count} weights by {self.name}")
        return program


def has_column_groups(spec: QuantSpec, columns: int) -> bool:
    """Whether widths can differ: integers that can be one bit narrower and wider, in several groups of columns."""
    grouped = spec.block[0] == 1 and 0 < spec.block[1] < columns and len(spec.levels) == 1
    return isinstance(spec.format, Integer) and grouped and 2 <= spec.bits < _WIDEST


def spec_of_width(spec: QuantSpec, bits: int) -> QuantSpec:
    """The same scales around numbers of other width; one bit is 1 and -1."""
    if bits == 1:
        return replace(spec, format=parse_format("binary"), levels=(replace(spec.levels[0], zero_point="none"),))
    return replace(spec, format=Integer(bits, spec.format.signed))


def group_grids(
    weight: Tensor, spec: QuantSpec, salience: Tensor, factor: float, curvature: Curvature
) -> dict[int, list[GridRounder]]:
    """The grid of every column group for one bit less, the bits of the spec, and one bit more."""
    plain = replace(curvature, order=None)
    counted = torch.where(outstanding(salience, spec.block[1]), factor, 1.0)
    found: dict[int, list[GridRounder]] = {}
    for bits in (spec.bits - 1, spec.bits, spec.bits + 1):
        own = spec_of_width(spec, bits)
        found[bits] = []
        for part, counts in zip(weight.split(spec.block[1], 1), counted.split(spec.block[1], 1), strict=True):
            grid = GridRounder(own, torch.Size((1, *part.shape)), Search("mse", norm=NORM), plain)
            low, high = _signs(part, own) if bits == 1 else grid.search.range(part, own, counts)
            scale, zero_point = qparams_from_range(low, high, own)
            grid.fix(scale, None if own.symmetric else zero_point)
            found[bits].append(grid)
    return found


def outstanding(salience: Tensor, group: int) -> Tensor:
    """Elements whose salience stands out of their group: at least the smallest one that is 2 deviations off."""
    found = []
    for part in salience.split(group, 1):
        deviation = part.std(correction=0)
        far = (part - part.mean()).abs() > _OUTSTANDING * deviation
        least = part[far].min() if bool(far.any()) else torch.inf
        found.append(part >= least)
    return torch.cat(found, 1)


def allocate_widths(layer: Layer, grids: dict[int, list[GridRounder]], salience: Tensor, metric: Metric) -> list[int]:
    """The width of every group by the double-ended search."""
    group, bits = layer.spec.block[1], layer.spec.bits
    parts = layer.weight.split(group, 1)
    rounded = {
        width: [grid.nearest(part).value() for grid, part in zip(own, parts, strict=True)]
        for width, own in grids.items()
    }
    full = [part.shape[1] == group for part in parts]
    score = torch.tensor([float(part.mean()) for part in salience.split(group, 1)])
    ranked = [int(place) for place in score.argsort(stable=True) if full[int(place)]]
    x = torch.cat([rows[0] for rows in layer.inputs.rows()])
    x = x[:: max(1, len(x) // _TOKENS)]
    wanted = x @ layer.weight.T
    best, least = [bits] * len(parts), torch.inf
    for moved in range(len(ranked) // 2 + 1):
        widths = [bits] * len(parts)
        for place in ranked[:moved]:
            widths[place] = bits - 1
        for place in ranked[len(ranked) - moved :]:
            widths[place] = bits + 1
        value = torch.cat([rounded[width][place] for place, width in enumerate(widths)], 1)
        distance = _distance(x @ value.T, wanted, metric)
        if distance < least:
            best, least = widths, distance
    return best


class MixedRounder:
    """Column groups that have a grid each; see `column.Rounder`.

    Args:
        grids: of the groups in order, static.
        group: columns in each, the last may have fewer.
    """

    width = 0

    def __init__(self, grids: list[GridRounder], group: int) -> None:
        self.grids, self.group = grids, group

    def begin(self, start: int, latent: Tensor) -> None:
        """Nothing: all scales are known."""

    def round(self, column: int, latent: Tensor) -> Tensor:
        """The grid's value for each latent one."""
        return self.grids[column // self.group].round(column % self.group, latent)

    def result(self) -> Expression:
        """Columns by width; plain codes where all widths are equal."""
        solved = [grid.result() for grid in self.grids]
        specs = list(dict.fromkeys(codes.spec for codes in solved))
        parts = tuple(_joined([codes for codes in solved if codes.spec == spec]) for spec in specs)
        if len(parts) == 1:
            return parts[0]
        starts = torch.tensor([0, *(codes.codes.shape[1] for codes in solved)]).cumsum(0)
        places = torch.cat(
            [
                torch.arange(int(starts[group]), int(starts[group + 1]))
                for spec in specs
                for group, codes in enumerate(solved)
                if codes.spec == spec
            ]
        )
        return Columns(parts, places.argsort())


def _joined(codes: list[Codes]) -> Codes:
    """Groups of one spec side by side."""
    scales = [part.scale for part in codes if isinstance(part.scale, Tensor)]
    zeros = [part.zero_point for part in codes if part.zero_point is not None]
    joined = torch.cat([part.codes for part in codes], 1)
    return Codes(codes[0].spec, joined, torch.cat(scales, 1), torch.cat(zeros, 1) if zeros else None)


def _signs(part: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """The range that makes the scale of signs the mean magnitude of each row."""
    mean = part.abs().mean(1, keepdim=True)
    mean = torch.where(block_reduce(part, spec.block, "absmax") > 0, mean, 0.0)
    return -mean, mean


def _distance(found: Tensor, wanted: Tensor, metric: Metric) -> float:
    if metric == "mse":
        return float((found - wanted).square().mean())
    p, q = wanted.softmax(1).clamp(min=_SMALLEST), found.softmax(1).clamp(min=_SMALLEST)
    return float((p * (p.log() - q.log())).sum(1).mean())
