"""Rotation first, smoothing in the rotated space: it evens out the variance that a rotation leaves among its channels.

Formula   T = R . diag(1 / s), s = a^alpha / max|W R|^(1 - alpha), a the mean over groups of rows of max|X R|
Shapes    rows [rows, channels], columns [results, channels] -> T of [channels]
Promise   Exact(1e-9); with `guard` never worse than no transform on the calibration rows
Needs     calibration data
Source    Feng et al. 2025, "Quantized Visual Geometry Grounded Transformer"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.factors import Chain, Diagonal, Factor
from qcompiler.passes.transform.rotation import online
from qcompiler.passes.transform.rotation.site import Candidate, TurnSite, peaks, typical_peaks
from qcompiler.passes.transform.smoothing.method import check_share, migrated
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request


@dataclass(frozen=True)
class QuantVggt:
    """Rotates, then scales.

    Args:
        alpha: share of the rotated range that moves into the weights.
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
    name: ClassVar[str] = "quantvggt"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def __post_init__(self) -> None:
        check_share(self.alpha)

    def candidates(self, site: TurnSite) -> Sequence[Candidate]:
        """The rotation alone, and with the scale behind it."""
        scaled = turned_then_scaled(site.rows, site.columns, site.turn, self.alpha)
        return [Candidate("turned", site.turn), Candidate("turned, scaled", scaled)]

    def requests(self, program: Program) -> list[Request]:
        """Samples of every value to be turned."""
        return online.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with the transforms put in.

        Raises:
            InputError: without calibration data.
        """
        return online.turn(program, ctx, self)


def turned_then_scaled(rows: Tensor, columns: Tensor, turn: Factor, alpha: float) -> Chain:
    """The rotation, then the scale that the turned rows and weights show."""
    scale = migrated(typical_peaks(turn.times(rows)), peaks(turn.times(columns)), alpha, 1 - alpha)
    return Chain((turn, Diagonal(scale.reciprocal())))
