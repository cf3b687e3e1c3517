"""Turning by whichever method measures best, for each value.

Formula   argmin over the candidates of all methods, and leaving the value alone, of the output error of its readers
Shapes    T of [channels]
Promise   Exact(1e-9); never worse than no transform on the calibration rows
Needs     calibration data
Source    own: no rotation and no order of scale and rotation wins everywhere, measured errors choose
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.choice import chosen
from qcompiler.passes.transform.rotation import online
from qcompiler.passes.transform.rotation.adaptive import AdaptiveRotation
from qcompiler.passes.transform.rotation.quantface import QuantFace
from qcompiler.passes.transform.rotation.quantvggt import QuantVggt
from qcompiler.passes.transform.rotation.robuq import RobuQ
from qcompiler.passes.transform.rotation.site import Candidate, TurnMethod, TurnSite
from qcompiler.passes.transform.rotation.smooth_fused import SmoothFused
from qcompiler.passes.transform.rotation.viditq import ViditQ
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request

CHOICES: tuple[TurnMethod, ...] = (
    QuantFace(),
    ViditQ(),
    AdaptiveRotation(),
    QuantVggt(),
    SmoothFused(),
    RobuQ(),
)


@dataclass(frozen=True)
class Turn:
    """Tries several methods.

    Args:
        methods: their names with `|` between them, options at their defaults.
        block: channels that are mixed; 0 for as many as there is a Hadamard matrix for.
        guard: whether a value that comes out no better is left alone.
        samples: how many rows of each value errors are measured on.
        seed: of the random signs.
    """

    methods: str = "quantface|adaptive_rotation"
    block: int = 0
    guard: bool = True
    samples: int = 256
    seed: int = 0
    name: ClassVar[str] = "turn"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def __post_init__(self) -> None:
        _ = self.chosen

    @property
    def chosen(self) -> tuple[TurnMethod, ...]:
        """The methods behind the names; raises SpecError for an unknown one."""
        return chosen(self.methods, CHOICES, "method of turning")

    def candidates(self, site: TurnSite) -> Sequence[Candidate]:
        """What every method proposes."""
        return [candidate for method in self.chosen for candidate in method.candidates(site)]

    def requests(self, program: Program) -> list[Request]:
        """Samples of every value to be turned."""
        return online.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with the transforms put in.

        Raises:
            InputError: without calibration data.
        """
        return online.turn(program, ctx, self)
