"""Scaled dot-product attention, as matrix products around a softmax and as one operator; rotary embeddings.

Formula matrix products: `softmax(product(q, k^T, scale) + bias) v`
        one operator: `softmax(product(q, k^T, scale, bias)) v`, the bias being what the first block is added to
        Hidden places have the lowest float32 as their bias.
Shapes  query [..., L, E], key [..., S, E], value [..., S, F] -> [..., L, F], float32
Source  onnxruntime 1.31: FusedMatMul, Softmax and MatMul; Attention and RotaryEmbedding of operator set 23
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcompiler.backends.reference import attention as real
from qcompiler.backends.reference.floats.fused import fused
from qcompiler.backends.reference.floats.product import product
from qcompiler.backends.reference.floats.softmax import softmax

_LOWEST = torch.finfo(torch.float32).min


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as matrix products; other dtypes than float32 are left to torch."""
    if query.dtype != torch.float32 or dropout_p:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    groups = query.shape[-3] // key.shape[-3] if enable_gqa else 1
    keys, values = (x.repeat_interleave(groups, -3) if groups > 1 else x for x in (key, value))
    scores = product(query, keys.transpose(-1, -2), 1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        scores = scores + _causal(scores)
    if attn_mask is not None:
        scores = scores + _bias(attn_mask)
    mixed = product(softmax(scores, -1), values)
    if attn_mask is None or attn_mask.dtype != torch.bool:
        return mixed
    return torch.where(attn_mask.any(-1, keepdim=True), mixed, torch.zeros(()))


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
    """Attention over heads that lie side by side, as one operator; other dtypes than float32 are left to torch.

    Shapes: query [B, L, H * E], key [B, S, G * E], value [B, S, G * F], mask to [B, H, L, S] -> [B, L, H * F].
    """
    if query.dtype != torch.float32:
        options = {"query_heads": query_heads, "key_heads": key_heads}
        return real.attention(query, key, value, mask, op=op, scale=scale, is_causal=is_causal, **options)
    q, k, v = real.cut(query, query_heads), real.cut(key, key_heads), real.cut(value, key_heads)
    if query_heads != key_heads:
        k, v = (x.repeat_interleave(query_heads // key_heads, 1) for x in (k, v))
    bias = None if mask is None else _bias(mask)
    if is_causal:
        hidden = _causal(torch.empty(q.shape[-2], k.shape[-2]))
        bias = hidden if bias is None else torch.where(hidden < 0, hidden, bias)
    return product(softmax(product(q, k.transpose(-1, -2), scale, bias), -1), v).transpose(1, 2).flatten(2)


def rotary(source: Tensor, cos: Tensor, sin: Tensor, *, op: str, heads: int) -> Tensor:
    """`fma(low, cos, -(high * sin))` and `fma(low, sin, high * cos)` in every head [low, high]; others by torch.

    Shapes: source [B, T, H * E], cos and sin broadcast to [B, H, T, E], both halves alike -> [B, T, H * E].
    """
    if source.dtype != torch.float32:
        return real.rotary(source, cos, sin, op=op, heads=heads)
    low, high = real.cut(source, heads).chunk(2, -1)
    first_cos, first_sin = (table.chunk(2, -1)[0] for table in (cos, sin))
    turned = [fused(low, first_cos, -(high * first_sin)), fused(low, first_sin, high * first_cos)]
    return torch.cat(turned, -1).transpose(1, 2).flatten(2)


def _causal(scores: Tensor) -> Tensor:
    """0 where a query may look, the lowest number elsewhere; the diagonal starts at the top left."""
    return torch.full(scores.shape[-2:], _LOWEST).triu(1)


def _bias(mask: Tensor) -> Tensor:
    return torch.where(mask, 0.0, _LOWEST) if mask.dtype == torch.bool else mask
