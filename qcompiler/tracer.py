"""The front door: whatever a user hands in as a model becomes a Program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch

from qcompiler.data import as_inputs
from qcompiler.errors import InputError
from qcompiler.ir.program import Program

if TYPE_CHECKING:
    from qcompiler.frontends.weight_files import WeightFiles

Dynamic = Literal["auto", "none"]


def trace(
    model: object, inputs: object = None, dynamic: Dynamic = "auto", weights: str | Path | None = None
) -> Program:
    """A model as a Program at stage traced; arguments as for `compile`.

    Raises:
        InputError: when the model or the example is bad.
        UnsupportedError: when the model cannot be traced.
    """
    if dynamic not in get_args(Dynamic):
        raise InputError(f"dynamic is {dynamic!r}", mend=f"choose one of {', '.join(get_args(Dynamic))}")
    files = _weight_files(model, weights)
    if isinstance(model, Program):
        return model
    if isinstance(model, torch.nn.Module):
        from qcompiler.frontends.torch_trace import trace_module

        if inputs is None:
            raise InputError(
                "a torch module needs example inputs to be traced",
                mend="pass inputs=(x,) or calibration data, whose first sample then serves",
            )
        return trace_module(model, as_inputs(inputs), dynamic, files)
    if isinstance(model, torch.export.ExportedProgram):
        from qcompiler.frontends.torch_export import import_exported

        return import_exported(model, weights=files)
    if isinstance(model, str | Path) or type(model).__name__ == "ModelProto":
        from qcompiler.frontends.onnx_import import import_onnx

        return import_onnx(model)  # pyright: ignore[reportArgumentType]
    raise InputError(
        f"a {type(model).__name__} is not a model",
        mend="pass a torch.nn.Module, an ExportedProgram, the path of an .onnx file, or a Program",
    )


def trace_sample(
    model: torch.nn.Module, sample: object, dynamic: Dynamic, source: str, weights: str | Path | None
) -> Program:
    """Traces a module with the first sample of the calibration data; an error says so.

    Args:
        model: the module.
        sample: one call.
        dynamic: as for `trace`.
        source: what the sample comes from, for the error.
        weights: as for `trace`.

    Raises:
        InputError: when the sample does not fit the model.
        UnsupportedError: when the model cannot be traced.
    """
    try:
        return trace(model, sample, dynamic, weights)
    except InputError as error:
        where = f"{error.where}, called with {source}: {_shapes_of(sample)}".removeprefix(", ")
        raise InputError(error.what, where=where, step=error.step, mend=error.mend) from error


def _shapes_of(sample: object) -> str:
    """Names, dtypes and shapes of example inputs: `image float32[2, 3, 8, 8]`."""
    given = as_inputs(sample)
    named = {**{str(number): value for number, value in enumerate(given.args)}, **given.kwargs}
    texts = (
        f"{name} {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        if isinstance(value, torch.Tensor)
        else f"{name} {type(value).__name__}"
        for name, value in named.items()
    )
    return ", ".join(texts) or "nothing"


def _weight_files(model: object, weights: str | Path | None) -> WeightFiles | None:
    if weights is None:
        return None
    if not isinstance(model, torch.nn.Module | torch.export.ExportedProgram):
        raise InputError(
            f"weights are for torch models; a {type(model).__name__} holds its own",
            mend="leave weights out, or pass the torch module",
        )
    from qcompiler.checkpoints import open_checkpoint

    return open_checkpoint(weights)
