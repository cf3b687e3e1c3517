"""Operators that the ONNX standard itself defines by other operators, written out as those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import onnx
import onnx_ir
from onnx_ir.passes.common import InlinePass

from qcompiler.frontends.onnx_ops.context import Known, OpContext, Value
from qcompiler.frontends.onnx_ops.tensors import onnx_dtype_of
from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim, TensorType

_SUFFIX = "_body"


class _Schema(Protocol):
    """What is read of `onnx.defs.OpSchema`, whose stubs lack the functions."""

    has_function: bool
    has_context_dependent_function: bool
    function_opset_versions: Sequence[int]
    context_dependent_function_opset_versions: Sequence[int]
    attributes: Mapping[str, onnx.defs.OpSchema.Attribute]

    def get_function_with_opset_version(self, version: int) -> bytes: ...

    def get_context_dependent_function_with_opset_version(
        self, version: int, node: bytes, types: Sequence[bytes]
    ) -> bytes: ...


def has_body(op_type: str, version: int) -> bool:
    """Whether the standard defines this operator by others."""
    schema = _schema(op_type, version)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def body_of(ctx: OpContext) -> tuple[onnx_ir.Model, list[int]] | None:
    """The definition of a node: a model whose graph has the node's inputs, absent ones left out.

    Returns:
        the model and which of the node's outputs its results are; None when the standard defines the operator in words
        alone, or not for these element types, or knows nothing of one of the node's inputs or attributes.
    """
    schema = _schema(ctx.node.op_type, ctx.version)
    if schema is None or not set(ctx.node.attributes) <= set(schema.attributes):
        return None
    proto = _function(schema, ctx)
    if proto is None or len(ctx.node.inputs) > len(proto.input):
        return None
    return _inlined(ctx, proto)


def _schema(op_type: str, version: int) -> _Schema | None:
    try:
        return cast(_Schema, onnx.defs.get_schema(op_type, version, ""))
    except onnx.defs.SchemaError:
        return None


def _function(schema: _Schema, ctx: OpContext) -> onnx.FunctionProto | None:
    if schema.has_function:
        version = _closest(schema.function_opset_versions, ctx.version)
        return _parsed(schema.get_function_with_opset_version(version))
    if not schema.has_context_dependent_function:
        return None
    node = onnx_ir.to_proto(ctx.node).SerializeToString()
    types = [_type_bytes(ctx, value) for value in ctx.inputs]
    version = _closest(schema.context_dependent_function_opset_versions, ctx.version)
    return _parsed(schema.get_context_dependent_function_with_opset_version(version, node, types))


def _closest(versions: Sequence[int], wanted: int) -> int:
    """The newest version up to the wanted one, or the oldest: the operator is the same in all of them."""
    return max((version for version in versions if version <= wanted), default=min(versions))


def _parsed(serialized: bytes) -> onnx.FunctionProto | None:
    proto = onnx.FunctionProto()
    proto.ParseFromString(serialized)
    return proto if proto.node else None


def _type_bytes(ctx: OpContext, value: Value | None) -> bytes:
    proto = onnx.TypeProto()
    if value is not None:
        dtype, shape = _typed(ctx, value)
        proto.tensor_type.elem_type = dtype
        proto.tensor_type.shape.SetInParent()
        for dim in shape:
            entry = proto.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                entry.dim_value = dim
            else:
                entry.dim_param = str(dim)
    return proto.SerializeToString()


def _typed(ctx: OpContext, value: Value) -> tuple[int, Sequence[Dim]]:
    if isinstance(value, Node):
        type_ = ctx.emitter.program.type(value)
        if isinstance(type_, TensorType):
            return onnx_dtype_of(type_.dtype), type_.shape
        return onnx.TensorProto.UNDEFINED, ()
    if isinstance(value, Known):
        return onnx_dtype_of(value.tensor.dtype), tuple(value.tensor.shape)
    return onnx_dtype_of(value.dtype), value.items.shape


def _inlined(ctx: OpContext, proto: onnx.FunctionProto) -> tuple[onnx_ir.Model, list[int]]:
    """A model of one node that calls the function, after inlining: attributes are put in their places."""
    proto.name += _SUFFIX  # a body may use the operator that it defines
    made = {name for node in proto.node for name in node.output}
    kept = [index for index, name in enumerate(proto.output) if name in made and index < len(ctx.node.outputs)]
    names = [proto.output[index] for index in kept]
    del proto.output[:]
    proto.output.extend(names)
    function = onnx_ir.from_proto(proto)
    given = [value.name if value is not None else None for value in ctx.node.inputs]
    outer = {
        value.name: onnx_ir.Value(name=value.name, type=value.type) for value in ctx.node.inputs if value is not None
    }
    outputs = [onnx_ir.Value(name=f"{ctx.node.outputs[index].name or ctx.name}{index}") for index in kept]
    attributes = _attributes(ctx)
    call = onnx_ir.Node(
        proto.domain, proto.name, [outer[name] if name else None for name in given], attributes, outputs=outputs
    )
    graph = onnx_ir.Graph(
        list(outer.values()), outputs, nodes=[call], opset_imports=dict(function.opset_imports), name="body"
    )
    model = onnx_ir.Model(graph, ir_version=10, functions=[function])
    InlinePass()(model)
    return model, kept


def _attributes(ctx: OpContext) -> list[onnx_ir.Attr]:
    """The node's attributes, defaults filled in: a body may refer to any of them."""
    schema = _schema(ctx.node.op_type, ctx.version)
    defaults = {} if schema is None else {name: item.default_value for name, item in schema.attributes.items()}
    stated = [onnx_ir.from_proto(value) for name, value in defaults.items() if value.name]
    given = [value for value in ctx.node.attributes.values() if value.type != onnx_ir.AttributeType.GRAPH]
    return [*given, *(value for value in stated if value.name not in ctx.node.attributes)]
