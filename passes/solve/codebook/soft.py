"""Assignments that are learned: each vector as a mixture of the nearest entries, until one of them has all the weight.

Formula   `v = sum_k softmax(l)_k C[c_k]`, l from the distances; candidates of next to no weight give way to the entries
          that are nearest to v now; a vector whose largest weight is near 1 is confirmed, and a schedule confirms
          those of largest weight first, so that the last step leaves nothing soft
Source    "ViM-VQ: Efficient Post-Training Vector Quantization for Visual Mamba" 2025; Deng et al. 2024,
          "VQ4ALL: Efficient Neural Network Representation via a Universal Codebook"
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.passes.solve.codebook.learn import descend
from qcompiler.passes.solve.codebook.vectors import Cut, nearest_few

_SHARPNESS = 2.0
_NEGLIGIBLE = 0.01
_CONFIRM_EVERY = 5
_REPLACE_EVERY = 25
_FREE_SHARE = 0.3


@dataclass(frozen=True)
class SoftSearch:
    """How assignments are learned.

    Args:
        candidates: entries that each vector mixes.
        steps: of gradient descent.
        rate: of the mixtures.
        table_rate: of the entries, in units of the rows; 0 keeps the table.
        certain: weight from which on a vector is confirmed at once.
        hardening: how much the loss counts weight that is not on the largest candidate.
    """

    candidates: int = 4
    steps: int = 300
    rate: float = 0.1
    table_rate: float = 1e-3
    certain: float = 0.99
    hardening: float = 0.0


@dataclass(frozen=True)
class Found:
    """What was learned.

    Args:
        indices: int64 [vectors].
        table: [entries, length].
        confirmed: share of the vectors that were confirmed before the last step.
        soft_error: of the mixtures, at the last step.
    """

    indices: Tensor
    table: Tensor
    confirmed: float
    soft_error: float


class _Mixture:
    def __init__(self, pieces: Cut, table: Tensor, search: SoftSearch) -> None:
        self.pieces, self.search = pieces, search
        self.table = table.clone().requires_grad_(search.table_rate > 0)
        count = min(search.candidates, len(table))
        self.candidates, costs = nearest_few(pieces.vectors, table, pieces.costs, count)
        costs = costs.clamp(min=0)
        mean = costs.mean(1, keepdim=True)
        logits = -_SHARPNESS * costs / torch.where(mean > 0, mean, 1.0)
        self.logits = logits.requires_grad_()
        self.confirmed = torch.zeros(len(pieces.vectors), dtype=torch.bool)
        self.sure, self.soft_error = 0.0, 0.0

    def loss(self) -> Tensor:
        """Output error, and the price of weight that is spread."""
        ratios = self.ratios()
        error = self.pieces.error((ratios[:, :, None] * self.table[self.candidates]).sum(1))
        self.soft_error = float(error.detach())
        if not self.search.hardening:
            return error
        return error + self.search.hardening * (1 - ratios.amax(1)).mean()

    def ratios(self) -> Tensor:
        """Weight of each candidate; one for all of those of a confirmed vector."""
        soft = self.logits.softmax(1)
        hard = torch.nn.functional.one_hot(self.logits.argmax(1), self.logits.shape[1]).to(soft.dtype)
        return torch.where(self.confirmed[:, None], hard, soft)

    def after(self, step: int) -> None:
        """Confirms and replaces now and then."""
        if (step + 1) % _CONFIRM_EVERY == 0:
            self.confirm((step + 1) / self.search.steps)
        if (step + 1) % _REPLACE_EVERY == 0:
            self.replace()

    def confirm(self, progress: float) -> None:
        """Makes the surest vectors hard: all that are certain, and as many as the schedule says."""
        largest = self.logits.softmax(1).amax(1)
        certain = largest > self.search.certain
        due = int(max(0.0, progress - _FREE_SHARE) / (1 - _FREE_SHARE) * len(largest))
        if due:
            certain[largest.masked_fill(self.confirmed, 2.0).topk(min(due, len(largest))).indices] = True
        self.confirmed |= certain
        self.sure = float(self.confirmed.float().mean())

    def replace(self) -> None:
        """Swaps the candidate of least weight of each soft vector for the nearest entry that is none yet."""
        soft = (~self.confirmed).nonzero()[:, 0]
        count = self.candidates.shape[1]
        if not len(soft) or count == len(self.table):
            return
        ratios, mine = self.logits[soft].softmax(1), self.candidates[soft]
        value = (ratios[:, :, None] * self.table[mine]).sum(1)
        near, _ = nearest_few(value, self.table, self.pieces.costs[soft], count + 1)
        known = (near[:, :, None] == mine[:, None]).any(2)
        fresh = near.gather(1, known.long().argmin(1, keepdim=True))[:, 0]
        worst = ratios.argmin(1)
        swap = ratios.gather(1, worst[:, None])[:, 0] < _NEGLIGIBLE / count
        rows = soft[swap]
        self.candidates[rows, worst[swap]] = fresh[swap]
        self.logits.data[rows, worst[swap]] = self.logits.data[rows].median(1).values

    def indices(self) -> Tensor:
        """The candidate of most weight of each vector."""
        return self.candidates.gather(1, self.logits.argmax(1, keepdim=True))[:, 0]


def learn_assignments(pieces: Cut, table: Tensor, search: SoftSearch) -> Found:
    """Indices of least output error.

    Args:
        pieces: the weight.
        table: [entries, length] to begin with.
        search: how.
    """
    mixture = _Mixture(pieces, table, search)
    learned = [(mixture.logits, search.rate)]
    if search.table_rate:
        learned.append((mixture.table, search.table_rate))
    descend(mixture.loss, learned, search.steps, mixture.after)
    return Found(mixture.indices().detach(), mixture.table.detach(), mixture.sure, mixture.soft_error)
