"""One backend node test of the ONNX package: imported, interpreted, written again and run in ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import numpy_helper, version_converter

from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.onnx.writer import write_model
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.frontends.onnx_import import import_onnx
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program
from qcompiler.job import backends
from qcompiler.passes.canonical import CANONICAL
from qcompiler.pipeline import Context, Options, run_passes
from qcompiler.target import Target
from qcompiler.targets import load_target

Status = Literal["passed", "unsupported", "failed"]
Array = np.ndarray
LOOSE = {"float16": 2e-3, "bfloat16": 2e-2, "float8_e4m3fn": 7e-2, "float8_e5m2": 13e-2}
SETTINGS = 64
ROUNDING = 2  # units of rounding of the largest result that smaller ones may be off by
UNRUNNABLE = ("Could not find an implementation", "NOT_IMPLEMENTED", "Type Error", "This is an invalid model")


@dataclass(frozen=True)
class NodeCase:
    """A model with one set of inputs and the results it must give.

    Args:
        name: of the test.
        model: as the ONNX package made it, or converted to another opset.
        inputs: by name; a list for a sequence, None for an empty optional.
        outputs: in order.
        rtol: relative tolerance of reals.
        atol: absolute tolerance of reals.
    """

    name: str
    model: onnx.ModelProto
    inputs: Mapping[str, object]
    outputs: Sequence[object]
    rtol: float
    atol: float

    @property
    def opset(self) -> int:
        """Version of the standard operator set that the model asks for; 0 when it uses another set alone."""
        return next((item.version for item in self.model.opset_import if item.domain in ("", "ai.onnx")), 0)

    @property
    def op(self) -> str:
        """The operator under test: that of the longest name among those that the test's name spells, or the first."""
        kinds = [node.op_type for node in self.model.graph.node]
        spelled = self.name.replace("_", "").lower()
        named = sorted((kind for kind in kinds if spelled.startswith(f"test{kind.lower()}")), key=len)
        return named[-1] if named else kinds[0]


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Args:
        status: `unsupported` when it was refused by an error that names the operator and the reason.
        reason: why not; empty when it passed.
        where: the node, for an error that names one.
        fixed: inputs that had to be constants of the model, such as the axes of a reduction.
    """

    status: Status
    reason: str = ""
    fixed: tuple[str, ...] = ()
    where: str = ""


@cache
def node_cases() -> tuple[NodeCase, ...]:
    """Every backend node test of the installed ONNX package."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    cases = [
        NodeCase(
            test.name,
            test.model,
            {value.name: _array(item) for value, item in zip(test.model.graph.input, inputs, strict=False)},
            [_array(item) for item in outputs],
            test.rtol,
            test.atol,
        )
        for test in tests
        if test.model is not None
        for inputs, outputs in test.data_sets or ()
    ]
    return tuple(cases)


def _array(item: object) -> object:
    return numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item


def converted(case: NodeCase, opset: int) -> NodeCase | None:
    """The same case in another opset; None when the converter of the ONNX package cannot make it."""
    if not case.opset or case.opset == opset:
        return None
    try:
        model = version_converter.convert_version(case.model, opset)
        onnx.checker.check_model(model)
    except (RuntimeError, ValueError, TypeError, onnx.checker.ValidationError):
        return None
    return replace(case, model=model)


def keeps_meaning(case: NodeCase) -> bool:
    """Whether ONNX Runtime confirms that a converted case still gives its results: the converter errs at times."""
    try:
        session = open_session(case.model.SerializeToString(), threads=1)
        results = session.run({name: as_tensor(case.inputs[name]) for name in session.inputs})
    except (InputError, RuntimeError):
        return False
    return not difference(case, results)


def imported(case: NodeCase) -> tuple[Program, tuple[str, ...]]:
    """The program of a case, and the inputs that were made constants because their operator needs that.

    Raises:
        UnsupportedError: when the front-end refuses the model.
    """
    try:
        return import_onnx(case.model), ()
    except UnsupportedError:
        fixed = tuple(_settings(case))
        if not fixed:
            raise
    return import_onnx(with_constants(case, fixed)), fixed


def _settings(case: NodeCase) -> Iterator[str]:
    """Inputs that are settings of an operator rather than data: short vectors of integers, and single numbers."""
    for name, value in case.inputs.items():
        if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            array = np.asarray(value)
            integers = array.dtype.kind in "iu" and array.ndim <= 1 and array.size <= SETTINGS
            if integers or array.ndim == 0 or name in ("scales", "roi", "values"):
                yield name


def with_constants(case: NodeCase, names: Sequence[str]) -> onnx.ModelProto:
    """The model of a case with some inputs as initializers."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(case.inputs[name]), name) for name in names)
    return model


def feed(case: NodeCase, program: Program) -> list[torch.Tensor]:
    """The inputs of a case in the order and the element types of a program."""
    wanted = [(str(node.target), program.tensor_type(node).dtype) for node in program.inputs]
    return [as_tensor(case.inputs[name]).to(dtype) for name, dtype in wanted]


def as_tensor(value: object) -> torch.Tensor:
    """A numpy array as a tensor, element types of ml_dtypes included; those that torch lacks go through float32."""
    array = np.array(value)
    try:
        return torch.from_numpy(array)
    except TypeError:
        return torch.from_numpy(array.astype(np.float32))


def check(case: NodeCase) -> tuple[Outcome, Program | None]:
    """Import and interpretation of a case; the program comes back when it gave the right results."""
    try:
        program, fixed = imported(case)
        results = evaluate(program, feed(case, program))
    except UnsupportedError as error:
        return Outcome("unsupported", error.what, where=error.where), None
    except Exception as error:
        return Outcome("failed", f"{type(error).__name__}: {error}"), None
    problem = difference(case, results)
    return (Outcome("failed", problem, fixed), None) if problem else (Outcome("passed", "", fixed), program)


def round_trip(case: NodeCase, traced: Program) -> Outcome:
    """Canonical passes, the ONNX writer and ONNX Runtime, on a program that `check` passed."""
    target = cpu()
    inputs = feed(case, traced)
    try:
        program, _ = run_passes(traced, CANONICAL, Context(target), options=Options(check="off"), sample=inputs)
        model = write_model(program, opset=int(str(target.settings["opset"])))
    except UnsupportedError as error:
        return Outcome("unsupported", error.what, where=error.where)
    except Exception as error:
        return Outcome("failed", f"{type(error).__name__}: {error}")
    try:
        session = open_session(onnx_bytes(model), threads=1)
        results = session.run(dict(zip(program.input_names, inputs, strict=True)))
    except InputError as error:
        beyond = any(words in error.what for words in UNRUNNABLE)
        return Outcome("unsupported" if beyond else "failed", error.what)
    except Exception as error:
        return Outcome("failed", f"{type(error).__name__}: {error}")
    problem = difference(case, results)
    return Outcome("failed" if problem else "passed", problem)


def onnx_bytes(model: object) -> bytes:
    """A written model as the bytes of its file."""
    import onnx_ir

    if not isinstance(model, onnx_ir.Model):
        raise TypeError("the writer yields onnx-ir models")
    return onnx_ir.to_proto(model).SerializeToString()


@cache
def cpu() -> Target:
    """ONNX Runtime on this machine."""
    return load_target("onnxruntime", backends())


def difference(case: NodeCase, results: Sequence[torch.Tensor]) -> str:
    """How the results differ from the expected ones; empty when they agree."""
    if len(results) != len(case.outputs):
        return f"{len(results)} results instead of {len(case.outputs)}"
    for index, (found, expected) in enumerate(zip(results, case.outputs, strict=True)):
        if not isinstance(expected, np.ndarray | np.generic):
            return f"result {index} must be a {type(expected).__name__}"
        problem = _unlike(found, np.asarray(expected), case.rtol, case.atol)
        if problem:
            return f"result {index}: {problem}"
    return ""


def _unlike(found: torch.Tensor, expected: Array, rtol: float, atol: float) -> str:
    if tuple(found.shape) != expected.shape:
        return f"shape {list(found.shape)} instead of {list(expected.shape)}"
    wanted = as_tensor(expected)
    if found.is_floating_point() != ("float" in expected.dtype.name):
        return f"element type {found.dtype} instead of {expected.dtype}"
    if not found.is_floating_point() and not found.is_complex():
        same = found.to(torch.int64) == wanted.to(torch.int64)
        return "" if bool(same.all()) else f"{int((~same).sum())} of {same.numel()} integers differ"
    rtol = max(rtol, LOOSE.get(expected.dtype.name, 0.0))
    finite = wanted.double().abs().nan_to_num(posinf=0.0)
    if finite.numel() and found.dtype in (torch.float32, torch.float64):
        atol = max(atol, ROUNDING * torch.finfo(found.dtype).eps * float(finite.max()))
    close = torch.isclose(found.double(), wanted.double(), rtol=rtol, atol=atol, equal_nan=True)
    gap = (found.double() - wanted.double()).abs().nan_to_num()
    return (
        "" if bool(close.all()) else f"{int((~close).sum())} of {close.numel()} reals differ, by up to {gap.max():.3g}"
    )
