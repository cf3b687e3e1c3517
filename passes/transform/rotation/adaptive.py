"""Adaptive rotation: a Hadamard matrix turns mild activations, an outlier-aware rotation those with strong channels.

Formula   fluctuation = max_j a_j / median_j a_j of channel peaks a; Hadamard below the threshold, else the blocks of
          `outlier_aware`; with `measure` both are tried and the one with less output error stays
Shapes    rows [rows, channels] -> T of [channels]
Promise   Exact(1e-9); with `guard` never worse than no transform on the calibration rows
Needs     calibration data
Source    Yang et al. 2025, "LRQ-DiT: Log-Rotation Post-Training Quantization of Diffusion Transformers"; the measure of
          fluctuation and the threshold: own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.rotation import online
from qcompiler.passes.transform.rotation.outlier_aware import block_rotation, divisor_near, fluctuation
from qcompiler.passes.transform.rotation.site import Candidate, TurnSite, peaks
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request


@dataclass(frozen=True)
class AdaptiveRotation:
    """Chooses a rotation for each value.

    Args:
        threshold: fluctuation from which a value counts as having strong channels.
        measure: whether the output error decides instead.
        size: channels per block of the outlier-aware rotation.
        steps: turns that its search tries.
        block: channels that are mixed; 0 for as many as there is a Hadamard matrix for.
        guard: whether a value that comes out no better is left alone.
        samples: how many rows of each value errors are measured on.
        seed: of the random signs.
    """

    threshold: float = 10.0
    measure: bool = True
    size: int = 128
    steps: int = 64
    block: int = 0
    guard: bool = True
    samples: int = 256
    seed: int = 0
    name: ClassVar[str] = "adaptive_rotation"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def candidates(self, site: TurnSite) -> Sequence[Candidate]:
        """One rotation or the other, or both where they are measured."""
        strong = fluctuation(peaks(site.rows)) >= self.threshold
        found: list[Candidate] = []
        if self.measure or not strong:
            found.append(Candidate("turned by Hadamard", site.turn))
        if self.measure or strong:
            size = divisor_near(site.channels, self.size)
            aware = block_rotation(site.rows, size, self.steps, site.seed)
            found.append(Candidate("turned by outliers", aware))
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
