"""Turns a failure of torch.export into one error that says what, where in the user's code, and the usual mend."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import torch

from qcompiler.errors import InputError, QCompilerError, UnsupportedError

_INSIDE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_DATA_DEPENDENT = re.compile(
    r"data.dependent|GuardOnDataDependent|Could not guard|Could not extract|aten\._local_scalar_dense|\bu\d+\b",
    re.IGNORECASE,
)


def explain_failure(error: Exception, eager: Exception | None, model: torch.nn.Module) -> QCompilerError:
    """The error to raise in place of `error`.

    A model that fails on the example inputs even when it is simply called says so; data-dependent control flow names
    the source line that asked for a value; anything else says what torch.export said.

    Args:
        error: of torch.export.
        eager: of a plain call of the model, None when that runs.
        model: at fault.
    """
    if isinstance(error, QCompilerError):
        return error
    if eager is not None:
        return eager if isinstance(eager, QCompilerError) else failed_call(eager, model)
    message = _first_sentence(error)
    where = _user_line(error) or type(model).__name__
    if _DATA_DEPENDENT.search(f"{type(error).__name__} {error}"):
        return UnsupportedError(
            f"the model decides by the values of its tensors, which a traced graph cannot hold: {message}",
            where=where,
            step="trace",
            mend="replace `if tensor...` by torch.where or masks, and .item()/.tolist() sizes by fixed ones; "
            "or compile the part before and the part after separately",
        )
    return UnsupportedError(
        f"torch.export could not trace the model: {message}",
        where=where,
        step="trace",
        mend="try torch.export.draft_export(model, inputs) for a full list of reasons",
    )


def failed_call(error: Exception, model: torch.nn.Module) -> InputError:
    """The error to raise for a model that fails on its example inputs."""
    return InputError(
        f"the model failed on the example inputs: {_first_sentence(error)}",
        where=_user_line(error) or type(model).__name__,
        step="trace",
        mend="pass example inputs that model(*inputs) accepts",
    )


def _first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _user_line(error: BaseException | None) -> str:
    """The innermost line of code that belongs neither to torch nor to this front-end."""
    best = ""
    while error is not None and not best:
        for frame in traceback.extract_tb(error.__traceback__):
            if not frame.filename.startswith(_INSIDE) and not frame.filename.startswith("<"):
                best = f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
        match = re.search(r'File "([^"]+)", line (\d+), in (\w+)\n\s+(.+)', str(error))
        if match and not match[1].startswith(_INSIDE):
            best = f"{match[1]}:{match[2]} in {match[3]}: {match[4]}"
        error = error.__cause__
    return best
