"""Weights that are codes of vectors in tables, as generated C takes them: see `backends.lowering.codebooks`."""

from __future__ import annotations

import torch

from qcompiler.backends.c.codebook_packing import LONGEST
from qcompiler.backends.lowering import codebooks
from qcompiler.ir.program import Node, Program

_HALF = (torch.float16, torch.bfloat16)


def take_codebooks(program: Program) -> None:
    """Puts kernels in the place of linear layers with such weights, and float32 in the place of stored halves.

    Args:
        program: at stage lowered; changed in place.
    """
    codebooks.take_codebooks(program, lambda _, found: found.length <= LONGEST)
    for node in program.nodes:
        _widen(program, node)


def _widen(program: Program, node: Node) -> None:
    """A parameter in half precision that is cast to float32 becomes one of float32."""
    if program.op(node) != "aten._to_copy":
        return
    source = program.bind(node)["self"]
    if not isinstance(source, Node) or source.op != "get_attr":
        return
    if program.tensor_type(source).dtype not in _HALF or program.tensor_type(node).dtype != torch.float32:
        return
    wide = program.before(node, codebooks.STEP).param(f"{source.target}.wide", program.param(source).float())
    program.replace(node, wide)
