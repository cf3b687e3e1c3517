"""No kernels at all: the quantized program itself runs, in exact fake quantization, on the interpreter.

For formats that no device here has a kernel for, and for knowing an accuracy before a kernel exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program, Stage
from qcompiler.plan import Assignment
from qcompiler.target import Guard, LayerAudit, Runner, Target
from qcompiler.weights import read_program, write_program


class ReferenceBackend:
    """Keeps quantize and dequantize nodes and evaluates them."""

    name: str = "reference"
    guards: Mapping[str, Guard] = MappingProxyType({})

    def lower(self, program: Program, target: Target) -> Program:
        """The same nodes at stage lowered."""
        lowered = program.copy()
        lowered.stage = Stage.LOWERED
        return lowered

    def emit(self, program: Program, target: Target, folder: Path) -> Sequence[str]:
        """Writes the program with its weights packed; raises OSError when it cannot."""
        return write_program(program, folder)

    def audit(self, program: Program, target: Target, folder: Path) -> Sequence[LayerAudit]:
        """Every layer runs as asked, since the interpreter takes every number."""
        return [
            LayerAudit(
                node.name,
                program.origin(node).module,
                program.op(node),
                " x ".join(spec.format.name for spec in assigned.inputs.values()),
                "simulated",
                ok=True,
            )
            for node in program.nodes
            if isinstance(assigned := node.meta.get("assignment"), Assignment)
        ]

    def meanings(self) -> Mapping[str, Callable[..., object]]:
        """None: there are no kernels."""
        return {}

    def runner(self, folder: Path) -> Runner:
        """Evaluates the written program: flat inputs to flat results."""
        program = read_program(folder)

        def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            with torch.no_grad():
                return evaluate(program, inputs)

        return run
