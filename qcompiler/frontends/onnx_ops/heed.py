"""Nothing is passed over in silence: what a node says and its import function never looked at is refused."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from qcompiler.frontends.onnx_ops.context import Known, OpContext, Result, Value

# Settings that change nothing in inference, or nothing in the form that was chosen.
HARMLESS: dict[str, frozenset[str | int]] = {
    "BatchNormalization": frozenset({"momentum", "is_test", "consumed_inputs"}),
    "Cast": frozenset({"round_mode"}),
    "CastLike": frozenset({"round_mode"}),
    "Conv": frozenset({"kernel_shape"}),
    "ConvInteger": frozenset({"kernel_shape"}),
    "ConvTranspose": frozenset({"kernel_shape"}),
    "Dropout": frozenset({"ratio", "seed", "is_test", 1}),
    "LayerNormalization": frozenset({"stash_type"}),
    "GroupNormalization": frozenset({"stash_type"}),
    "MaxPool": frozenset({"storage_order"}),
    "QLinearConv": frozenset({"kernel_shape"}),
    "Resize": frozenset({"extrapolation_value", "cubic_coeff_a", "nearest_mode", "exclude_outside", 1}),
    "RMSNormalization": frozenset({"stash_type"}),
    "Split": frozenset({"num_outputs"}),
}


def heeded(operator: Callable[[OpContext], Result], ctx: OpContext) -> Result:
    """What `operator` makes of a node.

    Raises:
        UnsupportedError: when the node has an input or an attribute that the operator did not look at, unless the
            attribute has its default value.
    """
    results = operator(ctx)
    harmless = HARMLESS.get(ctx.node.op_type, frozenset())
    seen = ctx.read | harmless
    inputs = [index for index, value in enumerate(ctx.inputs) if index not in seen and not _is_empty(value)]
    if inputs:
        raise ctx.refuse(f"input {inputs[0]} is not supported")
    for name in ctx.node.attributes:
        if name not in seen and not _is_default(ctx, name):
            raise ctx.refuse(f"attribute '{name}' is not supported")
    return results


def _is_empty(value: Value | None) -> bool:
    return value is None or (isinstance(value, Known) and value.tensor.numel() == 0)


def _is_default(ctx: OpContext, name: str) -> bool:
    try:
        schema = onnx.defs.get_schema(ctx.node.op_type, ctx.version, ctx.node.domain)
    except onnx.defs.SchemaError:
        return False
    stated = schema.attributes.get(name)
    if stated is None or not stated.default_value.name:
        return False
    return onnx.helper.get_attribute_value(stated.default_value) == _plain(ctx.node.attributes[name].value)


def _plain(value: object) -> object:
    if isinstance(value, str):
        return value.encode()
    return list(value) if isinstance(value, tuple) else value
