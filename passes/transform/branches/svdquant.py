"""SVDQuant: a low-rank branch in half precision takes the large directions of a weight, codes hold the rest.

Formula   x' = x / s, W' = W diag(s); W' = L + R, L = B A of rank r; y = x' R^T + (x' A^T) B^T. s = a^p / w^q from the
          largest sizes a of the input's and w of the weight's channels, (p, q) in {(0, 0), (i/g, 0), (i/g, 1 - i/g)};
          each candidate is measured with its branch on. Then L <- low rank of W' - Q(W' - L), again and again, while
          the error with quantized inputs, |Q(x') Q(R)^T + x' L^T - x W^T|, falls. The branch reads x', not Q(x')
Shapes    W [out, in, *kernel]: B [out, r], A [r, in, *kernel]; s [in]
Promise   Exact; layers where plain rounding measures better stay as they are
Needs     assigned formats; calibration data for the smoothing (without it errors of weights are measured)
Source    Li et al. 2025, "SVDQuant: Absorbing Outliers by Low-Rank Components for 4-Bit Diffusion Models"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.ir.program import Program, Stage
from qcompiler.low_rank import low_rank
from qcompiler.passes.transform.branches.driver import (
    BranchLayer,
    BranchPort,
    Split,
    add_branches,
    in_half,
    now,
    requests_of,
    sampled_ports,
    set_weight,
)
from qcompiler.passes.transform.branches.port_error import PortError
from qcompiler.passes.transform.branches.scaling import scale_ports
from qcompiler.passes.transform.evaluate import rounded
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request

_SMALLEST = 1e-5


@dataclass(frozen=True)
class SvdQuant:
    """Splits weights into a low-rank branch and codes.

    Args:
        rank: of the branches.
        iterations: most rounds of the alternation; 0 keeps the split of the weight itself.
        smooth: whether the input is scaled too, by the best candidate.
        grid: how finely the exponents of the candidates are spaced: 2 grid - 1 candidates.
        weighted: whether errors count by the inputs that meet them in the alternation; linears only.
        share: whether layers that read one value share the factor that reads it.
        half: whether the branch is stored in half precision.
    """

    rank: int = 32
    iterations: int = 20
    smooth: bool = True
    grid: int = 10
    weighted: bool = True
    share: bool = False
    half: bool = True
    name: ClassVar[str] = "svdquant"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def __post_init__(self) -> None:
        if self.rank < 1 or self.iterations < 0 or self.grid < 1:
            raise SpecError(
                f"rank {self.rank}, {self.iterations} iterations, grid {self.grid}", mend="rank 32 is usual"
            )

    def requests(self, program: Program) -> list[Request]:
        """Samples of what the layers read."""
        return requests_of(program)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with branches beside its layers."""
        seen = [(port, x, self.scale(PortError(port, x))) for port, x in sampled_ports(program, ctx)]
        worth = [(port, x, scale) for port, x, scale in seen if scale is not None]
        scaled = [(port, scale) for port, _, scale in worth if not bool((scale == 1).all())]
        online = scale_ports(program, scaled, self.name)
        count = cost = 0
        for port, x, scale in worth:
            current = now(program, port)
            chosen = self.best(PortError(current, None if x is None else x / port.along(scale).to(x)))
            if chosen is not None:
                install(program, current, chosen, self.half, self.name)
                count, cost = count + len(port.layers), cost + chosen.cost
        total = sum(layer.weight.numel() for port, _, _ in seen for layer in port.layers)
        more = f"{cost / max(total, 1):+.1%} multiply-adds"
        ctx.log(f"{count} layers with a branch of rank {self.rank}: {more}; {online} values multiplied online")
        return program

    def scale(self, measured: PortError) -> Tensor | None:
        """The best scale of a port, with branches on; None where plain rounding is at least as good."""
        scales = list(candidate_scales(measured, self.grid)) if self.smooth else []
        ones = torch.ones(measured.port.channels, dtype=torch.float64)
        found = [(self.measure(measured, scale).error, scale) for scale in [ones, *scales]]
        error, scale = min(found, key=lambda pair: pair[0])
        return scale if measured.blind or error < measured.plain() else None

    def best(self, measured: PortError) -> Candidate | None:
        """The splits at one port; None where plain rounding is at least as good."""
        ones = torch.ones(measured.port.channels, dtype=torch.float64)
        found = self.measure(measured, ones)
        for _ in range(self.iterations):
            following = self.measure(measured, ones, found.splits)
            if following.error >= found.error:
                break
            found = following
        return found if measured.blind or found.error < measured.plain() else None

    def measure(self, measured: PortError, scale: Tensor, before: Sequence[Split] = ()) -> Candidate:
        """The split of the scaled weights, or, of what the last one leaves of the rounding, and its error."""
        port, layers = measured.port, measured.port.layers
        weights = [layer.weight * scale.reshape(-1, *[1] * (layer.weight.dim() - 2)) for layer in layers]
        aims = [weight.flatten(1) for weight in weights]
        if before:
            rests = [remainder(weight, split) for weight, split in zip(weights, before, strict=True)]
            kept = [rounded(rest, layer.spec) for rest, layer in zip(rests, layers, strict=True)]
            aims = [aim - rest.flatten(1) for aim, rest in zip(aims, kept, strict=True)]
        weighting = measured.moment if before and self.weighted else None
        splits = tuple(self.split(layers, aims, weighting))
        held = [remainder(weight, split) for weight, split in zip(weights, splits, strict=True)]
        beside = [split.product.reshape(weight.shape) for weight, split in zip(weights, splits, strict=True)]
        return Candidate(splits, measured.error(held, lambda x: x / port.along(scale).to(x), beside))

    def split(self, layers: Sequence[BranchLayer], aims: Sequence[Tensor], moment: Tensor | None) -> list[Split]:
        """The low-rank parts of matrices that read one value, of least error on it where its moment is given."""
        if self.share and len({(layer.window, layer.weight.shape[1:]) for layer in layers}) == 1:
            whole = self.stored(torch.cat(list(aims)), moment)
            return [Split(part, whole.right) for part in whole.left.split([len(aim) for aim in aims])]
        return [self.stored(aim, moment) for aim in aims]

    def stored(self, aim: Tensor, moment: Tensor | None) -> Split:
        """The low-rank part of a matrix as it will be stored."""
        split = Split(*low_rank(aim, self.rank, moment))
        return in_half(split) if self.half else split


@dataclass(frozen=True, eq=False)
class Candidate:
    """What could become of a port.

    Args:
        splits: of the layers' weights.
        error: squared error of the outputs.
    """

    splits: tuple[Split, ...]
    error: float

    @property
    def cost(self) -> int:
        """Multiply-adds of the branches for each place of the output; a shared factor counts once."""
        shared = {id(split.right): split.right.numel() for split in self.splits}
        return sum(shared.values()) + sum(split.left.numel() for split in self.splits)


def remainder(weight: Tensor, split: Split) -> Tensor:
    """What the codes have to hold."""
    return weight - split.product.reshape(weight.shape)


def candidate_scales(measured: PortError, grid: int) -> Iterator[Tensor]:
    """Vectors `a^p / w^q` of positive numbers, the largest of each 1; nothing without samples."""
    port, x = measured.port, measured.x
    if x is None:
        return
    channels = x.double().abs().movedim(port.axis, 0).flatten(1).amax(1)
    columns = [layer.weight.abs().movedim(1, 0).flatten(1).amax(1) for layer in port.layers]
    weights = torch.stack(columns).amax(0)
    known = (channels > _SMALLEST * channels.max()) & (weights > _SMALLEST * weights.max())
    for step in range(1, grid + 1):
        for p, q in ((step / grid, 0.0), (step / grid, 1 - step / grid))[: 1 if step == grid else 2]:
            ratio = torch.where(known, channels**p / weights**q, 1.0)
            middle = ratio[known].log().mean().exp() if bool(known.any()) else 1.0
            yield torch.where(known, ratio / middle, 1.0)


def install(program: Program, port: BranchPort, chosen: Candidate, half: bool, step: str) -> None:
    """Sets the remainders as weights and puts the branches beside the layers."""
    for layer, split in zip(port.layers, chosen.splits, strict=True):
        set_weight(program, layer, remainder(layer.weight, split), step)
    add_branches(program, port.layers, chosen.splits, half, step)
