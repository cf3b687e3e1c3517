"""Rotary embeddings become one kernel call each, where they are written out."""

from __future__ import annotations

import torch

from qcompiler.backends.lowering.rotary import rotary_of
from qcompiler.ir.program import Program

STEP = "lower"
KERNEL = "rotary_heads"


def turn_heads(program: Program) -> None:
    """Rewrites every rotary embedding of float32; what it was made of goes where nobody else reads it."""
    for node in program.nodes:
        found = rotary_of(program, node, doubled=False)
        if found is None or program.tensor_type(node).dtype != torch.float32:
            continue
        call = program.before(node, STEP).call(
            "qc.kernel",
            KERNEL,
            found.source,
            found.cos,
            found.sin,
            kwargs={"op": program.op(node)},
            name=f"{node.name}_turned",
            type_=program.type(node),
        )
        name = node.name
        program.replace(node, call)
        program.rename(call, name)
