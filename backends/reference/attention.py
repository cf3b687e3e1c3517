"""Attention, and rotary embeddings, over heads that lie side by side in the last axis; nothing here is quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from qcompiler.backends.reference.arithmetic import fused_multiply_add


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    op: str,
    query_heads: int,
    key_heads: int,
    scale: float,
    is_causal: bool,
) -> Tensor:
    """Scaled dot-product attention; neighbouring query heads share a key head when there are fewer of these.

    Shapes: query [B, L, H * E], key [B, S, G * E], value [B, S, G * F], mask broadcast to [B, H, L, S] -> [B, L, H * F]
    in the dtype of the query.
    """
    q, k, v = cut(query, query_heads), cut(key, key_heads), cut(value, key_heads)
    shared = query_heads != key_heads
    mixed = scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, scale=scale, enable_gqa=shared)
    return mixed.transpose(1, 2).flatten(2)


def rotary(source: Tensor, cos: Tensor, sin: Tensor, *, op: str, heads: int) -> Tensor:
    """`x * cos + [-high, low] * sin` in every head x = [low, high].

    Shapes: source [B, T, H * E], cos and sin broadcast to [B, H, T, E] -> [B, T, H * E] in the dtype of the source.
    """
    x = cut(source, heads)
    low, high = x.chunk(2, -1)
    return (x * cos + torch.cat([-high, low], -1) * sin).transpose(1, 2).flatten(2)


def turned(source: Tensor, cos: Tensor, sin: Tensor, *, op: str) -> Tensor:
    """`rotary` of heads that lie apart, rounded as generated C rounds.

    Formula: `[fma(low, cos, -(high * sin)), fma(low, sin', high * cos')]`, with the first and second halves of tables
    Shapes: source [B, H, T, E], cos and sin broadcast to it -> float32 [B, H, T, E].
    """
    low, high = source.chunk(2, -1)
    (cos_low, cos_high), (sin_low, sin_high) = cos.chunk(2, -1), sin.chunk(2, -1)
    first = fused_multiply_add(low, cos_low, -(high * sin_low))
    return torch.cat([first, fused_multiply_add(low, sin_high, high * cos_high)], -1)


def cut(x: Tensor, count: int) -> Tensor:
    """Heads side by side in the last axis, [B, T, H * E] -> [B, H, T, E]."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


ROTARY_MEANINGS: Mapping[str, Callable[..., object]] = {"rotary_heads": turned}
"""What generated C computes where a rotary embedding is written out, beside `reference.MEANINGS`."""
