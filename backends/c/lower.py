"""Kernel calls as generated C runs them."""

from __future__ import annotations

import math

from torch.fx.node import Argument

from qcompiler.backends.c.codebooks import take_codebooks
from qcompiler.backends.c.emit import elementwise
from qcompiler.backends.c.rotary import turn_heads
from qcompiler.backends.c.settings import Settings, settings_of
from qcompiler.backends.c.shared_heads import share_heads
from qcompiler.backends.c.tables import look_up
from qcompiler.backends.lowering.calls import Style, lower_calls
from qcompiler.backends.lowering.operands import operand_of
from qcompiler.backends.reference.weights import run_time_block
from qcompiler.formats import BINARY
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.verify import verify
from qcompiler.plan import Assignment
from qcompiler.target import Target

_INTEGER_BIAS = frozenset({"conv", "linear"})
_REQUANTIZED = frozenset({"conv", "linear", "add", "mul", "matmul", "average_pool", "global_mean"})
_WEIGHT_ONLY = ("linear_weight_only", "embedding_weight_only")
_WHOLE_ROW_BLOCK = 32
_IN_PLANES = ("conv", "linear")
_MOST_PLANES, _WORD, _MOST_WORDS = 4, 64, 512
"""Of qc_gemm_bits.h: planes on either side, bits of a word, words of all planes of a row."""
_GROUPS = 7
"""Where a convolution says how many groups it has, behind the name of the kernel."""


def lower(program: Program, target: Target) -> Program:
    """The program at stage lowered.

    Raises:
        VerifyError: where the graph around an assigned operator is not what its kernel needs.
        SpecError: for an unknown setting of the target.
    """
    settings = settings_of(target)
    lowered = lower_calls(program, target.kernels, style_of(settings))
    if settings.few_bits == "planes":
        _take_planes(lowered)
    look_up(lowered, elementwise.EMITTERS)
    take_codebooks(lowered)
    share_heads(lowered)
    turn_heads(lowered)
    lowered.erase_dead()
    verify(lowered)
    return lowered


def _take_planes(program: Program) -> None:
    """Layers of few bits on both sides become products of bit planes."""
    for node in program.nodes:
        if node.target is ops.kernel and node.args[0] in _IN_PLANES and _few_bits(program, node):
            program.set_args(node, (f"{node.args[0]}_bits", *node.args[1:]), node.kwargs)


def _few_bits(program: Program, node: Node) -> bool:
    input, weight = (operand_of(part) for part in node.args[1:3])
    if (
        input is None
        or weight is None
        or node.kwargs.get("fixed")
        or node.args[_GROUPS : _GROUPS + 1] not in ((), (1,))
    ):
        return False
    if any(not part.spec.format.is_integer or part.spec.bits > _MOST_PLANES for part in (input, weight)):
        return False
    _, channels, *window = (int(size) for size in program.shape(weight.codes))
    words = math.prod(window) * -(-channels // _WORD) * input.spec.bits
    return words <= _MOST_WORDS and len(window) <= 2


def style_of(settings: Settings) -> Style:
    """Biases of static layers are added in int32; weight-only layers say their spec, and the block of activations;
    what is requantized in integers says so.

    Activations beside weights whose codes are places in a table stay floats: products of places mean nothing.
    """

    def attributes(assigned: Assignment) -> dict[str, Argument]:
        if assigned.kernel in _REQUANTIZED and settings.requantize == "integer":
            return {"fixed": True}
        if assigned.kernel not in _WEIGHT_ONLY:
            return {}
        spec = assigned.inputs["weight"]
        found: dict[str, Argument] = {"spec": spec}  # pyright: ignore[reportAssignmentType]
        counted = spec.format.is_integer or spec.format == BINARY
        if assigned.kernel == "linear_weight_only" and settings.weight_only == "int8" and counted:
            block = run_time_block(spec, spec.block[1] if spec.block[1] > 1 else _WHOLE_ROW_BLOCK)
            found |= {"block": block} if block else {}
        return found

    return Style(_INTEGER_BIAS, lambda assigned: False, attributes)
