"""ONNX files with explicit quantization, for onnxruntime and for compilers that read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch

from qcompiler.backends.lowering.guards import GUARDS
from qcompiler.backends.onnx.audit import audit
from qcompiler.backends.onnx.kernels import kernel_emitters
from qcompiler.backends.onnx.legal import RUNTIME_RULES
from qcompiler.backends.onnx.legal.results import ENGINE_RULES
from qcompiler.backends.onnx.legalise import legalise
from qcompiler.backends.onnx.lower import lower
from qcompiler.backends.onnx.metadata import annotate
from qcompiler.backends.onnx.session import open_session
from qcompiler.backends.onnx.settings import settings_of
from qcompiler.backends.onnx.tensorrt import check_tensorrt
from qcompiler.backends.onnx.timing import time_calls, time_parts
from qcompiler.backends.onnx.writer import check_writable, save_model, write_model
from qcompiler.backends.reference import MEANINGS
from qcompiler.backends.reference.floats import FLOAT_MEANINGS
from qcompiler.clocks import Times, device_here
from qcompiler.cost import Device
from qcompiler.errors import UnsupportedError
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

        Raises UnsupportedError for what ONNX or the target's rules cannot say, InputError when the folder cannot be
        written.
        """
        settings = settings_of(target)
        model = write_model(
            program,
            opset=settings.opset,
            kernel_emitters=kernel_emitters(settings),
            four_bit_floats=settings.runtime == "elsewhere",
        )
        model.metadata_props[RUNTIME_KEY] = settings.runtime
        rules = RUNTIME_RULES if settings.runtime == "onnxruntime" else ENGINE_RULES
        legalise(model, rules, prepare=False)
        save_model(model, folder / MODEL_FILE, settings.inline_bytes)
        if settings.rules == "tensorrt":
            _check_rules(folder / MODEL_FILE, settings.capability)
        return sorted(path.name for path in folder.glob(f"{MODEL_FILE}*"))

    def annotate(self, folder: Path, model: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> None:
        """Writes properties into `model.onnx`: of the model, and of the nodes of each program node."""
        annotate(folder / MODEL_FILE, model, nodes)

    def audit(self, program: Program, target: Target, folder: Path) -> Sequence[LayerAudit]:
        """One record per layer; empty for files that another machine's compiler will read."""
        if settings_of(target).runtime != "onnxruntime":
            return ()
        return audit(folder / MODEL_FILE, program, target)

    def meanings(self) -> Mapping[str, Callable[..., object]]:
        """What each kernel computes."""
        return MEANINGS

    def float_meanings(self) -> Mapping[str, Callable[..., object]]:
        """What onnxruntime computes on this machine, on one thread, of operators that stay in float."""
        return FLOAT_MEANINGS

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

    def device(self, target: Target, threads: int) -> Device | None:
        """The machine; None for files that another machine will run."""
        if settings_of(target).runtime != "onnxruntime":
            return None
        return device_here(target.name, threads, f"onnxruntime {onnxruntime.__version__}")

    def calls(
        self, folders: Sequence[Path], inputs: Sequence[Sequence[torch.Tensor]], threads: int, runs: int
    ) -> list[list[float]]:
        """Seconds of every call of each `model.onnx`, run in turns."""
        return time_calls([folder / MODEL_FILE for folder in folders], inputs, threads, runs)

    def parts(
        self, folders: Sequence[Path], inputs: Sequence[Sequence[torch.Tensor]], threads: int, runs: int
    ) -> list[list[Times]]:
        """Seconds of the parts of every call of each `model.onnx`, which holds one layer, run in turns."""
        return time_parts([folder / MODEL_FILE for folder in folders], inputs, threads, runs)


def _check_rules(path: Path, capability: str) -> None:
    """Refuses a file that TensorRT would refuse, or run otherwise than asked."""
    major, _, minor = capability.partition(".")
    found = check_tensorrt(onnx.load(str(path), load_external_data=False), (int(major), int(minor)))
    wrong = [finding for finding in found if finding.level == "error"]
    if wrong:
        raise UnsupportedError(
            f"the file breaks {len(wrong)} rules of explicit quantization: {wrong[0].rule}: {wrong[0].what}",
            where=", ".join(finding.node for finding in wrong[:5]),
            step="emit",
            mend=wrong[0].mend,
        )
