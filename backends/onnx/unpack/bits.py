"""Codes as the bytes of an initializer, and the operators that take them apart.

A tensor is one row of `formats.pack`, whatever its shape: code i holds bits i*b .. i*b+b-1 of the stream. Codes of 9 to
16 bits lie in two rows, the low bytes and what is above them, which takes the same space.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir
import torch

from qcompiler.backends.onnx.context import Context
from qcompiler.backends.onnx.dtypes import as_numpy
from qcompiler.formats.pack import pack

BYTE = 8
BITWISE_OPSET = 18
# Codes packed at a time; of any width they fill whole bytes.
_CHUNK = 1 << 20


def stored_bytes(context: Context, make: Callable[[], torch.Tensor], count: int, bits: int, name: str) -> ir.Value:
    """An initializer of packed codes, computed when the model is written out.

    Args:
        context: what it is written into.
        make: unsigned codes of any integer dtype, `count` of them.
        count: elements.
        bits: width of a code, 1 to 8.
        name: of the initializer.

    Returns:
        uint8, as many bytes as the codes need, filled with zeros to whole groups (`_group`).
    """
    size = _group_count(count, bits) * _group(bits)[1]
    return context.lazy(lambda: as_numpy(_packed(make(), bits, size)), ir.DataType.UINT8, [size], name)


def looked_up(context: Context, data: ir.Value, bits: int, count: int, table: torch.Tensor) -> ir.Value:
    """The entry of a table for each packed code.

    Shapes: data uint8 as `stored_bytes` makes it, table [2^bits] -> [count], dtype of the table.
    """
    return context.op("Gather", [context.constant(table, "table"), codes_of(context, data, bits, count)])


def codes_of(context: Context, data: ir.Value, bits: int, count: int) -> ir.Value:
    """The packed codes as whole numbers, int32 [count]."""
    if bits == BYTE:
        return _cast(context, data, ir.DataType.INT32)
    codes, size = _group(bits)
    start = [place * bits for place in range(codes)]
    groups = context.op("Reshape", [data, context.ints([-1, size])])
    parts = [_shifted(context, groups, [bit // BYTE for bit in start], [bit % BYTE for bit in start], "RIGHT")]
    if size > 1:
        # Where a code ends within its byte, what comes from the next one lies above the code and is masked away.
        following = [min(bit // BYTE + 1, size - 1) for bit in start]
        up = [min(BYTE - bit % BYTE, BYTE - 1) for bit in start]
        parts.append(_shifted(context, groups, following, up, "LEFT"))
    flat = context.op("Reshape", [_masked(context, parts, bits), context.ints([-1])])
    if _group_count(count, bits) * codes == count:
        return flat
    return context.op("Slice", [flat, context.ints([0]), context.ints([count])])


def _group(bits: int) -> tuple[int, int]:
    """The fewest codes that fill whole bytes, and how many bytes."""
    common = math.gcd(bits, BYTE)
    return BYTE // common, bits // common


def _packed(codes: torch.Tensor, bits: int, size: int) -> torch.Tensor:
    rows = [pack(part, bits) for part in codes.reshape(-1).split(_CHUNK)]
    data = torch.cat(rows) if rows else torch.empty(0, dtype=torch.uint8)
    return torch.nn.functional.pad(data, (0, size - len(data)))


def _group_count(count: int, bits: int) -> int:
    return -(-count // _group(bits)[0])


def _shifted(context: Context, groups: ir.Value, columns: list[int], by: list[int], direction: str) -> ir.Value:
    picked = groups if len(set(columns)) == 1 else context.op("Gather", [groups, context.ints(columns)], {"axis": 1})
    shifts = context.constant(torch.tensor(by, dtype=torch.uint8))
    return context.op("BitShift", [picked, shifts], {"direction": direction})


def _masked(context: Context, parts: list[ir.Value], bits: int) -> ir.Value:
    """The low bits of the parts together, int32; before there were such operators of their sum.

    The parts of a code have no bit in common, and what is carried above it is masked away.
    """
    if context.opset >= BITWISE_OPSET:
        mask = context.constant(torch.tensor((1 << bits) - 1, dtype=torch.uint8))
        both = parts[0] if len(parts) == 1 else context.op("BitwiseOr", parts)
        return _cast(context, context.op("BitwiseAnd", [both, mask]), ir.DataType.INT32)
    wide = [_cast(context, part, ir.DataType.INT32) for part in parts]
    both = wide[0] if len(wide) == 1 else context.op("Add", wide)
    return context.op("Mod", [both, context.scalar(1 << bits, torch.int32)])


def _cast(context: Context, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    return context.op("Cast", [value], {"to": dtype.value})
