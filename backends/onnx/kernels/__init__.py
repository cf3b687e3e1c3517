"""How each kernel is written as ONNX; what it computes stands in `backends.reference` under the same name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, KernelEmitter
from qcompiler.backends.onnx.kernels import attention, dense, moving, weights
from qcompiler.backends.onnx.kernels.operands import on_reals
from qcompiler.backends.onnx.settings import Settings

Writer = Callable[[Context, Call, Settings], ir.Value]

WRITERS: Mapping[str, Writer] = {
    "conv": on_reals,
    "conv_transpose": on_reals,
    "linear": dense.linear,
    "linear_dynamic": dense.linear_dynamic,
    "linear_weight_only": weights.linear,
    "embedding_weight_only": weights.embedding,
    "conv_wide": on_reals,
    "linear_wide": dense.linear_wide,
    "matmul": on_reals,
    "add": on_reals,
    "mul": on_reals,
    "cat": on_reals,
    "table": on_reals,
    "global_mean": moving.global_mean,
    "average_pool": on_reals,
    "attention": attention.attention,
    "rotary": attention.rotary,
    "carry": moving.carry,
    "resize": moving.carry,
    "limit": moving.limit,
    "pad": moving.pad,
}


def kernel_emitters(settings: Settings) -> dict[str, KernelEmitter]:
    """The emitters of all kernels under the settings of a target."""
    return {name: _bound(write, settings) for name, write in WRITERS.items()}


def _bound(write: Writer, settings: Settings) -> KernelEmitter:
    return lambda context, call: write(context, call, settings)
