"""Kernel calls as a library of CUDA kernels runs them; operators that have no kernel there stay as they are."""

from __future__ import annotations

from torch.fx.node import Argument

from qcompiler.backends.cuda.groups import block_of, group_of
from qcompiler.backends.cuda.image_guards import IMAGES, leave_to_floats
from qcompiler.backends.cuda.product import way_of
from qcompiler.backends.cuda.reading import readable
from qcompiler.backends.cuda.vectors import takes
from qcompiler.backends.cuda.weight_only import decodes
from qcompiler.backends.lowering.calls import Style, lower_calls
from qcompiler.backends.lowering.codebooks import take_codebooks
from qcompiler.backends.reference.grouped import GROUPED_MEANINGS
from qcompiler.ir.program import Program
from qcompiler.ir.verify import verify
from qcompiler.plan import Assignment
from qcompiler.target import Target

PRODUCTS = frozenset({"linear", "linear_dynamic", "linear_wide", "linear_binary", *GROUPED_MEANINGS})
WEIGHT_ONLY = "linear_weight_only"
_INTEGER_BIAS = frozenset({"conv", "linear_codes"})
_WIDEST = 1


def lower(program: Program, target: Target) -> Program:
    """The program at stage lowered.

    Raises:
        VerifyError: where the graph around an assigned operator is not what its kernel needs.
    """
    wanted = program.copy()
    leave_to_floats(wanted)
    lowered = lower_calls(wanted, target.kernels, Style(_INTEGER_BIAS, _leaves, _attributes, frozenset({WEIGHT_ONLY})))
    take_codebooks(lowered, lambda node, found: takes(lowered, node, found))
    lowered.erase_dead()
    verify(lowered)
    return lowered


def _leaves(assigned: Assignment) -> bool:
    """Whether a library has no kernel for an operator that another target's rows chose."""
    if assigned.kernel in IMAGES:
        return False
    if assigned.kernel == WEIGHT_ONLY:
        return not decodes(assigned.inputs["weight"])
    if assigned.kernel not in PRODUCTS or assigned.result is not None:
        return True
    weight, source = assigned.inputs["weight"], assigned.inputs["input"]
    return way_of(weight, source) is None or not readable(source, _WIDEST)


def _attributes(assigned: Assignment) -> dict[str, Argument]:
    """Weight-only layers say their spec, layers of groups the size of these."""
    if assigned.kernel in GROUPED_MEANINGS:
        group, block = group_of(assigned.inputs["weight"]), block_of(assigned.inputs["input"])
        return {"group": group, "blocked": True} if block else {"group": group}
    if assigned.kernel != WEIGHT_ONLY:
        return {}
    return {"spec": assigned.inputs["weight"]}  # pyright: ignore[reportReturnType]
