"""Element types between torch, numpy and ONNX, and the integer that carries each number format."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from qcompiler.errors import UnsupportedError
from qcompiler.formats import Format

ONNX_DTYPES: dict[torch.dtype, ir.DataType] = {
    torch.float64: ir.DataType.DOUBLE,
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.int16: ir.DataType.INT16,
    torch.int8: ir.DataType.INT8,
    torch.uint8: ir.DataType.UINT8,
    torch.uint16: ir.DataType.UINT16,
    torch.bool: ir.DataType.BOOL,
    torch.complex64: ir.DataType.COMPLEX64,
    torch.complex128: ir.DataType.COMPLEX128,
    torch.float8_e4m3fn: ir.DataType.FLOAT8E4M3FN,
    torch.float8_e5m2: ir.DataType.FLOAT8E5M2,
    torch.float8_e4m3fnuz: ir.DataType.FLOAT8E4M3FNUZ,
    torch.float8_e5m2fnuz: ir.DataType.FLOAT8E5M2FNUZ,
}
OPEN_ENDED = frozenset({torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz})
_REINTERPRETED: dict[torch.dtype, tuple[torch.dtype, type[np.generic]]] = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2),
    torch.float8_e4m3fnuz: (torch.uint8, ml_dtypes.float8_e4m3fnuz),
    torch.float8_e5m2fnuz: (torch.uint8, ml_dtypes.float8_e5m2fnuz),
}
_INTEGERS: dict[tuple[int, bool], ir.DataType] = {
    (2, True): ir.DataType.INT2,
    (2, False): ir.DataType.UINT2,
    (4, True): ir.DataType.INT4,
    (4, False): ir.DataType.UINT4,
    (8, True): ir.DataType.INT8,
    (8, False): ir.DataType.UINT8,
    (16, True): ir.DataType.INT16,
    (16, False): ir.DataType.UINT16,
    (32, True): ir.DataType.INT32,
}
_FLOATS: dict[str, tuple[ir.DataType, int]] = {
    "fp8e4m3": (ir.DataType.FLOAT8E4M3FN, 19),
    "fp8e5m2": (ir.DataType.FLOAT8E5M2, 19),
    "fp4e2m1": (ir.DataType.FLOAT4E2M1, 23),
}
# Operator sets since which integers of a width are quantized to.
_QUANTIZED_SINCE = {2: 25, 4: 21, 16: 21}


def onnx_dtype(dtype: torch.dtype) -> ir.DataType:
    """ONNX element type of a torch dtype; raises UnsupportedError for the few that ONNX lacks."""
    if dtype not in ONNX_DTYPES:
        raise UnsupportedError(f"ONNX has no element type for {dtype}", mend="cast the tensor before exporting")
    return ONNX_DTYPES[dtype]


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A numpy view of a tensor's memory; element types unknown to numpy become those of ml_dtypes."""
    tensor = tensor.detach()
    if tensor.dtype in _REINTERPRETED:
        bits, element = _REINTERPRETED[tensor.dtype]
        return tensor.view(bits).numpy().view(element)
    return tensor.numpy()


def is_native(number: Format, opset: int) -> bool:
    """Whether an ONNX element type saturates exactly where `number` does, so QuantizeLinear can make it."""
    if not number.is_integer:
        return number.name in _FLOATS
    width = number.storage_bits
    full = 2.0 ** (width - number.signed) - 1
    native = (width, number.signed) in _INTEGERS and opset >= _QUANTIZED_SINCE.get(width, 0) and width < 32
    return native and number.highest == full and number.lowest == (-full - 1 if number.signed else 0)


def container(number: Format, opset: int, *, stored: bool) -> ir.DataType:
    """The smallest ONNX element type that holds the codes of a format.

    Args:
        number: the format; its grid values are what is stored.
        opset: version of the operator set; 2-bit integers need 25, 4-bit ones 21, 4-bit floats 23.
        stored: True for codes in an initializer; codes that are computed need a type that can be clipped.

    Raises:
        UnsupportedError: when ONNX has no such type.
    """
    if number.name in _FLOATS and opset >= _FLOATS[number.name][1]:
        return _FLOATS[number.name][0]
    whole = _whole_number_bits(number) if stored and not number.is_integer else None
    if not number.is_integer and whole is None:
        raise UnsupportedError(
            f"ONNX opset {opset} has no element type for {number.name}",
            mend="use an integer format, fp8e4m3 or fp8e5m2, or a target with its own kernels",
        )
    smallest = whole or (number.storage_bits if stored or is_native(number, opset) else max(8, number.storage_bits))
    narrowest = next(width for width in (2, 4, 8) if opset >= _QUANTIZED_SINCE.get(width, 0))
    width = next(width for width in (2, 4, 8, 16, 32) if width >= max(smallest, narrowest))
    return _INTEGERS[width, number.signed or width == 32]


def tight_integer(number: Format, opset: int) -> ir.DataType | None:
    """The ONNX integer type that is no wider than the codes of a format; None where there is none."""
    found = _INTEGERS.get((number.storage_bits, number.signed)) if number.is_integer else None
    since = 0 if number.storage_bits == 16 else _QUANTIZED_SINCE.get(number.storage_bits, 0)
    return found if opset >= since else None


def tight_float(number: Format, opset: int, four_bits: bool) -> ir.DataType | None:
    """The ONNX float type of a format; None where there is none, or where it has four bits and nobody reads these."""
    found, since = _FLOATS.get(number.name, (None, 0))
    return found if opset >= since and (four_bits or number.storage_bits > 4) else None


def _whole_number_bits(number: Format) -> int | None:
    """Width of the signed integers that hold all values of a format with gaps, such as 1 and -1; None where none do."""
    values = number.grid().values
    if not bool((values == values.round()).all()) or not number.signed:
        return None
    widths = (
        width
        for width in (2, 4, 8, 16)
        if -(2.0 ** (width - 1)) <= number.lowest and number.highest < 2.0 ** (width - 1)
    )
    return next(widths, None)
