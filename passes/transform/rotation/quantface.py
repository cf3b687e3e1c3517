"""Rotation-scaling channel balancing: rotation and scale in either order, whichever leaves less error.

Formula   T = R . diag(1 / s) or diag(1 / s) . R, s = peak^alpha / column^(1 - alpha) in the basis where it acts
Shapes    rows [rows, channels], columns [results, channels] -> T of [channels]
Promise   Exact(1e-9); with `guard` never worse than no transform on the calibration rows
Needs     calibration data
Source    Li et al. 2025, "QuantFace: Low-Bit Post-Training Quantization for One-Step Diffusion Face Restoration"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.rotation import online
from qcompiler.passes.transform.rotation.quantvggt import turned_then_scaled
from qcompiler.passes.transform.rotation.site import Candidate, TurnSite
from qcompiler.passes.transform.rotation.smooth_fused import scaled_then_turned
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class QuantFace:
    """Rotates and scales, in the better order.

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
    name: ClassVar[str] = "quantface"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def candidates(self, site: TurnSite) -> Sequence[Candidate]:
        """Both orders with every share, and the rotation alone."""
        rows, columns, turn = site.rows, site.columns, site.turn
        found = [Candidate("turned", turn)]
        for alpha in ALPHAS:
            after = turned_then_scaled(rows, columns, turn, alpha)
            before = scaled_then_turned(rows, columns, turn, alpha)
            found.append(Candidate(f"turned, scaled by {alpha:g}", after))
            found.append(Candidate(f"scaled by {alpha:g}, turned", before))
        return found

    def requests(self, program: Program) -> list[Request]:
        """Samples of every value to be turned."""
        return online.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with the transforms put in.

        Raises:
            InputError: without calibration data.
        """
        return online.turn(program, ctx, self)
