"""ViDiT-Q: a static channel mask over all time steps, then a Hadamard rotation; tokens find their scales when they run.

Formula   T = diag(m) . R, m = max|W_:j|^a / max|X_j|^(1 - a); the share a of each value by its measured output error
Shapes    rows [rows, channels], columns [results, channels] -> T of [channels]
Promise   Exact(1e-9); with `guard` never worse than no transform on the calibration rows
Needs     calibration data of all time steps
Source    Zhao et al. 2024, "ViDiT-Q: Efficient and Accurate Quantization of Diffusion Transformers for Image and Video
          Generation"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.rotation import online
from qcompiler.passes.transform.rotation.site import Candidate, TurnSite
from qcompiler.passes.transform.rotation.smooth_fused import scaled_then_turned
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request

SHARES = (0.1, 0.3, 0.5, 0.7)


@dataclass(frozen=True)
class ViditQ:
    """Masks, then rotates; the mask is searched for each value.

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
    name: ClassVar[str] = "viditq"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def candidates(self, site: TurnSite) -> Sequence[Candidate]:
        """The rotation alone, and after the mask of each share."""
        turned = [Candidate("turned", site.turn)]
        for share in SHARES:
            # The mask multiplies, so that its exponents are those of a scale with the sides exchanged.
            factor = scaled_then_turned(site.rows, site.columns, site.turn, 1 - share)
            turned.append(Candidate(f"masked with share {share:g}, turned", factor))
        return turned

    def requests(self, program: Program) -> list[Request]:
        """Samples of every value to be turned."""
        return online.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with the transforms put in.

        Raises:
            InputError: without calibration data.
        """
        return online.turn(program, ctx, self)
