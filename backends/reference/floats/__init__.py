"""Operators that stay in float, in the order in which onnxruntime adds up, multiplies and rounds.

For the simulation of what ships alone: the interpreter otherwise computes what torch does. Keys are ATen operators, and
kernels whose meaning is replaced. Where a sum's order depends on the machine, it is that of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qcompiler.backends.reference.floats import activation, attention, norm, product, softmax, weights

FLOAT_MEANINGS: Mapping[str, Callable[..., object]] = {
    "aten.rms_norm": norm.rms_norm,
    "aten.layer_norm": norm.layer_norm,
    "aten.softmax.int": softmax.softmax,
    "aten.scaled_dot_product_attention": attention.scaled_dot_product_attention,
    "aten.matmul": product.matmul,
    "aten.mm": product.matmul,
    "aten.bmm": product.matmul,
    "aten.erf": activation.erf,
    "aten.gelu": activation.gelu,
    "aten.tanh": activation.tanh,
    "aten.sigmoid": activation.sigmoid,
    "aten.silu": activation.silu,
    "attention": attention.attention,
    "rotary": attention.rotary,
}

LINEAR_MEANINGS: Mapping[str, Callable[..., object]] = {
    "aten.linear": product.linear,
    "linear_weight_only": weights.linear,
}
"""Linear layers that stay in float: to the bit, but some fifty times slower than a library's matrix product, which
differs from them by a few roundings. Whoever needs them adds them."""
