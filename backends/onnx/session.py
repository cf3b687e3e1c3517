"""The one place that makes onnxruntime sessions and runs them."""

from __future__ import annotations

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

from qcompiler.backends.onnx.dtypes import as_numpy
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
        feeds = {name: as_numpy(values[name].contiguous()) for name in self.inputs}
        try:
            results = self.inner.run(list(self.outputs), feeds)
        except RUNTIME_ERRORS as error:
            raise InputError(
                f"onnxruntime could not run the model: {first_line(error)}",
                where=", ".join(f"{name} {list(value.shape)}" for name, value in values.items()),
                mend="check dtypes and shapes of the inputs",
            ) from error
        return [torch.as_tensor(result) for result in results]


def open_session(
    model: str | Path | bytes,
    *,
    threads: int = 0,
    optimized: Path | None = None,
    entries: Mapping[str, str] | None = None,
) -> Session:
    """Loads a model on the CPU.

    Args:
        model: a file, or the bytes of one.
        threads: threads within an operator, 0 for one per core.
        optimized: where the runtime writes the graph that it really runs.
        entries: further configuration entries of the session.

    Raises:
        InputError: when the runtime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
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
