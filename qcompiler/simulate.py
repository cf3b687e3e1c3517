"""What ships, without the runtime that runs it: a lowered program by the meanings of its kernels.

Every kernel's meaning states its rounding, its accumulator, how it requantizes and what it quantizes at run time, so
that integers are those of the device. Operators that stay in float are those of the device too where its backend
says in which order it adds up and rounds; else they are torch's, a few roundings away from another library's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from qcompiler.ir.interp import KernelMeaning, Observer, evaluate
from qcompiler.ir.program import Program
from qcompiler.target import Runner

Simulation = Literal["quantized", "deployed"]
"""What predicts accuracy: quantize and dequantize around float operators, or the kernels that ship."""
Meanings = Mapping[str, Callable[..., object]]


@runtime_checkable
class FloatMeanings(Protocol):
    """A backend that knows in which order its runtime computes operators that stay in float."""

    def float_meanings(self) -> Meanings:
        """What they compute, to the bit, by operator; and kernels that stay in float, by name."""
        ...


def simulation(
    program: Program,
    meanings: Mapping[str, KernelMeaning],
    observe: Observer | None = None,
    observed: frozenset[str] | None = None,
) -> Runner:
    """Runs a lowered program by what its kernels mean: flat inputs to flat results, without gradients.

    Args:
        program: at stage lowered.
        meanings: of the target's kernels, by name, and of operators that it computes in an order of its own.
        observe: called with every operator node that yields one tensor, and its value; kernels yield codes.
        observed: names of the nodes to show; all when None.
    """

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return evaluate(program, inputs, kernels=meanings, observe=observe, observed=observed)

    return run
