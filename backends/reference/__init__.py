"""What every kernel computes, in plain integer torch: the oracle of all backends.

A kernel call passes the arguments of its ATen operator in order, quantized ones as `[codes, scale, zero point]`, and
by name: `op` the operator, `result` the scale and zero point of the result (absent when it is float), `low` and `high`
its smallest and largest code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qcompiler.backends.reference import attention, dense, moving, pointwise, pooling, product, weights, wide

MEANINGS: Mapping[str, Callable[..., object]] = {
    "conv": dense.conv,
    "conv_transpose": dense.conv,
    "linear": dense.linear,
    "linear_dynamic": dense.linear,
    "linear_weight_only": weights.linear,
    "embedding_weight_only": weights.embedding,
    "conv_wide": wide.layer,
    "linear_wide": wide.layer,
    "matmul": product.matmul,
    "add": pointwise.add,
    "mul": pointwise.mul,
    "cat": pointwise.cat,
    "table": pointwise.table,
    "global_mean": pooling.global_mean,
    "average_pool": pooling.average,
    "attention": attention.attention,
    "rotary": attention.rotary,
    "carry": moving.carry,
    "resize": moving.carry,
    "limit": moving.limit,
    "pad": moving.pad,
}
