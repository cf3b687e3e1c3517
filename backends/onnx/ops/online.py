"""Changes of basis that run with the model, as reshapes and products with small constant matrices."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitter
from qcompiler.hadamard import factors


def _hadamard(context: Context, call: Call) -> ir.Value:
    """One product per Kronecker factor of the matrix; half precision is summed in float32."""
    dtype, block = call.tensor("x").dtype, call.integer("block")
    wide = torch.promote_types(dtype, torch.float32)
    value = context.cast(context.value(call.node_at("x")), dtype, wide)
    signs = call.optional("signs")
    if signs is not None:
        value = context.op("Mul", [value, context.cast(context.value(signs), dtype, wide)])
    matrices = [factor.to(wide) for factor in factors(block)]
    matrices[-1] = matrices[-1] / math.sqrt(block)
    done, shaped = 1, False
    for number, matrix in enumerate(matrices):
        size = len(matrix)
        rest = block // (done * size)
        done *= size
        key = ("hadamard", block, number, wide)
        constant = context.memo_constant(
            key, lambda m=matrix, r=rest: context.constant(m if r == 1 else m.T.contiguous(), "hadamard")
        )
        if rest == 1 and len(matrices) == 1 and call.shape("x")[-1] == block:
            value = context.op("MatMul", [value, constant])
            continue
        shaped = True
        value = context.op("Reshape", [value, context.ints([-1, size] if rest == 1 else [-1, size, rest])])
        value = context.op("MatMul", [value, constant] if rest == 1 else [constant, value])
    return context.cast(_restored(context, call, value) if shaped else value, wide, dtype)


def _kronecker(context: Context, call: Call) -> ir.Value:
    """The axis as a matrix, a product on either side."""
    left, right = call.optional("left"), call.optional("right")
    channels = call.type.shape[-1]
    outer = _side(call, "left") or int(str(channels)) // _side(call, "right")
    inner = int(str(channels)) // outer
    value = context.op("Reshape", [context.value(call.node_at("x")), context.ints([-1, outer, inner])])
    if left is not None:
        turned = context.op("Transpose", [context.value(left)], {"perm": [1, 0]})
        value = context.op("MatMul", [turned, value])
    if right is not None:
        value = context.op("MatMul", [value, context.value(right)])
    return _restored(context, call, value)


def _side(call: Call, name: str) -> int:
    """Size of a square factor, 0 when it is absent."""
    size = call.shape(name)[0] if call.optional(name) is not None else 0
    return size if isinstance(size, int) else 0


def _restored(context: Context, call: Call, value: ir.Value) -> ir.Value:
    """The value in the shape of the operator's input."""
    shape = call.shape("x")
    if sum(not isinstance(dim, int) for dim in shape) > 1:
        return context.op("Reshape", [value, context.shared("Shape", [context.value(call.node_at("x"))])])
    return context.op("Reshape", [value, context.ints([dim if isinstance(dim, int) else -1 for dim in shape])])


EMITTERS: dict[str, Emitter] = {"qc.hadamard": _hadamard, "qc.kronecker": _kronecker}
