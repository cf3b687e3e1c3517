"""Targets that ship more than one kind of file: the same quantized program, written by several backends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qcompiler.builds import Tells
from qcompiler.ir import ops
from qcompiler.ir.program import Program
from qcompiler.job import backends
from qcompiler.target import Backend, Target
from qcompiler.targets import load_target


def emit_companions(target: Target, quantized: Program, folder: Path) -> tuple[list[str], list[str]]:
    """Writes a quantized program for the companions of a target.

    Args:
        target: the one that was compiled for.
        quantized: after the last pass.
        folder: of the artefact; each companion's backend writes a folder of its own there.

    Returns:
        the files, and what the report says of them; none of a companion that has a kernel for nothing in the program.

    Raises:
        SpecError: for a companion that does not exist.
        VerifyError: where the graph does not fit a kernel.
    """
    files: list[str] = []
    lines: list[str] = []
    for name in target.companions:
        companion = load_target(name, backends())
        lowered = companion.backend.lower(quantized, companion)
        if not any(node.target is ops.kernel for node in lowered.nodes):
            continue
        files += companion.backend.emit(lowered, companion, folder)
        lines += told(companion.backend, folder)
    return files, lines


def told(backend: Backend, folder: Path) -> Sequence[str]:
    """What a backend says in the report of the files that it wrote."""
    return backend.tell(folder) if isinstance(backend, Tells) else ()
