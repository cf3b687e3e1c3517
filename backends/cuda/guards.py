"""Predicates that the rows of CUDA targets name, beside those that all backends share."""

from __future__ import annotations

from collections.abc import Mapping

from qcompiler.backends.cuda.image_guards import IMAGE_GUARDS
from qcompiler.backends.cuda.reading import MOST_WIDTH
from qcompiler.backends.lowering import guards
from qcompiler.ir.program import Node, Program
from qcompiler.target import Guard

_VECTOR = 8


def row_fits(program: Program, node: Node) -> str:
    """A row of activations is quantized by one block, in registers."""
    width = _inputs(program, node)
    if width is None:
        return "the width of its input is not known"
    return f"its rows of {width} are wider than {MOST_WIDTH}" if width > MOST_WIDTH else ""


def whole_vectors(program: Program, node: Node) -> str:
    """Rows of half-precision activations are read 16 bytes at a time."""
    width = _inputs(program, node)
    if width is None:
        return "the width of its input is not known"
    return f"its {width} inputs are not a multiple of {_VECTOR}" if width % _VECTOR else ""


def _inputs(program: Program, node: Node) -> int | None:
    weight = program.bind(node)["weight"]
    width = program.shape(weight)[-1] if isinstance(weight, Node) else None
    return width if isinstance(width, int) else None


GUARDS: Mapping[str, Guard] = {**guards.GUARDS, **IMAGE_GUARDS, "row_fits": row_fits, "whole_vectors": whole_vectors}
