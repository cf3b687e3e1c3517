"""How far the results under a plan are from the float ones, sample by sample.

Formula   error: n |y_s - fq(y_s)|^2 / sum over samples of |y|^2. divergence: KL(softmax(y_s) | softmax(fq(y_s))) along
          the last axis of the first result, mean over its rows. The mean over samples is the harm of the whole
Shapes    results as they are -> float64 [samples]; a batch is one sample where results do not begin with one axis
Promise   0 where nothing changed, not below 0
Needs     float and quantized results of the same batches
Source    divergence after Cai et al. 2020, "ZeroQ"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Results:
    """Float and quantized results of one batch, flat."""

    wanted: Sequence[Tensor]
    found: Sequence[Tensor]


def errors(results: Sequence[Results]) -> Tensor:
    """Squared error of all floating results, each sample over the mean square of all: float64 [samples]."""
    noise, signal = (torch.cat(parts) for parts in zip(*map(_energies, results), strict=True))
    whole = signal.sum()
    return noise * (len(noise) / whole) if whole > 0 else (noise > 0).double()


def noise_ratios(results: Sequence[Results]) -> Tensor:
    """Squared error of each sample over its own square: float64 [samples]."""
    noise, signal = (torch.cat(parts) for parts in zip(*map(_energies, results), strict=True))
    return torch.where(signal > 0, noise / signal.clamp(min=1e-300), (noise > 0).double())


def divergences(results: Sequence[Results]) -> Tensor:
    """Mean divergence of softmax along the last axis of the first result, in nats: float64 [samples]."""
    found: list[Tensor] = []
    for batch in results:
        wanted, got = (log_probabilities(tensors[0]) for tensors in (batch.wanted, batch.found))
        each = (wanted.exp() * (wanted - got)).sum(-1)
        found.append(each.reshape(len(each), -1).mean(1))
    return torch.cat(found).clamp_(min=0.0)


def relative_error(results: Sequence[Results]) -> float:
    """Squared error of all floating results over their square."""
    return float(errors(results).mean())


def divergence(results: Sequence[Results]) -> float:
    """Mean divergence of softmax along the last axis of the first result, in nats."""
    return float(divergences(results).mean())


def log_probabilities(logits: Tensor) -> Tensor:
    """Logarithm of softmax along the last axis, float64; a vector or number counts as one sample."""
    return torch.log_softmax(logits.double().reshape(1, -1) if logits.dim() < 2 else logits.double(), -1)


def _energies(batch: Results) -> tuple[Tensor, Tensor]:
    """Noise and signal of each sample of a batch, float64."""
    pairs = [pair for pair in zip(batch.wanted, batch.found, strict=True) if pair[0].is_floating_point()]
    if not pairs:
        return torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    firsts = {wanted.shape[0] if wanted.dim() else 0 for wanted, _ in pairs}
    rows = firsts.pop() if len(firsts) == 1 else 0
    noise = [_squares(wanted.double() - found.double(), rows) for wanted, found in pairs]
    return torch.stack(noise).sum(0), torch.stack([_squares(wanted.double(), rows) for wanted, _ in pairs]).sum(0)


def _squares(value: Tensor, rows: int) -> Tensor:
    return value.square().reshape(rows, -1).sum(1) if rows else value.square().sum().reshape(1)
