"""Quantized weights under float activations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.lowering.operands import Operand
from qcompiler.backends.onnx.context import Context
from qcompiler.backends.onnx.dtypes import as_numpy, container
from qcompiler.backends.onnx.kernels.operands import dequantized, integers, operand_at
from qcompiler.backends.onnx.names import MICROSOFT
from qcompiler.backends.onnx.ops.linear import rows_product
from qcompiler.backends.onnx.settings import Settings
from qcompiler.formats.pack import pack
from qcompiler.ir.program import Node, Program
from qcompiler.spec import expand_blocks

# Since this operator set there are element types of 4 bits.
NARROW_OPSET = 21
_WIDTHS = (2, 4, 8)
_FAST, _EXACT = 4, 0


def linear(context: Context, call: Call, settings: Settings) -> ir.Value:
    """A linear layer: packed blocks where the exact or the fast kernel takes them, else dequantized weights."""
    w, block = operand_at(call, 1), call.raw("block")
    if settings.weight_only == "standard":
        return _plain(context, call, w)
    if isinstance(block, int) and block:
        return _packed(context, call, w, block, _FAST)
    if _width(w) == 4 and w.spec.granularity == "group":
        return _packed(context, call, w, w.spec.block[1], _EXACT)
    return _dequantized_rows(context, call, w)


def embedding(context: Context, call: Call, settings: Settings) -> ir.Value:
    """Rows of a table: gathered as codes, so that only these are dequantized."""
    w, rows = operand_at(call, 0), call.inputs[1]
    if not isinstance(rows, Node):
        raise call.unsupported("the rows to look up are not a tensor")
    indices = context.value(rows)
    if w.spec.granularity == "group":
        return _gathered_blocks(context, w, indices)
    scale = context.value(w.scale)
    if w.scale.op == "get_attr" and context.program.param(w.scale).numel() > 1:
        scale = context.op("Gather", [scale, indices], {"axis": 0})
    picked = context.op("Gather", [integers(context, w), indices], {"axis": 0})
    reals = context.op("Cast", [picked], {"to": ir.DataType.FLOAT.value})
    if w.zero_point is not None:
        zeros = context.op("Gather", [context.value(w.zero_point), indices], {"axis": 0})
        reals = context.op("Sub", [reals, zeros])
    return context.op("Mul", [reals, scale])


def _gathered_blocks(context: Context, w: Operand, indices: ir.Value) -> ir.Value:
    """GatherBlockQuantized, which takes 4-bit codes of either sign and unsigned bytes."""
    program, wide = context.program, w.spec.bits > 4 or context.opset < NARROW_OPSET
    shape = [int(dim) for dim in program.shape(w.codes)]
    name = str(w.codes.target)
    scales = context.constant(program.param(w.scale).float(), f"{name}.scales")
    attributes = {"block_size": w.spec.block[1], "gather_axis": 0, "quantize_axis": 1, "bits": 8 if wide else 4}
    stored = torch.zeros(program.param(w.scale).shape) if w.zero_point is None else program.param(w.zero_point)
    if not wide:
        codes = context.parameter(w.codes)
        dtype = container(w.spec.format, context.opset, stored=True)
        zeros = context.constant(as_numpy(stored).astype(dtype.numpy()), f"{name}.zeros")
    else:
        offset = 128 if w.spec.format.signed else 0
        codes = context.lazy(lambda: _bytes(program.param(w.codes), offset), ir.DataType.UINT8, shape, f"{name}.bytes")
        zeros = context.constant(_bytes(stored, offset), f"{name}.zeros")
    return context.op("GatherBlockQuantized", [codes, indices, scales, zeros], attributes, domain=MICROSOFT)


def _bytes(codes: torch.Tensor, offset: int) -> np.ndarray:
    return as_numpy(codes + offset).astype(np.uint8)


def _plain(context: Context, call: Call, w: Operand) -> ir.Value:
    """DequantizeLinear of the weight stored [K, N], then MatMul: what compilers look for."""
    product = context.op("MatMul", [_input(context, call), _stored(context, w, transposed=True)])
    bias = _bias(context, call)
    return product if bias is None else context.op("Add", [product, bias])


def _stored(context: Context, w: Operand, *, transposed: bool) -> ir.Value:
    """The dequantized weight with its codes in their own width."""
    codes = context.parameter(w.codes, transposed=transposed) if w.codes.op == "get_attr" else None
    return dequantized(context, w, codes, transposed=transposed)


def _dequantized_rows(context: Context, call: Call, w: Operand) -> ir.Value:
    """DequantizeLinear of the weight stored [N, K] and Gemm with transB."""
    weight, width = _stored(context, w, transposed=False), int(context.program.shape(w.codes)[0])
    return rows_product(context, _input_node(call), weight, _bias(context, call), width)


def _packed(context: Context, call: Call, w: Operand, block: int, level: int) -> ir.Value:
    """MatMulNBits with an explicit accuracy level."""
    program = context.program
    rows, inputs = (int(dim) for dim in program.shape(w.codes))
    width, count = _width(w), -(-inputs // block)
    name = str(w.codes.target)
    kernel_inputs = [
        _input(context, call),
        context.memo(
            ("nbits", name, block),
            lambda: context.lazy(
                lambda: _packed_codes(program, w, block),
                ir.DataType.UINT8,
                [rows, count, block * width // 8],
                f"{name}.packed",
            ),
        ),
        context.constant(_per_block(program.param(w.scale).float(), w, block, program), f"{name}.scales"),
    ]
    if w.zero_point is not None:
        zeros = _per_block(program.param(w.zero_point), w, block, program)
        kernel_inputs.append(context.constant(pack(_unsigned(zeros, w), width), f"{name}.zeros"))
    bias = _bias(context, call)
    if bias is not None:
        kernel_inputs += [None] * (5 - len(kernel_inputs))
        kernel_inputs.append(bias)
    attributes = {"K": inputs, "N": rows, "bits": width, "block_size": block, "accuracy_level": level}
    return context.op("MatMulNBits", kernel_inputs, attributes, domain=MICROSOFT)


def _packed_codes(program: Program, w: Operand, block: int) -> np.ndarray:
    codes = _unsigned(program.param(w.codes), w)
    missing = -codes.shape[1] % block
    padded = torch.nn.functional.pad(codes, (0, missing))
    blocks = padded.reshape(codes.shape[0], -1, block)
    return as_numpy(pack(blocks, _width(w)))


def _per_block(values: torch.Tensor, w: Operand, block: int, program: Program) -> torch.Tensor:
    """One value per block of `block` inputs, from coarser ones when the weight has these."""
    rows, inputs = (int(dim) for dim in program.shape(w.codes))
    if w.spec.block[1] == block:
        return values.expand(rows, -1).contiguous()
    return expand_blocks(values, w.spec.block, (rows, inputs))[:, ::block].contiguous()


def _unsigned(codes: torch.Tensor, w: Operand) -> torch.Tensor:
    """Codes as the kernel reads them: unsigned, 2^(bits-1) standing for zero when the format is signed."""
    return (codes + (1 << (_width(w) - 1)) if w.spec.format.signed else codes).to(torch.int32)


def _width(w: Operand) -> int:
    return next(width for width in _WIDTHS if width >= w.spec.bits)


def _input_node(call: Call) -> Node:
    node = call.inputs[0]
    if not isinstance(node, Node):
        raise call.unsupported("its input is not a tensor")
    return node


def _input(context: Context, call: Call) -> ir.Value:
    return context.value(_input_node(call))


def _bias(context: Context, call: Call) -> ir.Value | None:
    bias = call.inputs[2]
    return context.value(bias) if isinstance(bias, Node) else None
