"""Sensitivities that stir the weights at random instead of rounding them, and that compare a block with its input.

Formula   mask: KL(f(x; W) | f(x; M W)), M dropping a share of the weights, mean over masks. noise_toggle: |y - y'|^2 /
          |y|^2 with y' under noise U(-step/2, step/2) instead of each grid, mean over draws. lim: 1 - cos(in, out) of
          the smallest block around a unit that keeps its value's shape; 1 where there is none, as if orthogonal
Shapes    float64 [options, samples] per unit, lim [options, batches]
Promise   not below 0
Needs     calibration data
Source    mask after Huang et al. 2023, "OHQ"; noise_toggle after Gao et al. 2022, "QuantNAS"; lim after Dumitru et al.
          2024, "Layer-Wise Quantization"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.analysis.segments import segments
from qcompiler.analysis.weights import spatial_axes
from qcompiler.errors import SpecError, UnsupportedError
from qcompiler.ir.program import Node, Program
from qcompiler.passes.allocate.harm import divergences, errors
from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity.curvature import check
from qcompiler.passes.allocate.sensitivity.method import Harm, Subject, graded
from qcompiler.passes.allocate.trial import Grid
from qcompiler.spec import QuantSpec, expand_blocks


@dataclass(frozen=True)
class Mask:
    """Divergence when weights go missing.

    Args:
        share: of the weights that are dropped.
        masks: how many are drawn.
    """

    share: float = 0.4
    masks: int = 4
    name: ClassVar[str] = "mask"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "divergence"

    def __post_init__(self) -> None:
        check("auto", self.masks)
        if not 0 < self.share < 1:
            raise SpecError(f"{self.share} is no share of the weights", mend="choose a number between 0 and 1")

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        for number, unit in enumerate(units, 1):
            found = []
            for draw in range(self.masks):
                generator = torch.Generator().manual_seed(subject.ctx.seed + draw)
                given = {node: self._masked(subject, node, generator) for node in subject.weights(unit)}
                found.append(divergences(subject.trial.results({}, given=given)))
            yield graded(subject, unit, torch.stack(found).mean(0))
            subject.ctx.progress(number, len(units))

    def _masked(self, subject: Subject, node: Node, generator: torch.Generator) -> Tensor:
        weight = subject.program.param(node).detach()
        return weight * (torch.rand(weight.shape, generator=generator) >= self.share)


@dataclass(frozen=True)
class NoiseToggle:
    """Error of the results under noise as wide as a grid's steps.

    Args:
        draws: how many noises each batch gets.
    """

    draws: int = 2
    name: ClassVar[str] = "noise_toggle"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "error"

    def __post_init__(self) -> None:
        check("auto", self.draws)

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        for number, unit in enumerate(units, 1):
            rows: list[Tensor] = []
            for option in unit.options:
                generator = torch.Generator().manual_seed(subject.ctx.seed)

                def stir(value: Tensor, grid: Grid, spec: QuantSpec, generator: torch.Generator = generator) -> Tensor:
                    return value + step_noise(value, grid, spec, generator)

                draws = [errors(subject.trial.results(option.assignments, rounding=stir)) for _ in range(self.draws)]
                rows.append(torch.stack(draws).mean(0))
            yield torch.stack(rows)
            subject.ctx.progress(number, len(units))


@dataclass(frozen=True)
class BlockSimilarity:
    """Blocks that change their value's direction most matter most."""

    name: ClassVar[str] = "lim"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "error"

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        blocks = shape_keeping_blocks(subject.program)
        for unit in units:
            scores: list[Tensor] = []
            for name in unit.nodes:
                ends = blocks.get(subject.nodes[name])
                scores.append(torch.ones(1, dtype=torch.float64) if ends is None else _turned(subject, *ends))
            yield graded(subject, unit, torch.stack(torch.broadcast_tensors(*scores)).amax(0))


def step_noise(value: Tensor, grid: Grid, spec: QuantSpec, generator: torch.Generator) -> Tensor:
    """Uniform noise as wide as the steps of a uniform grid.

    Raises:
        UnsupportedError: for numbers whose steps differ, or whose scales have several levels.
    """
    if not spec.format.is_integer or len(spec.levels) > 1 or spec.parts is not None:
        raise UnsupportedError(
            f"{spec} has no single step, which noise could be as wide as",
            mend="choose another sensitivity, such as output",
        )
    scale = grid[0][0] if isinstance(grid[0], tuple) else grid[0]
    step = expand_blocks(scale, spec.block, value.shape)
    return (torch.rand(value.shape, generator=generator).to(value.dtype) - 0.5) * step


def shape_keeping_blocks(program: Program) -> dict[Node, tuple[Node, Node]]:
    """By layer, what enters and leaves the smallest run of segments around it with one shape at both ends."""
    parts = segments(program, [node for node in program.nodes if spatial_axes(program, node) is not None])
    ends = [part.results[0] if len(part.results) == 1 else None for part in parts]
    starts = [program.inputs[0] if len(program.inputs) == 1 else None, *ends[:-1]]
    found: dict[Node, tuple[Node, Node]] = {}
    for at, part in enumerate(parts):
        reach = [(low, high) for low in range(at + 1) for high in range(at, len(parts))]
        for low, high in sorted(reach, key=lambda pair: pair[1] - pair[0]):
            first, last = starts[low], ends[high]
            if first is not None and last is not None and program.shape(first) == program.shape(last):
                found |= dict.fromkeys(part.sites, (first, last))
                break
    return found


def _turned(subject: Subject, first: Node, last: Node) -> Tensor:
    """One less the cosine between two values, by batch: float64 [batches]."""
    pairs = zip(subject.trial.samples(first), subject.trial.samples(last), strict=True)
    cosines = [torch.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0) for a, b in pairs]
    return (1 - torch.stack(cosines)).clamp_(min=0.0)
