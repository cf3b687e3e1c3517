"""Numbers of a scalar format in the file, and as reals in the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch

from qcompiler.backends.onnx.context import Context
from qcompiler.backends.onnx.dtypes import as_numpy, onnx_dtype, tight_integer
from qcompiler.backends.onnx.unpack.bits import BYTE, looked_up, stored_bytes
from qcompiler.formats import E8M0, FP8_E4M3, Format, Integer, ScaleName
from qcompiler.spec import round_scale

_NUMBERS: dict[ScaleName, Format] = {
    "e4m3": FP8_E4M3,
    "e8m0": E8M0,
    "u8": Integer(8, signed=False),
    "u6": Integer(6, signed=False),
    "u4": Integer(4, signed=False),
}
HALVES: dict[str, torch.dtype] = {"f16": torch.float16, "bf16": torch.bfloat16}
# So few numbers are not worth an operator.
_FEW = 16
Make = Callable[[], torch.Tensor]


def grid_values(
    context: Context,
    make: Make,
    number: Format,
    shape: Sequence[int],
    wide: torch.dtype,
    name: str,
    carrier: torch.dtype = torch.float32,
) -> ir.Value:
    """Grid values stored as codes of their own width, as reals of `wide` in their shape.

    Args:
        context: what they are written into.
        make: the grid values in a float carrier.
        number: their format, of at most 8 bits unless ONNX has integers of its width.
        shape: of the tensor.
        wide: float32 or float64.
        name: of the initializer.
        carrier: what the program carries the values in, which rounds them.
    """
    native = tight_integer(number, context.opset)
    if native is not None:
        codes = context.lazy(lambda: as_numpy(make()).astype(native.numpy()), native, shape, name)
        return context.op("Cast", [codes], {"to": onnx_dtype(wide).value})
    bits, count = number.storage_bits, math.prod(shape)
    data = stored_bytes(context, lambda: number.encode(make().reshape(-1)), count, bits, name)
    values = number.decode(torch.arange(1 << bits, dtype=torch.int32)).to(carrier).to(wide)
    # Codes without a number never occur; files should not hold NaN all the same.
    flat = looked_up(context, data, bits, count, values.nan_to_num(0.0, 0.0, 0.0))
    return context.op("Reshape", [flat, context.ints(shape)])


def stored_scale(context: Context, value: torch.Tensor, stored: ScaleName, wide: torch.dtype, name: str) -> ir.Value:
    """Scales in their stored format where they are numbers of it, else as they are; reals of `wide`, same shape."""
    fits = value.numel() > _FEW and stored in _NUMBERS
    if fits and torch.equal(round_scale(value.float(), stored).to(value.dtype), value):
        return grid_values(context, lambda: value.float(), _NUMBERS[stored], list(value.shape), wide, name)
    return stored_half(context, value, HALVES.get(stored, value.dtype), wide, name)


def stored_half(context: Context, value: torch.Tensor, half: torch.dtype, wide: torch.dtype, name: str) -> ir.Value:
    """Reals in a narrower type where they are numbers of it, else as they are; reals of `wide`, same shape."""
    kept = value.to(half) if torch.equal(value.to(half).to(value.dtype), value) else value
    return context.cast(context.constant(kept, name), kept.dtype, wide)


def stored_zero(context: Context, value: torch.Tensor, number: Format, wide: torch.dtype, name: str) -> ir.Value:
    """Zero points as numbers of the format where they are, else as they are; reals of `wide`, same shape."""
    fits = number.storage_bits <= BYTE and value.numel() > _FEW
    if fits and torch.equal(number.decode(number.encode(value.float())).to(value.dtype), value):
        return grid_values(context, lambda: value.float(), number, list(value.shape), wide, name)
    return context.cast(context.constant(value, name), value.dtype, wide)
