"""qcompiler: a quantization compiler. A PyTorch or ONNX model goes in, low-bit ONNX and kernels come out.

The public names below are loaded at first use, so importing the package loads neither torch nor onnx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qcompiler import errors
    from qcompiler.artifact import Artifact
    from qcompiler.budget import Budget
    from qcompiler.compiler import compile, load, parse
    from qcompiler.data import Inputs
    from qcompiler.exporter import export
    from qcompiler.frontends.torch_meta import without_weights
    from qcompiler.ir.program import Program
    from qcompiler.passes.recipes import Recipe
    from qcompiler.plan import Plan
    from qcompiler.spec import QuantSpec
    from qcompiler.target import Target
    from qcompiler.tracer import trace
else:
    _HOMES = {
        "Artifact": "qcompiler.artifact",
        "Budget": "qcompiler.budget",
        "Inputs": "qcompiler.data",
        "Plan": "qcompiler.plan",
        "Program": "qcompiler.ir.program",
        "QuantSpec": "qcompiler.spec",
        "Recipe": "qcompiler.passes.recipes",
        "Target": "qcompiler.target",
        "compile": "qcompiler.compiler",
        "export": "qcompiler.exporter",
        "load": "qcompiler.compiler",
        "parse": "qcompiler.compiler",
        "trace": "qcompiler.tracer",
        "without_weights": "qcompiler.frontends.torch_meta",
    }

    def __getattr__(name: str) -> object:
        if name == "errors":
            return import_module("qcompiler.errors")
        if name not in _HOMES:
            raise AttributeError(f"module 'qcompiler' has no attribute '{name}'")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return sorted([*__all__, "__version__"])


__all__ = [
    "Artifact",
    "Budget",
    "Inputs",
    "Plan",
    "Program",
    "QuantSpec",
    "Recipe",
    "Target",
    "compile",
    "errors",
    "export",
    "load",
    "parse",
    "trace",
    "without_weights",
]
