"""Turns a failure of torch.export into one error that says what, where in the user's code, and the usual mend."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from qcompiler.errors import InputError, QCompilerError, UnsupportedError

_INSIDE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_DATA_DEPENDENT = re.compile(
    r"data.dependent|GuardOnDataDependent|Could not guard|Could not extract|unhashable type: .*Sym|"
    r"aten\._local_scalar_dense|\bu\d+\b",
    re.IGNORECASE,
)
_ELSEWHERE = "or compile the part before and the part after separately"


@dataclass(frozen=True)
class _Cause:
    """One way in which a trace fails.

    Args:
        message: what the exception says, as a regular expression; its first group, if any, goes into the texts.
        line: what the line of the user's code holds, as a regular expression.
        what: of the error to raise.
        mend: of it.
    """

    message: re.Pattern[str]
    line: re.Pattern[str]
    what: str
    mend: str


_ANY = re.compile("")
_CAUSES = (
    _Cause(
        re.compile(r"\.numpy\(\) is not supported|numpy\.ndarray|__array__"),
        _ANY,
        "the model leaves torch for numpy, whose work a traced graph cannot hold",
        "use torch's function of the same name, or compute it before the model and pass it as an input",
    ),
    _Cause(
        re.compile(r"no fake impl registered for <CustomOpDef\(([^)]+)\)>|has no fake impl.*?([\w:.]+)"),
        _ANY,
        "the custom operator {0} does not say what its result looks like",
        "give it a fake implementation (torch.library.register_fake), or write it with torch's own operators",
    ),
    _Cause(
        _DATA_DEPENDENT,
        re.compile(r": assert\b"),
        "the model asserts something about the values of its tensors, which a traced graph cannot do",
        "leave the assertion out, or check the inputs before the call",
    ),
    _Cause(
        _DATA_DEPENDENT,
        re.compile(r": (if|elif|while)\b| if .* else "),
        "the model decides by the values of its tensors which way to go, and a traced graph holds one way",
        f"compute both sides and choose with torch.where or a mask, use torch.cond for a branch, {_ELSEWHERE}",
    ),
    _Cause(
        _DATA_DEPENDENT,
        re.compile(r"\.item\(|\.tolist\(|\b(int|float|bool|range|len)\("),
        "the model decides by the values of its tensors: it turns one into a Python number",
        "keep it a tensor (torch.where, masks): leave .item(), .tolist(), int() and float() out, and give sizes fixed "
        f"bounds; {_ELSEWHERE}",
    ),
    _Cause(
        _DATA_DEPENDENT,
        _ANY,
        "the model decides by the values of its tensors, which a traced graph cannot hold: {message}",
        "replace `if tensor...` by torch.where or masks, and .item()/.tolist() sizes by fixed ones; " + _ELSEWHERE,
    ),
    _Cause(
        re.compile(r"'NoneType' object|got NoneType|unexpected keyword|must be Tensor, not NoneType"),
        _ANY,
        "the model takes another way while it is being traced than when it is called, and fails there: {message}",
        "give every optional input in the example, such as an attention mask: some models make these only when called",
    ),
    _Cause(
        _ANY,
        _ANY,
        "torch.export could not trace the model: {message}",
        "try torch.export.draft_export(model, inputs) for a full list of reasons",
    ),
)


def explain_failure(error: Exception, eager: Exception | None, model: torch.nn.Module) -> QCompilerError:
    """The error to raise in place of `error`: the line of the user's code, the reason, the usual mend.

    A model that fails on the example inputs even when it is simply called says so; a failure of no known cause says
    what torch.export said.

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
    said = f"{type(error).__name__} {error}"
    cause, found = next(
        (cause, found) for cause in _CAUSES if (found := cause.message.search(said)) and cause.line.search(where)
    )
    words = next((group for group in found.groups() if group), "")
    return UnsupportedError(cause.what.format(words, message=message), where=where, step="trace", mend=cause.mend)


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
