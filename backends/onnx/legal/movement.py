"""Rules for pools, padding, look-ups and weights under float activations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from qcompiler.backends.onnx.dtypes import as_numpy
from qcompiler.backends.onnx.legal.edit import (
    Editor,
    Rule,
    dtype_of,
    grid_of,
    input_at,
    known,
    maker,
    number,
    only_reader,
    plain_gemm,
)
from qcompiler.backends.onnx.names import MICROSOFT
from qcompiler.formats.pack import pack

_PACKED = (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.UINT8)
_LEAST_BLOCK = 16


def mean_as_pool(editor: Editor, node: ir.Node) -> bool:
    """ReduceMean over all spatial axes between codes is GlobalAveragePool."""
    quantizer = only_reader(node.outputs[0], "QuantizeLinear") if node.op_type == "ReduceMean" else None
    source = maker(node.inputs[0], "DequantizeLinear")
    rank = len(node.inputs[0].shape) if node.inputs[0] is not None and node.inputs[0].shape is not None else 0
    grid = grid_of(quantizer)
    if quantizer is None or source is None or rank < 3 or grid is None or not grid.single:
        return False
    listed = known(input_at(node, 1)) if len(node.inputs) > 1 else None
    axes = listed.reshape(-1).tolist() if listed is not None else _listed(node)
    if sorted(axis % rank for axis in axes) != list(range(2, rank)):
        return False
    pooled = editor.before(node, "GlobalAveragePool", [node.inputs[0]])
    if number(node, "keepdims", 1):
        editor.replace(node.outputs[0], pooled)
        return True
    codes = editor.before(node, "QuantizeLinear", [pooled, *quantizer.inputs[1:]])
    codes.type = ir.TensorType(grid.dtype)
    squeezed = editor.before(node, "Squeeze", [codes, editor.constant(np.arange(2, rank), "axes")])
    squeezed.type = codes.type
    editor.replace(quantizer.outputs[0], squeezed)
    return True


def _listed(node: ir.Node) -> list[int]:
    found = node.attributes.get("axes")
    return [] if found is None else [int(axis) for axis in found.as_ints()]


def pool_reals(editor: Editor, node: ir.Node) -> bool:
    """MaxPool in float in front of a quantizer stays there: a sum of one term hides the quantizer from it."""
    quantizer = only_reader(node.outputs[0], "QuantizeLinear") if node.op_type == "MaxPool" else None
    if quantizer is None or maker(node.inputs[0], "DequantizeLinear") is not None:
        return False
    quantizer.replace_input_with(0, editor.before(quantizer, "Sum", [node.outputs[0]]))
    return True


def pad_codes(editor: Editor, node: ir.Node) -> bool:
    """Padding with a constant between two equal grids moves to the codes."""
    mode = node.attributes.get("mode") if node.op_type == "Pad" else None
    constant = node.op_type == "Pad" and (mode is None or mode.value == "constant")
    quantizer = only_reader(node.outputs[0], "QuantizeLinear") if constant else None
    before, after = grid_of(maker(node.inputs[0], "DequantizeLinear")), grid_of(quantizer)
    if quantizer is None or before is None or after is None or not before.single or not before.same(after):
        return False
    stored = input_at(node, 2)
    filling = np.zeros(()) if stored is None else known(stored)
    if filling is None:
        return False
    code = before.codes(filling.reshape(())).astype(before.dtype.numpy())
    inputs = [before.node.inputs[0], node.inputs[1], editor.constant(code, "filling"), input_at(node, 3)]
    padded = editor.before(node, "Pad", inputs if inputs[-1] is not None else inputs[:-1])
    padded.type = ir.TensorType(before.dtype)
    editor.replace(quantizer.outputs[0], padded)
    return True


def look_up_codes(editor: Editor, node: ir.Node) -> bool:
    """Rows of a table are looked up as codes."""
    table = maker(node.inputs[0], "DequantizeLinear") if node.op_type == "Gather" else None
    if table is None or known(table.inputs[0]) is None or number(node, "axis", 0) != 0:
        return False
    if number(table, "block_size", 0):
        return _look_up_blocks(editor, node, table)
    grid = grid_of(table)
    if grid is None or not grid.single:
        return False
    picked = editor.before(node, "Gather", [table.inputs[0], node.inputs[1]], {"axis": 0})
    editor.replace(node.outputs[0], editor.before(node, "DequantizeLinear", [picked, *table.inputs[1:]]))
    return True


def _look_up_blocks(editor: Editor, node: ir.Node, table: ir.Node) -> bool:
    codes = table.inputs[0]
    tensor = codes.const_value if codes is not None else None
    if tensor is None or tensor.dtype not in _PACKED or number(table, "axis", 1) != 1 or len(tensor.shape) != 2:
        return False
    size = int(number(table, "block_size", 0))
    if size < 16 or size & (size - 1):
        return False
    attributes = {
        "block_size": size,
        "gather_axis": 0,
        "quantize_axis": 1,
        "bits": 8 if tensor.dtype == ir.DataType.UINT8 else 4,
    }
    inputs = [codes, node.inputs[1], *table.inputs[1:]]
    editor.replace(node.outputs[0], editor.before(node, "GatherBlockQuantized", inputs, attributes, domain=MICROSOFT))
    return True


def pack_exactly(editor: Editor, node: ir.Node) -> bool:
    """A product with 4-bit weights in blocks and float activations becomes MatMulNBits at the exact level."""
    stored, by_rows = _weight(node)
    codes = known(stored.inputs[0]) if stored is not None else None
    scale = known(stored.inputs[1]) if stored is not None else None
    fits = node.op_type == "MatMul" or (node.op_type == "Gemm" and plain_gemm(node) and _bias_fits(node))
    if stored is None or codes is None or scale is None or not fits or scale.dtype != np.float32:
        return False
    size, axis = int(number(stored, "block_size", 0)), int(number(stored, "axis", 1)) % 2
    dtype = dtype_of(stored.inputs[0])
    known_block = size >= _LEAST_BLOCK and not size & (size - 1) and axis == (1 if by_rows else 0)
    if dtype not in (ir.DataType.INT4, ir.DataType.UINT4) or codes.ndim != 2 or not known_block:
        return False
    zero = known(input_at(stored, 2))
    offset = 8 if dtype == ir.DataType.INT4 else 0
    zero = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    rows, scales, zeros = (
        values if by_rows else values.T for values in (codes.astype(np.int64) + offset, scale, zero + offset)
    )
    outer, inner = len(rows), rows.size // max(len(rows), 1)
    blocks = np.pad(rows, ((0, 0), (0, -inner % size))).reshape(outer, -1, size)
    inputs: list[ir.Value | None] = [
        node.inputs[0],
        editor.constant(_packed(blocks), "packed"),
        editor.constant(np.ascontiguousarray(scales), "scales"),
        None if bool((zeros == 8).all()) else editor.constant(_packed(zeros), "zeros"),
        None,
        input_at(node, 2),
    ]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {"K": inner, "N": outer, "bits": 4, "block_size": size, "accuracy_level": 0}
    editor.replace(node.outputs[0], editor.before(node, "MatMulNBits", inputs, attributes, domain=MICROSOFT))
    return True


def _weight(node: ir.Node) -> tuple[ir.Node | None, bool]:
    """The DequantizeLinear of a weight, and whether it is stored [N, K]."""
    if node.op_type not in ("Gemm", "MatMul") or maker(node.inputs[0], "DequantizeLinear") is not None:
        return None, False
    turn = maker(node.inputs[1], "Transpose") if node.op_type == "MatMul" else None
    if turn is not None:
        return maker(turn.inputs[0], "DequantizeLinear"), True
    return maker(node.inputs[1], "DequantizeLinear"), bool(number(node, "transB", 0))


def _bias_fits(node: ir.Node) -> bool:
    bias = input_at(node, 2)
    return bias is None or (bias.shape is not None and len(bias.shape) == 1)


def _packed(codes: np.ndarray) -> np.ndarray:
    """Two codes a byte along the last axis, the earlier one in the low bits."""
    return as_numpy(pack(torch.from_numpy(np.ascontiguousarray(codes)).to(torch.int32), 4))


RUNTIME_RULES: tuple[Rule, ...] = (
    Rule(
        "pool_reals",
        "the runtime moves a quantizer in front of MaxPool, which on codes of no convolution is a hundred times slower",
        pool_reals,
    ),
)
"""For onnxruntime: what it would otherwise move to where it is slow."""
RULES: tuple[Rule, ...] = (
    Rule("mean_as_pool", "ReduceMean has no integer kernel, GlobalAveragePool has", mean_as_pool),
    Rule("pad_codes", "padding between codes runs in float", pad_codes),
    Rule("look_up_codes", "the whole table is dequantized at every run, before a row is looked up", look_up_codes),
    Rule(
        "pack_exactly",
        "the runtime quantizes the activations of a product with narrow weights without saying so, or dequantizes the "
        "weight at every run",
        pack_exactly,
    ),
)
