"""A transformer block in all the ways in which CUDA kernels run it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.target import Target

WIDTH, HEADS = 64, 4


class Block(torch.nn.Module):
    """Attention and a feed-forward layer behind norms; queries, keys and values read the same activations."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.first, self.second = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.query, self.key, self.value, self.mix = (torch.nn.Linear(width, width) for _ in range(4))
        self.up, self.down = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        heads = [layer(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).flatten(2))
        return x + self.down(torch.nn.functional.gelu(self.up(self.second(x))))


def activations(rows: int = 5, batch: int = 2) -> torch.Tensor:
    """Inputs of the block."""
    return torch.randn(batch, rows, WIDTH, generator=torch.Generator().manual_seed(rows))


@cache
def compiled(recipe: str | Path, compute: str = "float32") -> Artifact:
    """The block for the emulation; nothing is compiled ahead."""
    target = f"cuda{{device=emulation, build=later, compute={compute}, architectures=[80, 87, 90]}}"
    return compile_block(target, recipe)


def compile_block(target: str | Target, recipe: str | Path) -> Artifact:
    """The block, with the same weights every time."""
    torch.manual_seed(1)
    return qcompiler.compile(Block().eval(), target, calibration=[(activations(),)], recipe=recipe, keep_float=False)
