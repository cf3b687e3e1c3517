"""RobuQ: every token is turned by a Hadamard matrix, so that its coordinates come close to a normal distribution.

Formula   T = R; a sum of many coordinates with random signs is nearly normal whatever they are (central limit), so that
          `normal_step` knows the best grid without looking at data
Shapes    T of [channels]
Promise   Exact(1e-9); with `guard` never worse than no transform on the calibration rows
Needs     calibration data, unless `guard` is off
Source    Yang et al. 2025, "RobuQ: Pushing DiTs to W1.58A2 via Robust Activation Quantization"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.rotation import online
from qcompiler.passes.transform.rotation.site import Candidate, TurnSite
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request


@dataclass(frozen=True)
class RobuQ:
    """Rotates every value to be quantized.

    Args:
        block: channels that are mixed; 0 for as many as there is a Hadamard matrix for.
        guard: whether a value that comes out no better is left alone.
        samples: how many rows of each value errors are measured on.
        seed: of the random signs.
    """

    block: int = 0
    guard: bool = True
    samples: int = 256
    seed: int = 0
    name: ClassVar[str] = "robuq"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def candidates(self, site: TurnSite) -> Sequence[Candidate]:
        """The rotation."""
        return [Candidate("turned", site.turn)]

    def requests(self, program: Program) -> list[Request]:
        """Samples of every value to be turned, where that is to be measured."""
        return online.requests(program, self) if self.guard else []

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with the rotations put in.

        Raises:
            InputError: when it is to be measured without calibration data.
        """
        return online.turn(program, ctx, self, blind=not self.guard)
