"""ONNX files with explicit quantization, for onnxruntime and for compilers that read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import torch

from qcompiler.backends.onnx.audit import audit
from qcompiler.backends.onnx.guards import GUARDS
from qcompiler.backends.onnx.kernels import kernel_emitters
from qcompiler.backends.onnx.lower import lower
from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.onnx.settings import settings_of
from qcompiler.backends.onnx.writer import check_writable, save_model, write_model
from qcompiler.backends.reference import MEANINGS
from qcompiler.ir.program import Program
from qcompiler.target import Guard, LayerAudit, Runner, Target

MODEL_FILE = "model.onnx"
RUNTIME_KEY = "qcompiler.runtime"
PLAIN_ARITHMETIC = {"session.disable_quant_qdq": "1"}


class OnnxBackend:
    """Lowers to kernel calls, writes them as ONNX, reads back what onnxruntime runs."""

    name: str = "onnx"
    guards: Mapping[str, Guard] = GUARDS

    def check(self, program: Program, target: Target) -> None:
        """Raises UnsupportedError for what a canonical program holds and ONNX has no form for."""
        check_writable(program, settings_of(target).opset)

    def lower(self, program: Program, target: Target) -> Program:
        """Quantized program to kernel calls; raises VerifyError where the graph does not fit a kernel."""
        return lower(program, target)

    def emit(self, program: Program, target: Target, folder: Path) -> Sequence[str]:
        """Writes `model.onnx` (and `model.onnx.data` when it is large); returns the names of the files.

        Raises UnsupportedError for what ONNX cannot say, InputError when the folder cannot be written.
        """
        settings = settings_of(target)
        model = write_model(program, opset=settings.opset, kernel_emitters=kernel_emitters(settings))
        model.metadata_props[RUNTIME_KEY] = settings.runtime
        save_model(model, folder / MODEL_FILE)
        return sorted(path.name for path in folder.glob(f"{MODEL_FILE}*"))

    def audit(self, program: Program, target: Target, folder: Path) -> Sequence[LayerAudit]:
        """One record per layer; empty for files that another machine's compiler will read."""
        if settings_of(target).runtime != "onnxruntime":
            return ()
        return audit(folder / MODEL_FILE, program, target)

    def meanings(self) -> Mapping[str, Callable[..., object]]:
        """What each kernel computes."""
        return MEANINGS

    def runner(self, folder: Path) -> Runner:
        """Runs `model.onnx` with onnxruntime: flat inputs in the order of the file to flat results.

        A file for another runtime is run as the plain arithmetic that it says: fusing signed activations, which such
        files have, is slow and in some graphs impossible for onnxruntime.
        """
        path = folder / MODEL_FILE
        model = onnx.load(str(path), load_external_data=False)
        written_for = next((prop.value for prop in model.metadata_props if prop.key == RUNTIME_KEY), "onnxruntime")
        session = open_session(path, entries=None if written_for == "onnxruntime" else PLAIN_ARITHMETIC)
        # The session leaves out inputs that nothing reads.
        names = [value.name for value in model.graph.input]

        def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            return session.run(dict(zip(names, inputs, strict=True)))

        return run
