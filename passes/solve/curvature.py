"""What an error of each column costs, factorised: the second moment of a layer's inputs, damped, as a unit triangle.

Formula   H + p mean(diag H) I = F^T diag(pivots) F with F unit lower triangular, from one Cholesky factorisation of H
          with rows and columns in reverse. For U upper with U^T U = H^-1: U = diag(pivots)^(-1/2) F^-T, so the entry
          F[q, p] is the move of column q per unit of remaining error of the earlier column p; no inverse is formed
Source    Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers";
          Chee et al. 2023, "QuIP: 2-Bit Quantization of Large Language Models With Guarantees" (the same loop from the
          factors of H itself)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.errors import SpecError

_SMALLEST_RAISE = 0.0015
_STRIPE = 512
"""Columns of a triangle that are multiplied at once; what lies behind its diagonal is left out."""


@dataclass(frozen=True)
class Curvature:
    """A factorised second moment.

    Args:
        feedback: F, unit lower triangular [groups, columns, columns], columns in the order of solving.
        pivots: [groups, columns], positive: what an error of a column costs once all later columns have answered it.
        order: int64 [groups, columns]: which column of the weight is solved at each place; None when as they lie.
        damping: the share of the mean diagonal that was added in the end; 1 or more: only the diagonal was used.
    """

    feedback: Tensor
    pivots: Tensor
    order: Tensor | None
    damping: float

    def arrange(self, weight: Tensor) -> Tensor:
        """The last axis of [groups, rows, columns] in the order of solving."""
        return weight if self.order is None else weight.gather(2, self.order[:, None].expand_as(weight))

    def restore(self, weight: Tensor) -> Tensor:
        """Inverse of `arrange`."""
        if self.order is None:
            return weight
        return weight.gather(2, self.order.argsort(dim=1)[:, None].expand_as(weight))

    def arrange_moment(self, moment: Tensor) -> Tensor:
        """Rows and columns of [groups, columns, columns] in the order of solving."""
        if self.order is None:
            return moment
        rows = moment.gather(1, self.order[:, :, None].expand_as(moment))
        return rows.gather(2, self.order[:, None].expand_as(moment))

    def divide(self, matrix: Tensor) -> Tensor:
        """`matrix (damped H)^-1` of [groups, rows, columns], in the order of solving."""
        across = torch.linalg.solve_triangular(self.feedback, matrix, upper=False, left=False, unitriangular=True)
        across = across / self.pivots[:, None]
        return torch.linalg.solve_triangular(self.feedback.mT, across, upper=True, left=False, unitriangular=True)

    def push(self, moment: Tensor) -> Tensor:
        """`SU(moment U^T) U`: row q is row q of `moment` behind the diagonal times the inverse of H behind q.

        Args:
            moment: [groups, columns, columns] in the order of solving.
        """
        across = torch.linalg.solve_triangular(self.feedback, moment, upper=False, left=False, unitriangular=True)
        across = (across / self.pivots[:, None]).triu(1)
        return torch.linalg.solve_triangular(self.feedback.mT, across, upper=True, left=False, unitriangular=True)

    def cost(self, error: Tensor) -> Tensor:
        """`diag(error (damped H) error^T)` of [groups, rows, columns] in the order of solving: [groups, rows]."""
        total = error.new_zeros(error.shape[:2])
        for start in range(0, error.shape[2], _STRIPE):
            stop = start + _STRIPE
            answered = error[:, :, :stop] @ self.feedback[:, start:stop, :stop].mT
            total += (answered.square_() @ self.pivots[:, start:stop, None]).squeeze(2)
        return total


def factorise(moment: Tensor, damping: float = 0.01, by_size: bool = False) -> Curvature:
    """Factorises a second moment.

    Columns that never saw anything but zero get a diagonal of their own and no part in feedback. When the
    factorisation fails, damping grows; at a whole mean diagonal only the diagonal counts.

    Args:
        moment: [groups, columns, columns], symmetric, float32 or float64.
        damping: share of the mean diagonal that is added to it.
        by_size: whether columns are solved from the largest diagonal entry to the smallest.

    Raises:
        SpecError: for a damping that is negative.
    """
    if damping < 0:
        raise SpecError(f"damping {damping} is negative", mend="0.01 is usual")
    diagonal = moment.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(dim=1, descending=True, stable=True) if by_size else None
    plain = Curvature(moment, diagonal, order, 0.0)
    # Reversed, the lower factor of the matrix becomes the upper one that the order of columns needs.
    moment = plain.arrange_moment(moment).flip(1, 2)
    diagonal = moment.diagonal(dim1=1, dim2=2).clone()
    mean = diagonal.mean(1, keepdim=True)
    filled = torch.where(diagonal > 0, diagonal, torch.where(mean > 0, mean, 1.0))
    share = damping
    while share < 1:
        moment.diagonal(dim1=1, dim2=2).copy_(filled + share * mean)
        upper, failed = torch.linalg.cholesky_ex(moment, upper=True)
        if not bool(failed.any()) and bool((upper.diagonal(dim1=1, dim2=2) > 0).all()):
            lower = upper.flip(1, 2).contiguous()
            roots = lower.diagonal(dim1=1, dim2=2).clone()
            return Curvature(lower.div_(roots[:, :, None]), roots.square(), order, share)
        share += max(share, _SMALLEST_RAISE)
    identity = torch.eye(moment.shape[1], dtype=moment.dtype).expand_as(moment)
    return Curvature(identity, filled.flip(1), order, share)
