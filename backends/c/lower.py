"""Kernel calls as generated C runs them."""

from __future__ import annotations

from torch.fx.node import Argument

from qcompiler.backends.c.settings import Settings, settings_of
from qcompiler.backends.lowering.calls import Style, lower_calls
from qcompiler.ir.program import Program
from qcompiler.ir.verify import verify
from qcompiler.plan import Assignment
from qcompiler.target import Target

_INTEGER_BIAS = frozenset({"conv", "linear"})
_WEIGHT_ONLY = ("linear_weight_only", "embedding_weight_only")
_WHOLE_ROW_BLOCK = 32


def lower(program: Program, target: Target) -> Program:
    """The program at stage lowered.

    Raises:
        VerifyError: where the graph around an assigned operator is not what its kernel needs.
        SpecError: for an unknown setting of the target.
    """
    lowered = lower_calls(program, target.kernels, style_of(settings_of(target)))
    lowered.erase_dead()
    verify(lowered)
    return lowered


def style_of(settings: Settings) -> Style:
    """Biases of static layers are added in int32; weight-only layers say their spec, and the block of activations.

    Activations beside weights whose codes are places in a table stay floats: products of places mean nothing.
    """

    def attributes(assigned: Assignment) -> dict[str, Argument]:
        if assigned.kernel not in _WEIGHT_ONLY:
            return {}
        spec = assigned.inputs["weight"]
        found: dict[str, Argument] = {"spec": spec}  # pyright: ignore[reportAssignmentType]
        blocked = settings.weight_only == "int8" and spec.format.is_integer
        if assigned.kernel == "linear_weight_only" and blocked:
            found["block"] = spec.block[1] if spec.block[1] > 1 else _WHOLE_ROW_BLOCK
        return found

    return Style(_INTEGER_BIAS, lambda assigned: False, attributes)
