"""A small decoder with a cache of fixed length, and the same without one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Write = Literal["index_copy", "index_put"]
LENGTH, WIDTH, HEADS, GROUPS, WORDS = 12, 32, 4, 2, 24


def rotated(x: Tensor, position: Tensor) -> Tensor:
    """Rotary embedding, [batch, heads, tokens, width] at positions [tokens]."""
    half = x.shape[-1] // 2
    angle = position[:, None] * 10000.0 ** (-torch.arange(half) / half)
    cosine, sine = angle.cos(), angle.sin()
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


class Attention(nn.Module):
    """Attention of grouped heads over what the cache holds, or over the call's own tokens."""

    keys: Tensor
    values: Tensor

    def __init__(self, write: Write | None) -> None:
        super().__init__()
        each = WIDTH // HEADS
        self.write, self.each = write, each
        self.q, self.o = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.k, self.v = (nn.Linear(WIDTH, GROUPS * each, bias=False) for _ in range(2))
        if write is not None:
            self.register_buffer("keys", torch.zeros(1, GROUPS, LENGTH, each), persistent=False)
            self.register_buffer("values", torch.zeros(1, GROUPS, LENGTH, each), persistent=False)

    def cached(self, cache: Tensor, position: Tensor, new: Tensor) -> Tensor:
        if self.write == "index_copy":
            return cache.index_copy_(2, position, new)
        cache[:, :, position] = new
        return cache

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        q, k, v = (linear(x).unflatten(-1, (-1, self.each)).transpose(1, 2) for linear in (self.q, self.k, self.v))
        q, k, seen = rotated(q, position), rotated(k, position), position
        if self.write is not None:
            k, v = self.cached(self.keys, position, k), self.cached(self.values, position, v)
            seen = torch.arange(LENGTH)
        mask = seen <= position[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.o(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A layer of a decoder."""

    def __init__(self, write: Write | None) -> None:
        super().__init__()
        self.first, self.second = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.attention = Attention(write)
        self.gate, self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        x = x + self.attention(self.first(x), position)
        y = self.second(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """tokens int64 [1, tokens] at positions int64 [tokens] -> logits [1, tokens, words]."""

    def __init__(self, write: Write | None = "index_copy", layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.words = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Block(write) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        x = self.words(tokens)
        for layer in self.layers:
            x = layer(x, position)
        return self.head(self.norm(x))


def sentence(count: int = LENGTH, seed: int = 3) -> Tensor:
    """Tokens, int64 [1, count]."""
    return torch.randint(0, WORDS, (1, count), generator=torch.Generator().manual_seed(seed))


def steps(tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """One call per token."""
    return [(tokens[:, i : i + 1], torch.tensor([i])) for i in range(tokens.shape[1])]


def whole(tokens: Tensor, layers: int = 2) -> Tensor:
    """What the decoder without a cache computes of all tokens."""
    with torch.no_grad():
        return Decoder(None, layers).eval()(tokens, torch.arange(tokens.shape[1]))
