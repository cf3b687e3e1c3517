"""Smoothing by whichever method measures best, for each group of channels.

Formula   argmin over the candidates of all methods, and leaving the group alone, of the output error of its readers
Shapes    as the methods
Promise   Exact(1e-9)
Needs     what the methods need
Source    own: no rule wins everywhere, measured errors choose
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.choice import chosen
from qcompiler.passes.transform.smoothing import driver
from qcompiler.passes.transform.smoothing.awq import Awq
from qcompiler.passes.transform.smoothing.cfp import Cfp
from qcompiler.passes.transform.smoothing.crossquant import CrossQuant
from qcompiler.passes.transform.smoothing.gps import Gps
from qcompiler.passes.transform.smoothing.llm_fp4 import PreShift
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingMethod, SmoothingSite
from qcompiler.passes.transform.smoothing.repq_vit import RepqVit
from qcompiler.passes.transform.smoothing.repquant import Repquant
from qcompiler.passes.transform.smoothing.smoothquant import SmoothQuant
from qcompiler.passes.transform.smoothing.sqb import SqB
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request

CHOICES: tuple[SmoothingMethod, ...] = (
    SmoothQuant(search=True),
    SqB(),
    RepqVit(),
    Repquant(),
    Gps(),
    CrossQuant(),
    Cfp(),
    Awq(),
    PreShift(),
)


@dataclass(frozen=True)
class Smooth:
    """Tries several methods.

    Args:
        methods: their names with `|` between them, options at their defaults (SmoothQuant searches its alpha).
        online: see `SmoothQuant`.
        guard: see `SmoothQuant`.
        samples: see `SmoothQuant`.
    """

    methods: str = "smoothquant|sqb|repq_vit|gps"
    online: bool = False
    guard: bool = True
    samples: int = 1024
    name: ClassVar[str] = "smooth"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def __post_init__(self) -> None:
        _ = self.chosen

    @property
    def chosen(self) -> tuple[SmoothingMethod, ...]:
        """The methods behind the names; raises SpecError for an unknown one."""
        return chosen(self.methods, CHOICES, "smoothing method")

    def candidates(self, site: SmoothingSite) -> Sequence[Smoothing]:
        """What every method proposes."""
        return [candidate for method in self.chosen for candidate in method.candidates(site)]

    def requests(self, program: Program) -> list[Request]:
        """Extremes and samples of every value to be smoothed."""
        return driver.requests(program, self)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with scales and shifts folded in.

        Raises:
            InputError: without calibration data.
        """
        return driver.smooth(program, ctx, self)
