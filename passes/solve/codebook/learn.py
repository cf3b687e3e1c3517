"""Gradient descent on the output error of one weight, for everything about it that can be learned.

Formula   Adam on the relative output error, rates falling to zero along a cosine
Source    Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qcompiler.passes.solve.codebook.vectors import Cut

_TABLE_RATE = 1e-2


def descend(
    loss: Callable[[], Tensor],
    learned: Sequence[tuple[Tensor, float]],
    steps: int,
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """Changes tensors in place so that a loss falls.

    Args:
        loss: of the tensors as they are.
        learned: tensors that require gradients, each with its first rate.
        steps: how many.
        after: called behind each step with its number from 0, without gradients.
    """
    if not steps:
        return
    optimizer = torch.optim.Adam([{"params": [tensor], "lr": rate} for tensor, rate in learned])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        with torch.enable_grad():
            loss().backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            after(step)


def tuned_table(pieces: Cut, indices: Tensor, table: Tensor, steps: int, mask: Tensor | None = None) -> Tensor:
    """Entries of least output error for fixed indices; with a mask [count, length] only what it keeps is seen."""
    learned = table.clone().requires_grad_()
    kept = torch.ones_like(pieces.vectors) if mask is None else mask.float()
    descend(lambda: pieces.error(learned[indices] * kept), [(learned, _TABLE_RATE)], steps)
    return learned.detach()
