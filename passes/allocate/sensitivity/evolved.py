"""The sensitivity that evolution found.

Formula   FOUND, in the language of `formula`; an option costs the score times its relative noise
Shapes    float64 [options, 1] per unit
Promise   not below 0
Needs     calibration data; derivatives; flow that no norm stops, where the formula asks for `virtual`
Source    Dong et al. 2023, "EMQ"; found by `python -m benchmarks.evolve_sensitivity`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.passes.allocate.problem import Unit
from qcompiler.passes.allocate.sensitivity.formula import INGREDIENTS, ingredients, parse_formula
from qcompiler.passes.allocate.sensitivity.method import Harm, Subject, graded

FOUND = "size: curvature.largest.exp + weight.exp.exp"


@dataclass(frozen=True)
class Evolved:
    """A formula that ranks bit assignments best on small networks.

    Args:
        formula: see `formula`.
    """

    formula: str = FOUND
    name: ClassVar[str] = "evolved"
    needs_data: ClassVar[bool] = True
    judged_by: ClassVar[Harm] = "auto"

    def __post_init__(self) -> None:
        parse_formula(self.formula)

    def losses(self, subject: Subject, units: Sequence[Unit]) -> Iterator[Tensor]:
        """See `Sensitivity`."""
        formula = parse_formula(self.formula)
        wanted = [name for name in INGREDIENTS if name in formula.genes]
        for unit, known in zip(units, ingredients(subject, units, wanted), strict=True):
            yield graded(subject, unit, torch.tensor([max(formula.score(known), 0.0)]))
