"""Outlier-aware rotation: blocks turned until the largest values are spread, channels dealt to blocks between turns.

Formula   T = (I x A) . P . (I x B): A and B [size, size] orthogonal, shared by all blocks; P a permutation. A is a
          product of steps `swap(0, j) . U`: j the channel with the largest magnitude over all blocks, U orthogonal
          with a uniform first row, which spreads channel 0 evenly; the prefix with the least `max - min` is kept.
          P sorts channels by magnitude and deals them to the blocks to and fro
Shapes    values [rows, channels]; size divides channels
Source    Lin et al. 2024, "DuQuant: Distributing Outliers via Dual Transformation Makes Stronger Quantized LLMs"
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.errors import InputError
from qcompiler.passes.transform.factors import Chain, Kronecker, Order

# Only large rows decide about the largest values.
_ROWS = 512


def block_rotation(values: Tensor, size: int, steps: int, seed: int) -> Chain:
    """The outlier-aware transform of rows [rows, channels].

    Args:
        values: what the transform is made for.
        size: channels per block.
        steps: turns that are tried for either rotation.
        seed: of the rotations.

    Raises:
        InputError: when `size` does not divide the channels.
    """
    channels = values.shape[-1]
    if channels % size:
        raise InputError(f"blocks of {size} do not divide {channels} channels", mend="see divisor_near")
    generator = torch.Generator().manual_seed(seed)
    values = values.detach().reshape(-1, channels).double()
    values = values[values.abs().amax(1).argsort(descending=True, stable=True)[:_ROWS]]
    first = greedy_rotation(values.reshape(-1, size), steps, generator)
    turned = Kronecker(None, first).times(values)
    order = zigzag(turned.abs().amax(0), channels // size)
    second = greedy_rotation(turned[:, order].reshape(-1, size), steps, generator)
    return Chain((Kronecker(None, first), Order(order), Kronecker(None, second)))


def greedy_rotation(blocks: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Orthogonal [size, size] that lowers the spread `max - min` of rows [rows, size]; the identity if none does."""
    spread = uniform_first_row(blocks.shape[1], generator)
    total = torch.eye(blocks.shape[1], dtype=torch.float64)
    best, least = total, _spread(blocks)
    for _ in range(steps):
        place = int(blocks.abs().amax(0).argmax())
        order = torch.arange(blocks.shape[1])
        order[0], order[place] = place, 0
        blocks, total = blocks[:, order] @ spread, total[:, order] @ spread
        now = _spread(blocks)
        if now < least:
            best, least = total, now
    return best


def uniform_first_row(size: int, generator: torch.Generator) -> Tensor:
    """Random orthogonal [size, size], float64, every element of its first row `size ** -0.5`."""
    seeds = torch.randn(size, size, generator=generator, dtype=torch.float64)
    seeds[:, 0] = 1
    columns, upper = torch.linalg.qr(seeds)
    return (columns * upper.diagonal().sign()).T.contiguous()


def zigzag(peaks: Tensor, blocks: int) -> Tensor:
    """Channels [n] in an order that deals large and small ones evenly: to blocks 1 .. b, then b .. 1, and so on."""
    rounds = peaks.argsort(descending=True, stable=True).reshape(-1, blocks).clone()
    rounds[1::2] = rounds[1::2].flip(1)
    return rounds.T.reshape(-1)


def divisor_near(channels: int, size: int) -> int:
    """The largest divisor of `channels` that is no larger than `size`; all channels when that would be 1."""
    found = max(part for part in range(1, min(size, channels) + 1) if channels % part == 0)
    return found if found > 1 else channels


def fluctuation(peaks: Tensor) -> float:
    """Largest over median magnitude of channels [n]; infinite when most channels are zero but one is not."""
    largest, median = float(peaks.max()), float(peaks.median())
    if largest == 0:
        return 1.0
    return largest / median if median else float("inf")


def _spread(blocks: Tensor) -> float:
    return float(blocks.max() - blocks.min()) if blocks.numel() else 0.0
