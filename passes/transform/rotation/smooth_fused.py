"""Smooth-fused rotation: channels are evened out by a scale, then mixed.

Formula   T = diag(1 / s) . R, s = peak^alpha / column^(1 - alpha): the scale folds into what writes the value where the
          graph allows it, the Hadamard rotation then spreads what is left
Shapes    rows [rows, channels], columns [results, channels] -> T of [channels]
Promise   Exact(1e-9); with `guard` never worse than no transform on the calibration rows
Needs     calibration data
Source    Xu et al. 2025, "MambaQuant: Quantizing the Mamba Family with Variance Aligned Rotation Methods"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.factors import Chain, Diagonal, Factor
from qcompiler.passes.transform.rotation import online
from qcompiler.passes.transform.rotation.site import Candidate, TurnSite, peaks
from qcompiler.passes.transform.smoothing.method import check_share, migrated
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request


@dataclass(frozen=True)
class SmoothFused:
    """Scales, then rotates.

    Args:
        alpha: share of the range that moves into the weights.
        block: channels that are mixed; 0 for as many as there is a Hadamard matrix for.
        guard: whether a value that comes out no better is left alone.
        samples: how many rows of each value errors are measured on.
        seed: of the random signs.
    """

    alpha: float = 0.5
    block: int = 0
    guard: bool = True
    samples: int = 256
    seed: int = 0
    name: ClassVar[str] = "smooth_fused"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def __post_init__(self) -> None:
        check_share(self.alpha)

    def candidates(self, site: TurnSite) -> Sequence[Candidate]:
        """The one transform."""
        return [Candidate("scaled, turned", scaled_then_turned(site.rows, site.columns, site.turn, self.alpha))]

    def requests(self, program: Program) -> list[Request]:
        """Samples of every value to be turned."""
        return online.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with the transforms put in.

        Raises:
            InputError: without calibration data.
        """
        return online.turn(program, ctx, self)


def scaled_then_turned(rows: Tensor, columns: Tensor, turn: Factor, alpha: float) -> Chain:
    """Scale by what the rows and the weights show, then the rotation."""
    scale = migrated(peaks(rows), peaks(columns), alpha, 1 - alpha)
    return Chain((Diagonal(scale.reciprocal()), turn))
