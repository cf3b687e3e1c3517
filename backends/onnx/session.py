"""The one place that makes onnxruntime sessions and runs them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import (
    EPFail,
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,
    RuntimeException,
)

from qcompiler.backends.onnx.dtypes import as_numpy, onnx_dtype
from qcompiler.errors import InputError

RUNTIME_ERRORS = (
    EPFail,
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,
    RuntimeException,
)
_ERRORS_ONLY = 3
_SHORT: dict[str, torch.dtype] = {
    "tensor(bfloat16)": torch.bfloat16,
    "tensor(float8e4m3fn)": torch.float8_e4m3fn,
    "tensor(float8e4m3fnuz)": torch.float8_e4m3fnuz,
    "tensor(float8e5m2)": torch.float8_e5m2,
    "tensor(float8e5m2fnuz)": torch.float8_e5m2fnuz,
}
_BITS = {dtype: torch.uint16 if dtype == torch.bfloat16 else torch.uint8 for dtype in _SHORT.values()}


@dataclass(frozen=True)
class Session:
    """A loaded model.

    Args:
        inner: the onnxruntime session.
        inputs: names of the inputs in order; the runtime drops inputs that nothing reads.
        outputs: names of the results in order.
    """

    inner: onnxruntime.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, values: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Results for named inputs; tensors share their memory with the runtime where they are contiguous.

        Raises:
            InputError: for a missing input, or one that the model does not take.
        """
        missing = [name for name in self.inputs if name not in values]
        if missing:
            raise InputError(f"the model also takes {', '.join(missing)}", mend=f"inputs: {', '.join(self.inputs)}")
        try:
            results = self._run({name: values[name].contiguous() for name in self.inputs})
        except RUNTIME_ERRORS as error:
            raise InputError(
                f"onnxruntime could not run the model: {first_line(error)}",
                where=", ".join(f"{name} {list(value.shape)}" for name, value in values.items()),
                mend="check dtypes and shapes of the inputs",
            ) from error
        return results

    def _run(self, values: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        types = [item.type for item in self.inner.get_outputs()]
        if not any(value.dtype in _BITS for value in values.values()) and not any(type_ in _SHORT for type_ in types):
            feeds = {name: as_numpy(value) for name, value in values.items()}
            return [torch.as_tensor(result) for result in self.inner.run(list(self.outputs), feeds)]
        # numpy has no names for these element types, so their bits are handed over
        inputs = {name: _handed(value) for name, value in values.items()}
        return [_taken(result) for result in self.inner.run_with_ort_values(list(self.outputs), inputs)]


def _handed(value: torch.Tensor) -> onnxruntime.OrtValue:
    if value.dtype not in _BITS:
        return onnxruntime.OrtValue.ortvalue_from_numpy(as_numpy(value))
    bits = value.view(_BITS[value.dtype]).numpy()
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, onnx_dtype(value.dtype).value)


def _taken(value: onnxruntime.OrtValue) -> torch.Tensor:
    if value.data_type() not in _SHORT:
        return torch.as_tensor(value.numpy())
    data = bytearray(ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()))
    dtype, shape = _SHORT[value.data_type()], value.shape()
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


def open_session(
    model: str | Path | bytes,
    *,
    threads: int = 0,
    optimized: Path | None = None,
    profile: Path | None = None,
    entries: Mapping[str, str] | None = None,
) -> Session:
    """Loads a model on the CPU.

    Args:
        model: a file, or the bytes of one.
        threads: threads within an operator, 0 for one per core.
        optimized: where the runtime writes the graph that it really runs.
        profile: where it writes the times of all kernels, the start of a file's name.
        entries: further configuration entries of the session.

    Raises:
        InputError: when the runtime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if not torch.cpu._is_vnni_supported():
        # Without VNNI the products of two bytes saturate in 16 bits; this entry trades speed for exact sums.
        options.add_session_config_entry("session.x64quantprecision", "1")
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    source = model if isinstance(model, bytes) else str(model)
    try:
        inner = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        where = "" if isinstance(model, bytes) else str(model)
        raise InputError(f"onnxruntime cannot load the model: {first_line(error)}", where=where) from error
    names = tuple(item.name for item in inner.get_inputs())
    return Session(inner, names, tuple(item.name for item in inner.get_outputs()))


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
