"""What is wrong with a quantized weight, told from the float one: hypotheses, each with the error that it would undo.

Formula   a channel is in question when its squared error is more than `EXCESS` times that of the best grid. Of what
          then is tried - a factor per block, an offset per block, two axes exchanged, the scales of another axis, a
          range that cuts off - that wins which leaves least
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qcompiler.explain.causes import Grid, block_extremes, limits
from qcompiler.formats.blocks import expand_blocks
from qcompiler.passes.allocate.trial import best_grid, block_sums
from qcompiler.report.explanation import FindingKind
from qcompiler.spec import QuantSpec, dequantize, fake_quantize, qparams_from_range

EXCESS = 6.0
"""Times the error of the best grid; solvers that look at results leave up to a few times that on purpose."""
_ENOUGH = 0.8
"""Part of the needless error that a hypothesis must undo."""
_FEW = 0.25
"""Share of channels up to which a saturated channel is a matter of its own."""
_ALIKE = 0.25
"""Spread of the logarithm of a ratio of scales up to which they count as ranges of the same blocks."""
_SAME = 0.03
"""Distance up to which two sorted tables count as the same numbers."""
_MIXED = 0.1
"""Spread or distance from which on scales count as those of other blocks."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a tensor.

    Args:
        kind: see `FindingKind`.
        evidence: the numbers behind it.
        recovered: part of the needless error that undoing it removes.
    """

    kind: FindingKind
    evidence: str
    recovered: float


def weight_fault(weight: Tensor, grid: Grid, axis: int = 0) -> Fault | None:
    """What is wrong with a weight, None where it is as good as its grid lets it be.

    Args:
        weight: the float one.
        grid: what stands for it.
        axis: of the output channels.

    Shapes: weight as the codes.
    """
    if not grid.plain or len(grid.spec.levels) != 1 or grid.codes.shape != weight.shape:
        return None
    weight = weight.detach().float()
    found = dequantize(grid.codes.clone(), grid.scale, grid.zero_point, grid.spec).float()
    best = fake_quantize(weight, *best_grid(weight, grid.spec), grid.spec)
    case = _Case(weight, found, grid, axis, best)
    if not bool(torch.isfinite(found).all()):
        return Fault("not finite", "the dequantized weight holds NaN or infinity", 1.0)
    other = case.other_axis()
    if other is not None or not bool(case.bad.any()):
        return other
    tried = [*case.orders(), *case.simple()]
    # A simpler hypothesis comes first and another one must undo more.
    winner = max(tried, key=lambda fault: round(fault.recovered, 2), default=None)
    if winner is not None and winner.recovered >= _ENOUGH:
        return winner
    return case.saturated() or case.ranges()


@dataclass
class _Case:
    weight: Tensor
    found: Tensor
    grid: Grid
    axis: int
    best: Tensor

    def __post_init__(self) -> None:
        self.now = self.energies(self.found - self.weight)
        self.least = self.energies(self.best - self.weight)
        floor = 1e-12 * self.energies(self.weight).mean()
        self.bad = self.now > EXCESS * self.least + floor
        self.needless = float((self.now - self.least)[self.bad].sum())

    def energies(self, value: Tensor) -> Tensor:
        """Squares summed per output channel: float64 [channels]."""
        return value.double().square().movedim(self.axis, 0).flatten(1).sum(1)

    def recovered(self, candidate: Tensor) -> float:
        """Part of the needless error in the channels in question that another tensor would not have."""
        left = float((self.energies(candidate - self.weight) - self.least)[self.bad].sum())
        return max(0.0, min(1.0, 1 - left / self.needless)) if self.needless > 0 else 0.0

    def simple(self) -> Iterator[Fault]:
        """One factor, or one offset, per block."""
        factor = self.factors()
        block = self.grid.spec.block
        scaled = self.found * expand_blocks(factor, block, self.found.shape)
        most = factor.reshape(-1)[factor.reshape(-1).log().abs().nan_to_num(0.0).argmax()]
        part = self.recovered(scaled)
        yield Fault("bad scale", f"{int(self.bad.sum())} channels are right after times {most:.3g}", part)
        if not self.grid.spec.symmetric:
            counts = block_sums(torch.ones_like(self.weight), block)
            offset = block_sums(self.weight - self.found, block) / counts
            moved = self.found + expand_blocks(offset, block, self.found.shape)
            steps = (offset / self.scale_table()).reshape(-1)
            typical = float(steps[steps.abs() >= 0.5 * steps.abs().max()].median())
            yield Fault("wrong zero point", f"the zero point is {typical:+.0f} steps off", self.recovered(moved))

    def factors(self) -> Tensor:
        """What each block is best multiplied by; positive."""
        block = self.grid.spec.block
        own = block_sums(self.found.square(), block)
        factor = block_sums(self.found * self.weight, block) / own.clamp(min=1e-30)
        return torch.where((own > 0) & (factor > 0), factor, 1.0)

    def scale_table(self) -> Tensor:
        scale = self.grid.scale if isinstance(self.grid.scale, Tensor) else self.grid.scale[0]
        return scale.reshape([int(size) for size in self.grid.spec.levels[0].scale_shape(self.weight.shape)])

    def orders(self) -> Iterator[Fault]:
        """Axes exchanged, and scales that belong to another axis."""
        for name, codes in rearranged(self.grid.codes):
            value = dequantize(codes.clone(), self.grid.scale, self.grid.zero_point, self.grid.spec)
            yield Fault("swapped axis", f"right after exchanging {name}", self.recovered(value))
        for name, value in rearranged(self.found):
            yield Fault("swapped axis", f"right after exchanging {name}", self.recovered(value))
        scale = self.scale_table()
        if scale.numel() < 2:
            return
        right = scale * self.factors()
        part = self.recovered(self.found * expand_blocks(right / scale, self.grid.spec.block, self.found.shape))
        apart = _distance(scale.reshape(-1).sort().values, right.reshape(-1).sort().values)
        if apart < _SAME and _distance(scale, right) > max(_MIXED, 4 * apart):
            yield Fault("wrong group axis", "the scales are the right ones in another order", part + 0.01)

    def other_axis(self) -> Fault | None:
        """Scales that are those of blocks along another axis."""
        scale = self.scale_table()
        if scale.numel() < 2:
            return None
        own = _spread(scale, self.expected(self.grid.spec))
        for block in dict.fromkeys(itertools.permutations(self.grid.spec.block)):
            if block == self.grid.spec.block:
                continue
            other = self.expected(_with_block(self.grid.spec, block)).squeeze()
            for table in (other, other.T) if other.dim() == 2 else (other,):
                spread = _spread(scale, table) if table.numel() == scale.numel() else math.inf
                if own > _MIXED and spread < min(_ALIKE, own / 2):
                    text = f"the scales fit blocks of {list(block)}, not {list(self.grid.spec.block)}"
                    return Fault("wrong group axis", text, 1.0)
        return None

    def expected(self, spec: QuantSpec) -> Tensor:
        """Scales of the whole range of each block."""
        scale, _ = qparams_from_range(*block_extremes(self.weight, spec), spec)
        return scale if isinstance(scale, Tensor) else scale[0]

    def saturated(self) -> Fault | None:
        """A few channels whose range cuts them off."""
        low, high = limits(self.grid, self.weight.shape)
        cut = self.energies(torch.minimum(torch.maximum(self.weight, low), high) - self.weight)
        part = float(cut[self.bad].sum() / self.now[self.bad].sum())
        if part < 0.5:
            return None
        beyond = (self.weight < low) | (self.weight > high)
        worst = int((self.now - self.least).argmax())
        share = float(beyond.movedim(self.axis, 0).flatten(1).float().mean(1)[worst])
        text = f"{share:.0%} of channel {worst} is cut off, {int(self.bad.sum())} channels in question"
        few = int(self.bad.sum()) <= max(1, int(_FEW * len(self.bad)))
        return Fault("saturated channel" if few else "bad scale", text, part)

    def ranges(self) -> Fault:
        """Blocks with a much finer or coarser step than they need."""
        ratio = self.scale_table() / self.expected(self.grid.spec)
        flat = ratio.reshape(-1)
        worst = float(flat[flat.log().abs().nan_to_num(0.0).argmax()])
        return Fault("bad scale", f"a step {worst:.3g} times that of the range of its block", 1.0)


def rearranged(value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor with two axes exchanged, where the shape allows it, or read in the memory order of other axes."""
    for one, other in itertools.combinations(range(value.dim()), 2):
        if min(value.shape[one], value.shape[other]) < 2:
            continue
        if value.shape[one] == value.shape[other]:
            yield f"axes {one} and {other}", value.transpose(one, other)
        else:
            turned = list(value.shape)
            turned[one], turned[other] = turned[other], turned[one]
            yield f"the memory order of axes {one} and {other}", value.reshape(turned).transpose(one, other)
            yield f"axes {one} and {other} in memory", value.transpose(one, other).reshape(value.shape)


def _with_block(spec: QuantSpec, block: tuple[int, ...]) -> QuantSpec:
    return replace(spec, levels=(replace(spec.levels[0], block=block),))


def _spread(one: Tensor, other: Tensor) -> float:
    """Standard deviation of the logarithm of the ratio of two tables of scales."""
    return float(_log_ratio(one, other).std(correction=0))


def _distance(one: Tensor, other: Tensor) -> float:
    """Root mean square of the logarithm of the ratio of two tables of scales."""
    return float(_log_ratio(one, other).square().mean().sqrt())


def _log_ratio(one: Tensor, other: Tensor) -> Tensor:
    return (one.reshape(-1).double() / other.reshape(-1).double().clamp(min=1e-30)).clamp(min=1e-30).log()
