"""Tensors of an ONNX file as torch tensors, sharing memory where the layouts agree."""

from __future__ import annotations

import warnings

import numpy as np
import onnx_ir
import torch

from qcompiler.errors import InputError, UnsupportedError

_DTYPES: dict[onnx_ir.DataType, torch.dtype] = {
    onnx_ir.DataType.FLOAT: torch.float32,
    onnx_ir.DataType.DOUBLE: torch.float64,
    onnx_ir.DataType.FLOAT16: torch.float16,
    onnx_ir.DataType.BFLOAT16: torch.bfloat16,
    onnx_ir.DataType.INT64: torch.int64,
    onnx_ir.DataType.INT32: torch.int32,
    onnx_ir.DataType.INT16: torch.int16,
    onnx_ir.DataType.INT8: torch.int8,
    onnx_ir.DataType.UINT8: torch.uint8,
    onnx_ir.DataType.BOOL: torch.bool,
    onnx_ir.DataType.UINT16: torch.int32,
    onnx_ir.DataType.UINT32: torch.int64,
    onnx_ir.DataType.UINT64: torch.int64,
    onnx_ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    onnx_ir.DataType.FLOAT8E5M2: torch.float8_e5m2,
    onnx_ir.DataType.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    onnx_ir.DataType.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    onnx_ir.DataType.FLOAT4E2M1: torch.float8_e4m3fn,
    onnx_ir.DataType.INT4: torch.int8,
    onnx_ir.DataType.UINT4: torch.uint8,
    onnx_ir.DataType.INT2: torch.int8,
    onnx_ir.DataType.UINT2: torch.uint8,
    onnx_ir.DataType.COMPLEX64: torch.complex64,
    onnx_ir.DataType.COMPLEX128: torch.complex128,
}
_SUB_BYTE = (onnx_ir.DataType.INT4, onnx_ir.DataType.UINT4, onnx_ir.DataType.INT2, onnx_ir.DataType.UINT2)
_WIDENED = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}


def torch_dtype(dtype: onnx_ir.DataType | None, where: str) -> torch.dtype:
    """The torch element type; types that torch does not compute with are carried by the next wider one that it does.

    Raises:
        UnsupportedError: for strings and shared exponents.
    """
    if dtype is None or dtype not in _DTYPES:
        raise UnsupportedError(
            f"element type {dtype.name if dtype else 'unknown'} is not supported",
            where=where,
            step="import onnx",
            mend="start from the model in float32, float16 or bfloat16; qcompiler does the quantization",
        )
    return _DTYPES[dtype]


def onnx_dtype_of(dtype: torch.dtype) -> int:
    """The number of the ONNX element type of a tensor during import."""
    return next(known.value for known, ours in _DTYPES.items() if ours == dtype)


def torch_tensor(tensor: onnx_ir.TensorProtocol, where: str) -> torch.Tensor:
    """The value of an ONNX tensor; memory-mapped external data stays mapped.

    Raises:
        InputError: when the bytes are missing or too few.
        UnsupportedError: for an element type that torch lacks.
    """
    dtype = torch_dtype(tensor.dtype, where)
    try:
        array = tensor.numpy()
    except (OSError, ValueError) as error:
        raise InputError(
            f"the data of tensor '{tensor.name}' cannot be read: {error}",
            where=where,
            step="import onnx",
            mend="keep the external data files beside the .onnx file, complete and under their original names",
        ) from error
    if array.dtype in _WIDENED:
        array = array.astype(_WIDENED[array.dtype])
    if tensor.dtype in _SUB_BYTE:
        return _share(array.astype(np.int8 if dtype == torch.int8 else np.uint8))
    if tensor.dtype is onnx_ir.DataType.FLOAT4E2M1:
        return _share(array.astype(np.float32)).to(dtype)
    if dtype == torch.bfloat16:
        return _share(array.view(np.int16)).view(torch.bfloat16)
    if dtype.itemsize == 1 and dtype.is_floating_point:
        return _share(array.view(np.uint8)).view(dtype)
    return _share(array)


def _share(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        # parameters are never written to, so read-only memory is fine
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        return torch.from_numpy(np.asarray(array, order="C"))
