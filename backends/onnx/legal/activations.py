"""Rules for activations: their signs, and limits in front of a quantizer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qcompiler.backends.onnx.legal.edit import Editor, Grid, Rule, grid_of, input_at, known, maker, only_reader, readers

_OFFSET = 128
_PRODUCTS = ("Conv", "Gemm")
_COMBINING = ("Add", "Concat", "Mul", "Where")


def write_unsigned(editor: Editor, node: ir.Node) -> bool:
    """Signed codes of an activation become unsigned ones, 128 higher; the reals stay what they are."""
    grid = grid_of(node) if node.op_type == "QuantizeLinear" else None
    if grid is None or grid.dtype != ir.DataType.INT8 or not grid.single or known(node.inputs[0]) is not None:
        return False
    codes = node.outputs[0]
    pairs = [(reader, grid_of(reader)) for reader in readers(codes)]
    plain = all(reader.op_type == "DequantizeLinear" and found is not None and found.single for reader, found in pairs)
    if not pairs or not plain or codes.is_graph_output():
        return False
    for owner, found in ((node, grid), *pairs):
        if found is not None:
            _raise(editor, owner, found)
    node.attributes.pop("output_dtype", None)
    codes.type = ir.TensorType(ir.DataType.UINT8)
    return True


def write_unsigned_constant(editor: Editor, node: ir.Node) -> bool:
    """Signed codes of a constant that is combined with activations become unsigned ones, as theirs are."""
    grid = grid_of(node) if node.op_type == "DequantizeLinear" else None
    stored = known(node.inputs[0])
    if grid is None or grid.dtype != ir.DataType.INT8 or not grid.single or stored is None:
        return False
    found = readers(node.outputs[0])
    if not found or any(reader.op_type not in _COMBINING for reader in found):
        return False
    codes = (stored.astype(np.int64) + _OFFSET).astype(np.uint8)
    node.replace_input_with(0, editor.constant(codes, node.inputs[0].name or "codes"))  # pyright: ignore[reportOptionalMemberAccess]
    _raise(editor, node, grid)
    return True


def _raise(editor: Editor, owner: ir.Node, grid: Grid) -> None:
    zero = (grid.zero + _OFFSET).astype(np.uint8)
    owner.resize_inputs(3)
    owner.replace_input_with(2, editor.constant(zero, "zero_point"))


def limit_codes(editor: Editor, node: ir.Node) -> bool:
    """Relu or Clip between a product and a quantizer that does not clip as well: the codes are clipped instead."""
    quantizer = only_reader(node.outputs[0], "QuantizeLinear") if node.op_type in ("Relu", "Clip") else None
    product = maker(node.inputs[0], *_PRODUCTS)
    if quantizer is None or product is None or only_reader(product.outputs[0], node.op_type) is None:
        return False
    if maker(product.inputs[0], "DequantizeLinear") is None:
        return False
    grid, bounds = grid_of(quantizer), _bounds(node)
    if grid is None or bounds is None or not grid.single:
        return False
    low, high = (int(code) for code in grid.codes(np.array(bounds, np.float32)))
    smallest, largest = (int(code) for code in grid.codes(np.array((-np.inf, np.inf), np.float32)))
    if (low, high) == (smallest, largest):
        return False
    quantizer.replace_input_with(0, product.outputs[0])
    dtype = grid.dtype.numpy()
    ends = [editor.constant(np.array(end, dtype), "limit") for end in (low, high)]
    codes = quantizer.outputs[0]
    place = _after(editor, quantizer)
    clipped = editor.before(place, "Clip", [codes, *ends])
    clipped.type = ir.TensorType(grid.dtype)
    for use in list(codes.uses()):
        if use.node is not clipped.producer():
            use.node.replace_input_with(use.idx, clipped)
    return True


def _after(editor: Editor, node: ir.Node) -> ir.Node:
    """The node that stands behind another one in the list."""
    following = iter(editor.graph)
    for each in following:
        if each is node:
            return next(following)
    return node


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    """The limits of a Relu or Clip."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    low, high = (input_at(node, position) for position in (1, 2))
    values = [known(end) for end in (low, high)]
    if any(end is not None and value is None for end, value in zip((low, high), values, strict=True)):
        return None
    return (
        -np.inf if values[0] is None else float(values[0].reshape(())),
        np.inf if values[1] is None else float(values[1].reshape(())),
    )


RULES: tuple[Rule, ...] = (
    Rule("write_unsigned", "signed activations stay in float wherever several operators read them", write_unsigned),
    Rule(
        "write_unsigned_constant",
        "an operator between codes of different signs runs in float",
        write_unsigned_constant,
    ),
    Rule(
        "limit_codes",
        "product and activation are fused in float unless the quantizer has zero point 0",
        limit_codes,
    ),
)
