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
    onnx_ir.DataType.COMPLEX64: torch.complex64,
    onnx_ir.DataType.COMPLEX128: torch.complex128,
}
_WIDENED = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}


def torch_dtype(dtype: onnx_ir.DataType | None, where: str) -> torch.dtype:
    """The torch element type; unsigned 16 to 64-bit integers widen to the next signed one that torch computes with.

    Raises:
        UnsupportedError: for strings and for the sub-byte and 8-bit float types.
    """
    if dtype is None or dtype not in _DTYPES:
        raise UnsupportedError(
            f"element type {dtype.name if dtype else 'unknown'} is not supported",
            where=where,
            step="import onnx",
            mend="start from the model in float32, float16 or bfloat16; qcompiler does the quantization",
        )
    return _DTYPES[dtype]


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
    if dtype == torch.bfloat16:
        return _share(array.view(np.int16)).view(torch.bfloat16)
    return _share(array)


def _share(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        # parameters are never written to, so read-only memory is fine
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        return torch.from_numpy(np.asarray(array, order="C"))
