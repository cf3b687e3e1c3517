"""The core of all second-order solvers: one column after the other is rounded, and the later ones answer its error.

Formula   for q = 0, 1, ...:  t_q = W_q + sum_{p<q} z~_p P[p, q];  z_q = t_q + sum_{p<q} d_p F[q, p];
          z'_q = z_q - b (z_q - W0_q) where pulled;  v_q = round(z'_q);
          d_q = t_q - v_q - (z_q - z'_q) - b (z'_q - W0_q)
          With P = 0 and b = 0 every z_q is the best value of its column given all columns before it: this is GPTQ,
          written with the factors of H instead of those of its inverse
Shapes    weights [groups, rows, columns]; F [groups, columns, columns] unit lower; P strictly upper
Source    Frantar et al. 2022, "GPTQ"; Chee et al. 2023, "QuIP"; Li et al. 2025, "GPTAQ"; "FOEM" 2025; "ResComp" 2026
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from qcompiler.passes.solve.curvature import Curvature

BLOCK = 128
_STRIP = 16
_RUNAWAY = 10.0
"""Latent values beyond so many times the largest weight of their row are clipped before they are rounded."""


class Rounder(Protocol):
    """What puts columns on a grid. Columns are counted in the order of solving, and lie as [groups, rows]."""

    @property
    def width(self) -> int:
        """How many columns are announced by each call of `begin`; 0 when it need not be called."""
        ...

    def begin(self, start: int, latent: Tensor) -> None:
        """Columns from `start` on, at most `width`, are next; `latent` [groups, columns, rows] is what they are now."""
        ...

    def round(self, column: int, latent: Tensor) -> Tensor:
        """The grid's value for each latent one, [groups, rows]."""
        ...


Trail = Callable[[int, Tensor, Tensor], Tensor]
"""What a column hands on through P, from its place, its latent and its rounded value, [groups, rows] each."""


@dataclass(frozen=True)
class Solution:
    """A weight that was rounded column by column.

    Args:
        value: [groups, rows, columns], on the grid, in the order of solving.
        latent: what each column was when it was rounded, None unless asked for.
        cost: `(W - value) (damped H) (W - value)^T` of each row, [groups, rows]; exact without P and pull.
    """

    value: Tensor
    latent: Tensor | None
    cost: Tensor


def column_sequential_solve(
    weight: Tensor,
    curvature: Curvature,
    rounder: Rounder,
    *,
    push: Tensor | None = None,
    trail: Trail = lambda column, latent, value: latent,
    reference: Tensor | None = None,
    pull: float = 0.0,
    pulled: bool = True,
    block: int = BLOCK,
    keep_latent: bool = False,
) -> Solution:
    """Rounds a weight column by column.

    Args:
        weight: W, what the rounded weight shall come close to, [groups, rows, columns] in the order of solving.
        curvature: F.
        rounder: the grid.
        push: P, strictly upper triangular [groups, columns, columns], None for zero.
        trail: z~.
        reference: W0, what latent values are pulled to; `weight` when None.
        pull: b.
        pulled: whether latent values are moved too (z' as above), or only the error (z' = z).
        block: columns that are brought up to date by one matrix product; changes speed only.
        keep_latent: whether latent values are returned.
    """
    target = weight.mT.contiguous()
    state = _State(
        target,
        curvature.feedback,
        None if push is None else push.mT.contiguous(),
        target if reference is None else reference.mT.contiguous(),
        pull,
        pulled,
        trail,
        keep_latent,
    )
    for start, stop in _blocks(target.shape[1], block, rounder.width):
        state.block(start, stop, rounder)
    cost = (state.cost * curvature.pivots[:, :, None]).sum(1)
    return Solution(state.value.mT, None if state.latent is None else state.latent.mT, cost)


def _blocks(columns: int, block: int, width: int) -> Iterator[tuple[int, int]]:
    """Blocks that hold whole announcements."""
    size = block if not width else max(width, block // width * width)
    for start in range(0, columns, size):
        yield start, min(start + size, columns)


class _State:
    """Weights as [groups, columns, rows]: a column of the weight is contiguous."""

    def __init__(
        self,
        target: Tensor,
        feedback: Tensor,
        push: Tensor | None,
        reference: Tensor,
        pull: float,
        pulled: bool,
        trail: Trail,
        keep_latent: bool,
    ) -> None:
        self.target, self.feedback, self.push, self.reference = target, feedback, push, reference
        self.pull, self.pulled, self.trail = pull, pulled, trail
        self.error, self.value = torch.empty_like(target), torch.empty_like(target)
        self.cost = torch.empty_like(target)
        self.handed = torch.empty_like(target) if push is not None else None
        self.latent = torch.empty_like(target) if keep_latent else None
        self.limit = target.abs().amax(1) * _RUNAWAY

    def block(self, start: int, stop: int, rounder: Rounder) -> None:
        """Rounds the columns from start to stop; those before are done."""
        target = self.target[:, start:stop].clone()
        if self.push is not None and self.handed is not None:
            target.baddbmm_(self.push[:, start:stop, :start], self.handed[:, :start])
        latent = torch.baddbmm(target, self.feedback[:, start:stop, :start], self.error[:, :start])
        width = rounder.width
        cuts = {*range(start, stop, _STRIP), *(range(start, stop, width) if width else ())}
        edges = [*sorted(cuts), stop]
        for first, last in pairwise(edges):
            if width and (first - start) % width == 0:
                rounder.begin(first, latent[:, first - start : first - start + width])
            for column in range(first, last):
                self.column(column, first, target[:, column - start], latent[:, column - start], rounder)
            if last < stop:
                latent[:, last - start :].baddbmm_(self.feedback[:, last:stop, first:last], self.error[:, first:last])
                self.hand_on(target, latent, start, first, last, stop)

    def hand_on(self, target: Tensor, latent: Tensor, start: int, first: int, last: int, stop: int) -> None:
        """Moves targets, and latent values with them, by what finished columns hand on."""
        if self.push is not None and self.handed is not None:
            moved = self.push[:, last:stop, first:last] @ self.handed[:, first:last]
            target[:, last - start : stop - start] += moved
            latent[:, last - start : stop - start] += moved

    def column(self, column: int, first: int, target: Tensor, latent: Tensor, rounder: Rounder) -> None:
        """Rounds one column; `target` and `latent` [groups, rows] lack the columns from `first` on."""
        if column > first:
            latent = torch.baddbmm(
                latent[:, None], self.feedback[:, column, None, first:column], self.error[:, first:column]
            )[:, 0]
            if self.push is not None and self.handed is not None:
                moved = (self.push[:, column, None, first:column] @ self.handed[:, first:column])[:, 0]
                target, latent = target + moved, latent + moved
        latent = torch.clamp(latent, -self.limit, self.limit)
        held = latent
        if self.pull and self.pulled:
            held = latent - self.pull * (latent - self.reference[:, column])
        value = rounder.round(column, held)
        self.value[:, column] = value
        torch.sub(held, value, out=self.cost[:, column]).square_()
        error = torch.sub(target, value, out=self.error[:, column])
        if self.pull:
            error -= (latent - held) + self.pull * (held - self.reference[:, column])
        if self.handed is not None:
            self.handed[:, column] = self.trail(column, held, value)
        if self.latent is not None:
            self.latent[:, column] = held
