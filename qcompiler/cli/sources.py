"""What a command line names as a model, and the job made of it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from qcompiler.errors import InputError, ParseError

if TYPE_CHECKING:
    from qcompiler.job import Job
    from qcompiler.passes.recipes import Recipe
    from qcompiler.pipeline import Options


@dataclass(frozen=True)
class Reading:
    """How a model is read; one field per option of `model_options`."""

    calibration: Path | None = None
    inputs: Path | None = None
    target: str = "onnxruntime"
    plan: Path | None = None
    seed: int = 0
    dynamic: Literal["auto", "none"] = "auto"
    weights: Path | None = None
    states: tuple[str, ...] = ()


def open_model(source: str) -> object:
    """The model that a command line names.

    `module.py:factory` gives what the factory returns, a `.qir` file or the folder of an artefact its program, the
    folder of a run the last of its programs; anything else is taken for the path of an ONNX file.

    Raises:
        InputError: when there is no such thing.
        ParseError: for a `.qir` file that cannot be read; names the line.
    """
    path, colon, name = source.rpartition(":")
    if colon and path.endswith(".py"):
        return call_factory(Path(path), name)
    if Path(source).is_dir():
        from qcompiler.compiler import load
        from qcompiler.runs import is_run, open_run

        if is_run(Path(source)):
            run = open_run(source)
            return run.program(len(run.steps) - 1)

        return load(source).program
    if source.endswith(".qir"):
        return _read_program(Path(source))
    if source.endswith(".py"):
        raise InputError(
            "a Python file needs the name of the function that builds the model",
            where=source,
            mend=f"write {source}:name_of_the_function",
        )
    return Path(source)


def call_factory(path: Path, name: str) -> object:
    """What the function `name` of a Python file returns, or the object of that name.

    Raises:
        InputError: when the file or the name is missing, or the function needs arguments.
    """
    found = find_in_file(path, name)
    if not inspect.isfunction(found):
        return found() if inspect.isclass(found) else found
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise InputError(
            f"{name} needs arguments: {error}",
            where=f"{path}: {name}{inspect.signature(found)}",
            mend="name a function without arguments that builds and returns the model",
        ) from error
    return found()


def find_in_file(path: Path, name: str) -> object:
    """What a Python file calls `name`.

    Raises:
        InputError: when the file or the name is missing.
    """
    module = _import_file(path)
    if not hasattr(module, name):
        defined = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise InputError(
            f"{path.name} has no '{name}'",
            where=str(path),
            mend=f"it defines {', '.join(defined) or 'nothing'}",
        )
    return getattr(module, name)


def make_job(
    model: str,
    reading: Reading,
    recipe: str | Recipe,
    passes: str | None = None,
    options: Options | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Job:
    """The compilation that a command line describes, not yet run.

    Args:
        model: see `open_model`.
        reading: options of the command line.
        recipe: name, path or value.
        passes: texts of passes to run instead of the recipe's, with commas between them.
        options: of the runner.
        log: takes one line for the user.

    Raises:
        QCompilerError: of any kind, about the model, the data, the recipe or the target.
    """
    from qcompiler.job import prepare
    from qcompiler.pass_text import parse_passes
    from qcompiler.passes.recipes import catalogue

    job = prepare(
        open_model(model),
        reading.target,
        read_inputs(reading.inputs),
        str(reading.calibration) if reading.calibration else None,
        recipe,
        reading.plan,
        reading.dynamic,
        reading.seed,
        options,
        log,
        reading.weights,
        read_pairs(reading.states),
    )
    return job if passes is None else replace(job, passes=tuple(parse_passes(passes, catalogue())))


def read_pairs(texts: Sequence[str]) -> dict[str, str]:
    """Inputs that are states and the results that they get, each written `INPUT=RESULT`.

    Raises:
        InputError: for another text, and for an input that is named twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, _, result = text.partition("=")
        if not name or not result or name in pairs:
            fault = "names an input again" if name in pairs else "is no pair of an input and a result"
            raise InputError(f"--states {text!r} {fault}", mend="write --states past.0.key=present.0.key for each")
        pairs[name] = result
    return pairs


def read_inputs(path: Path | None) -> dict[str, object] | None:
    """Example inputs of an `.npz` file: one tensor per input, by name.

    Raises:
        InputError: when the file cannot be read.
    """
    if path is None:
        return None
    import torch

    from qcompiler.data import load_npz

    return {name: torch.from_numpy(array) for name, array in load_npz(path).items()}


def _read_program(path: Path) -> object:
    from qcompiler.compiler import parse

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the program: {error}", where=str(path)) from error
    try:
        return parse(text)
    except ParseError as error:
        raise ParseError(error.what, where=f"{path}, {error.where}", mend=error.mend) from error


def _import_file(path: Path) -> ModuleType:
    """Imports a Python file as `python file.py` would: its folder is where it finds its neighbours."""
    if not path.is_file():
        raise InputError("there is no such Python file", where=str(path))
    name = path.stem
    while name in sys.modules:
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError("this file cannot be imported", where=str(path))
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        del sys.modules[name]
        raise InputError(
            f"{path.name} cannot be imported: {error}",
            where=str(path),
            mend=f"check that `python {path}` runs",
        ) from error
    return module
