"""The attention operators of opset 23 and later."""

from __future__ import annotations

from collections.abc import Callable

from qcompiler.frontends.onnx_ops.context import OpContext, Result, Value
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]


def attention(ctx: OpContext) -> Result:
    """Attention (opset 23): whole, with an optional mask and key/value cache.

    Inputs are `[batch, heads, tokens, width]`, or `[batch, tokens, heads * width]` with the head counts as attributes.
    """
    if ctx.real("softcap", 0.0) or len(ctx.node.outputs) > 3:
        raise ctx.refuse("softcap and the product of query and key as a result are not supported")
    flat = ctx.rank(ctx.tensor(0)) == 3
    heads = [ctx.integer(f"{name}_num_heads", 0) for name in ("q", "kv", "kv")]
    query, key, value = (_to_heads(ctx, ctx.tensor(index), heads[index]) for index in range(3))
    causal = bool(ctx.integer("is_causal", 0))
    if ctx.has(4):
        if causal:
            raise ctx.refuse(
                "is_causal together with a key/value cache is not supported", mend="export an explicit mask"
            )
        key = ctx.call("aten.cat", [ctx.tensor(4), key], 2)
        value = ctx.call("aten.cat", [ctx.tensor(5), value], 2)
    attribute = ctx.attribute("scale")
    options = {
        "scale": attribute.as_float() if attribute else None,
        "enable_gqa": ctx.shape(query)[1] != ctx.shape(key)[1],
    }
    mask = ctx.optional(3)
    if mask is not None and (causal or ctx.shape(mask)[-1] != ctx.shape(key)[2] or ctx.rank(mask) < 2):
        raise ctx.refuse("a mask beside is_causal, or one for a part of the keys alone, is not supported")
    mixed = ctx.call("aten.scaled_dot_product_attention", query, key, value, mask, 0.0, causal, kwargs=options)
    present: list[Value | None] = [key, value] if len(ctx.node.outputs) > 1 else []
    return [_from_heads(ctx, mixed) if flat else mixed, *present]


def _to_heads(ctx: OpContext, x: Node, heads: int) -> Node:
    if ctx.rank(x) == 4:
        return x
    batch, tokens, width = ctx.shape(x)
    each = ctx.static(width, "the width of attention") // heads
    apart = ctx.call("aten.reshape", x, [ctx.size(batch), ctx.size(tokens), heads, each])
    return ctx.call("aten.permute", apart, [0, 2, 1, 3])


def _from_heads(ctx: OpContext, x: Node) -> Node:
    batch, heads, tokens, width = ctx.shape(x)
    joined = ctx.size(heads * width)
    return ctx.call(
        "aten.reshape", ctx.call("aten.permute", x, [0, 2, 1, 3]), [ctx.size(batch), ctx.size(tokens), joined]
    )


def rotary(ctx: OpContext) -> Result:
    """RotaryEmbedding (opset 23): rotates pairs of features by the angle of their position.

    Pairs are the two halves of the rotated part, or neighbours when `interleaved`. Source: Su et al., arXiv:2104.09864.
    """
    x = ctx.tensor(0)
    flat = ctx.rank(x) == 3
    x = _to_heads(ctx, x, ctx.integer("num_heads", 0)) if flat else x
    width = ctx.static(ctx.shape(x)[3], "the width of a head")
    turned = ctx.integer("rotary_embedding_dim", 0) or width
    cosine, sine = (_angles(ctx, index) for index in (1, 2))
    head = ctx.call("aten.slice.Tensor", x, 3, 0, turned, 1) if turned < width else x
    result = (_turn_neighbours if ctx.integer("interleaved", 0) else _turn_halves)(ctx, head, cosine, sine, turned)
    if turned < width:
        result = ctx.call("aten.cat", [result, ctx.call("aten.slice.Tensor", x, 3, turned, width, 1)], 3)
    return _from_heads(ctx, result) if flat else result


def _angles(ctx: OpContext, index: int) -> Node:
    """`[batch, 1, tokens, pairs]`: looked up by position when positions are given."""
    cache = ctx.tensor(index)
    if ctx.has(3):
        cache = ctx.call("aten.index.Tensor", cache, [ctx.tensor(3)])
    return ctx.call("aten.unsqueeze", cache, 1)


def _rotate(ctx: OpContext, first: Node, second: Node, cosine: Node, sine: Node) -> list[Node]:
    def mix(left: Node, right: Node, op: str) -> Node:
        return ctx.call(op, left, right)

    real = mix(mix(first, cosine, "aten.mul.Tensor"), mix(second, sine, "aten.mul.Tensor"), "aten.sub.Tensor")
    imaginary = mix(mix(first, sine, "aten.mul.Tensor"), mix(second, cosine, "aten.mul.Tensor"), "aten.add.Tensor")
    return [real, imaginary]


def _turn_halves(ctx: OpContext, x: Node, cosine: Node, sine: Node, width: int) -> Node:
    half = width // 2
    first, second = (ctx.call("aten.slice.Tensor", x, 3, start, start + half, 1) for start in (0, half))
    return ctx.call("aten.cat", _rotate(ctx, first, second, cosine, sine), 3)


def _turn_neighbours(ctx: OpContext, x: Node, cosine: Node, sine: Node, width: int) -> Node:
    first, second = (ctx.call("aten.slice.Tensor", x, 3, start, width, 2) for start in (0, 1))
    pairs = [ctx.call("aten.unsqueeze", part, 4) for part in _rotate(ctx, first, second, cosine, sine)]
    return ctx.call("aten.reshape", ctx.call("aten.cat", pairs, 4), [ctx.size(dim) for dim in ctx.shape(x)])


ATTENTION: dict[str, Operator] = {"Attention": attention, "RotaryEmbedding": rotary}
