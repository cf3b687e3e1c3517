"""Quantize, dequantize and run-time scales as ONNX quantization operators, or as arithmetic.

Codes that are known become integer initializers; only their dequantization is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Attribute, Context, Emitted, Emitter
from qcompiler.backends.onnx.dtypes import as_numpy, container, is_native, onnx_dtype, tight_float, tight_integer
from qcompiler.backends.onnx.unpack import is_stored, unpacked
from qcompiler.errors import UnsupportedError
from qcompiler.formats import scale_format
from qcompiler.ir import ops
from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim
from qcompiler.spec import QuantSpec, quantize

# Since this operator set DequantizeLinear knows blocks and integers of 16 bits.
BLOCKED_OPSET = 21
LayoutKind = Literal["tensor", "channel", "blocked", "broadcast"]


@dataclass(frozen=True)
class Layout:
    """How ONNX sees the blocks of a spec.

    Args:
        kind: one scale; one per slice of `axis`; one per `size` elements along `axis`; or shaped to
            broadcast, which QuantizeLinear cannot say and arithmetic can.
        axis: the axis of `channel` and `blocked`.
        size: elements per scale of `blocked`.
    """

    kind: LayoutKind
    axis: int = 0
    size: int = 0

    @property
    def attributes(self) -> Mapping[str, Attribute]:
        """Attributes of QuantizeLinear and DequantizeLinear."""
        if self.kind == "tensor":
            return {}
        return {"axis": self.axis} | ({"block_size": self.size} if self.kind == "blocked" else {})


def layout_of(spec: QuantSpec, shape: Sequence[Dim]) -> Layout:
    """The ONNX layout of the scales of a tensor.

    Raises:
        UnsupportedError: for several levels of scales, or blocks along several axes.
    """
    if len(spec.levels) > 1:
        raise UnsupportedError(f"ONNX has no scales of scales: {spec}", mend="use a spec with one level")
    split, grouped, whole = [], [], []
    for axis, (extent, size) in enumerate(zip(spec.block, shape, strict=True)):
        if size == 1:
            continue
        if extent == -1 or (isinstance(size, int) and extent >= size):
            whole.append(axis)
        else:
            (split if extent == 1 else grouped).append(axis)
    if not split and not grouped:
        return Layout("tensor")
    if not grouped and len(split) == 1:
        return Layout("channel", split[0])
    if len(grouped) == 1 and not whole:
        return Layout("blocked", grouped[0], spec.block[grouped[0]])
    length = shape[whole[0]] if len(whole) == 1 else None
    if not grouped and isinstance(length, int):
        return Layout("blocked", whole[0], length)
    if grouped:
        raise UnsupportedError(
            f"ONNX has no blocks of {spec.block} on a tensor of shape {list(shape)}",
            mend="group along one axis",
        )
    return Layout("broadcast")


def known_codes(context: Context, node: Node) -> Callable[[], torch.Tensor] | None:
    """What computes the codes of a node from parameters alone; None when they depend on an input."""
    program = context.program
    if node.op == "get_attr":
        return lambda: program.param(node)
    if node.target is not ops.quantize:
        return None
    bound = program.bind(node)
    x, scale, zero_point = (program.constant(bound[name]) for name in ("x", "scale", "zero_point"))
    spec: object = bound["spec"]
    if x is None or scale is None or (zero_point is None) != (bound["zero_point"] is None):
        return None
    return (lambda: quantize(x, scale, zero_point, spec)) if isinstance(spec, QuantSpec) else None


def codes_value(context: Context, node: Node, *, transposed: bool = False) -> ir.Value:
    """The codes of a node as integers: an initializer when they are known, transposed on request (rank 2)."""
    make = known_codes(context, node)
    if node.op == "get_attr" or make is None:
        return context.parameter(node, transposed=transposed) if node.op == "get_attr" else context.value(node)
    type_ = context.program.tensor_type(node)
    shape = [int(dim) for dim in type_.shape]
    spec = type_.spec
    if spec is None:
        raise UnsupportedError(f"'%{node.name}' holds no codes", step="write onnx")
    dtype = container(spec.format, context.opset, stored=True)

    def codes() -> np.ndarray:
        return as_numpy(make().t() if transposed else make()).astype(dtype.numpy())

    return context.memo(
        ("codes", node.name, transposed),
        lambda: context.lazy(codes, dtype, shape[::-1] if transposed else shape, f"{node.name}.codes"),
    )


def scale_value(context: Context, node: Node, layout: Layout, *, transposed: bool = False) -> ir.Value:
    """A scale in the rank that `layout` asks for."""
    constant = context.program.constant(node)
    if constant is not None:
        return context.constant(_arranged(constant, layout, transposed), str(node.target))
    return _computed(context, node, layout)


def zero_value(
    context: Context,
    node: Node | None,
    scale: ir.Value,
    layout: Layout,
    dtype: ir.DataType,
    *,
    transposed: bool = False,
) -> ir.Value | None:
    """A zero point in the type of the codes; without one explicit zeros, which onnxruntime's kernels want."""
    if node is None:
        shape = scale.shape
        if layout.kind not in ("tensor", "channel") or shape is None or not shape.is_static():
            return None
        return context.constant(np.zeros(shape.numpy(), dtype.numpy()), "zero_point")
    constant = context.program.constant(node)
    if constant is not None:
        typed = as_numpy(_arranged(constant, layout, transposed)).astype(dtype.numpy())
        return context.constant(typed, str(node.target))
    computed = _computed(context, node, layout)
    return computed if computed.dtype == dtype else context.op("Cast", [computed], {"to": dtype.value})


def _arranged(constant: torch.Tensor, layout: Layout, transposed: bool) -> torch.Tensor:
    turned = constant.t() if transposed else constant
    if layout.kind == "tensor":
        return turned.reshape(())
    return turned.reshape(-1) if layout.kind == "channel" else turned


def _computed(context: Context, node: Node, layout: Layout) -> ir.Value:
    dynamic = _dynamic_source(context, node)
    if dynamic is not None and layout.kind == "tensor":
        return dynamic[1 + int(str(node.args[1]))]
    if layout.kind in ("tensor", "channel"):
        sizes = context.ints([] if layout.kind == "tensor" else [-1])
        return context.shared("Reshape", [context.value(node), sizes])
    return context.value(node)


def _dynamic_source(context: Context, node: Node | None) -> list[ir.Value] | None:
    """Codes, scale and zero point of the DynamicQuantizeLinear that `node` is a result of."""
    if node is None or node.op != "call_function" or context.program.op(node) != ops.GETITEM:
        return None
    source = node.args[0]
    if not isinstance(source, Node) or source.target is not ops.choose_qparams:
        return None
    return context.results(source)[2:] or None


def _scale_node(call: Call) -> Node:
    scale = call.raw("scale")
    if isinstance(scale, list | tuple) and len(scale) == 1:
        scale = scale[0]
    if not isinstance(scale, Node):
        raise call.unsupported("scales of scales", "use a spec with one level")
    return scale


def _quantize(context: Context, call: Call) -> ir.Value:
    spec, x = call.spec(), call.node_at("x")
    if known_codes(context, call.node) is not None:
        return codes_value(context, call.node)
    scale_node, zero_node = _scale_node(call), call.optional("zero_point")
    dynamic = _dynamic_source(context, scale_node)
    layout = layout_of(spec, call.shape("x"))
    if dynamic is not None and _same_source(context, scale_node, x, spec):
        return dynamic[0]
    if layout.kind == "broadcast" or not is_native(spec.format, context.opset):
        return _quantize_by_arithmetic(context, call, scale_node, layout)
    dtype = container(spec.format, context.opset, stored=False)
    scale = _typed_scale(context, call, scale_node, layout)
    zero = zero_value(context, zero_node, scale, layout, dtype)
    attributes = dict(layout.attributes) | ({"output_dtype": dtype.value} if zero is None else {})
    codes = context.op("QuantizeLinear", [context.value(x), scale, zero], attributes)
    codes.type = ir.TensorType(dtype)
    return codes


def _same_source(context: Context, scale: Node, x: Node, spec: QuantSpec) -> bool:
    chosen = scale.args[0]
    bound = context.program.bind(chosen) if isinstance(chosen, Node) else {}
    return bound.get("x") is x and bound.get("spec") == spec


def _typed_scale(context: Context, call: Call, node: Node, layout: Layout) -> ir.Value:
    """The scale in the dtype of the real tensor, as the ONNX operators ask."""
    scale = scale_value(context, node, layout)
    source = context.program.tensor_type(node).dtype
    return context.cast(scale, source, call.type.dtype)


def _quantize_by_arithmetic(context: Context, call: Call, scale_node: Node, layout: Layout) -> ir.Value:
    spec, dtype, number = call.spec(), call.type.dtype, call.spec().format
    if layout.kind == "blocked" or not number.is_integer:
        raise call.unsupported(f"computing codes of {spec}", "use 4 or 8 bits, or one scale per tensor or channel")
    scale = context.operand(scale_node, dtype)
    codes = context.op("Round", [context.op("Div", [context.value(call.node_at("x")), scale])])
    zero = call.optional("zero_point")
    if zero is not None:
        codes = context.op("Add", [codes, context.operand(zero, dtype)])
    limits = [context.scalar(number.lowest, dtype), context.scalar(number.highest, dtype)]
    stored = container(number, context.opset, stored=False)
    integers = context.op("Cast", [context.op("Clip", [codes, *limits])], {"to": stored.value})
    integers.type = ir.TensorType(stored)
    return integers


def _dequantize(context: Context, call: Call) -> ir.Value:
    spec, source = call.spec(), call.node_at("codes")
    make = known_codes(context, source)
    if make is not None and not (_has_operator(context, call) and _read_by_kernel(context, call.node)):
        name = str(source.target) if source.op == "get_attr" else f"{source.name}.codes"
        return unpacked(context, call, make, name)
    codes = codes_value(context, source)
    dtype = codes.dtype or container(spec.format, context.opset, stored=False)
    layout = layout_of(spec, call.shape("codes"))
    scale_node, zero_node = _scale_node(call), call.optional("zero_point")
    if layout.kind == "broadcast":
        return _dequantize_by_arithmetic(context, call, codes, scale_node)
    scale = _typed_scale(context, call, scale_node, layout)
    zero = zero_value(context, zero_node, scale, layout, dtype)
    return context.op("DequantizeLinear", [codes, scale, zero], layout.attributes)


def _has_operator(context: Context, call: Call) -> bool:
    """Whether DequantizeLinear can say it, on codes that take no more space in the file than they need."""
    spec = call.spec()
    tight = tight_integer(spec.format, context.opset) is not None and (
        spec.bits != 16 or context.opset >= BLOCKED_OPSET
    )
    if len(spec.levels) > 1 or not (tight or _is_float(context, spec)):
        return False
    try:
        kind = layout_of(spec, call.shape("codes")).kind
    except UnsupportedError:
        return False
    return kind in ("tensor", "channel") or (kind == "blocked" and context.opset >= BLOCKED_OPSET)


def _is_float(context: Context, spec: QuantSpec) -> bool:
    return tight_float(spec.format, context.opset, context.four_bit_floats) is not None


def _read_by_kernel(context: Context, node: Node) -> bool:
    """Whether a runtime may look for the codes: an operator on inputs reads them, and was not told to compute in float.

    What only puts a weight together is better written so that it is computed once: runtimes keep DequantizeLinear.
    """
    readers = [user for user in node.users if user in context.varying]
    return any(not is_stored(user.meta.get("assignment")) for user in readers) or not node.users


def _dequantize_by_arithmetic(context: Context, call: Call, codes: ir.Value, scale: Node) -> ir.Value:
    dtype = call.type.dtype
    reals = context.op("Cast", [codes], {"to": onnx_dtype(dtype).value})
    zero = call.optional("zero_point")
    if zero is not None:
        reals = context.op("Sub", [reals, context.operand(zero, dtype)])
    return context.op("Mul", [reals, context.operand(scale, dtype)])


def _choose_qparams(context: Context, call: Call) -> Emitted:
    """Scale and zero point in the program's shape; then, for DynamicQuantizeLinear, its own three results."""
    spec, shape = call.spec(), call.shape("x")
    level = spec.levels[0]
    if len(spec.levels) > 1 or level.scale != "f32" or any(extent not in (-1, 1) for extent in level.block):
        raise call.unsupported(f"run-time scales of {spec}", "use float32 scales per tensor, channel or token")
    x = context.operand(call.node_at("x"), torch.float32)
    if spec.format.name == "uint8" and not spec.symmetric and layout_of(spec, shape).kind == "tensor":
        codes, scale, zero = context.ops("DynamicQuantizeLinear", [x], outputs=3)
        codes.type = zero.type = ir.TensorType(ir.DataType.UINT8)
        ones = context.ints([1] * len(shape))
        typed = context.op("Cast", [zero], {"to": ir.DataType.FLOAT.value})
        return [
            context.op("Reshape", [scale, ones]),
            context.op("Reshape", [typed, ones]),
            codes,
            scale,
            zero,
        ]
    return _ranges(context, x, spec)


def _ranges(context: Context, x: ir.Value, spec: QuantSpec) -> list[ir.Value]:
    """The formula of `qparams_from_range` for one level of float32 scales."""
    number = spec.format
    axes = context.ints([axis for axis, extent in enumerate(spec.block) if extent == -1])
    keep: dict[str, Attribute] = {"keepdims": 1, "noop_with_empty_axes": 1}
    zero, one = context.scalar(0, torch.float32), context.scalar(1, torch.float32)
    low = context.op("Min", [context.op("ReduceMin", [x, axes], keep), zero])
    high = context.op("Max", [context.op("ReduceMax", [x, axes], keep), zero])
    spread, steps = _spread(context, spec, low, high)
    empty = context.op("Equal", [spread, zero])
    ideal = context.op("Div", [spread, context.scalar(steps, torch.float32)])
    smallest = context.scalar(scale_format("f32").smallest, torch.float32)
    scale = context.op("Where", [empty, one, context.op("Max", [ideal, smallest])])
    if spec.symmetric:
        return [scale, context.op("Mul", [low, zero])]
    lowest, highest = (context.scalar(limit, torch.float32) for limit in (number.lowest, number.highest))
    offset = context.op("Round", [context.op("Sub", [lowest, context.op("Div", [low, scale])])])
    return [scale, context.op("Where", [empty, zero, context.op("Clip", [offset, lowest, highest])])]


def _spread(context: Context, spec: QuantSpec, low: ir.Value, high: ir.Value) -> tuple[ir.Value, float]:
    """The extent that all steps of the format must cover, and their number."""
    if not spec.symmetric:
        return context.op("Sub", [high, low]), spec.format.highest - spec.format.lowest
    if not spec.format.signed:
        return high, spec.format.highest
    return context.op("Max", [context.op("Neg", [low]), high]), spec.format.highest


EMITTERS: dict[str, Emitter] = {
    "qc.quantize": _quantize,
    "qc.dequantize": _dequantize,
    "qc.choose_qparams": _choose_qparams,
}
