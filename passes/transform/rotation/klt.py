"""KLT-enhanced rotation: groups that a rotation can be folded into are turned to where all channels are equally strong.

Formula   T = U . H from the second moment of what the readers of a group read (`karhunen_loeve`); against it stand the
          plain Hadamard matrix and no rotation, the least output error wins. Without data the Hadamard matrix
Shapes    T [size, size] for each fibre
Promise   Exact(1e-9); costs nothing at run time
Needs     calibration data for anything but Hadamard matrices
Source    Xu et al. 2025, "MambaQuant: Quantizing the Mamba Family with Variance Aligned Rotation Methods"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.factors import Dense, Factor
from qcompiler.passes.transform.rotation.driver import Folding, FoldSite, fold
from qcompiler.passes.transform.rotation.karhunen_loeve import karhunen_loeve
from qcompiler.pipeline import Context, Exact, Promise


@dataclass(frozen=True)
class Klt:
    """Folds rotations made from data.

    Args:
        residual: whether groups that several operators write into are turned.
        values: whether groups with one writer are turned, such as the values of each attention head.
        samples: how many rows of each value moments and errors are measured on.
        seed: of the random signs.
    """

    residual: bool = True
    values: bool = True
    samples: int = 512
    seed: int = 0
    name: ClassVar[str] = "klt"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def foldable(self, site: FoldSite) -> Sequence[Sequence[Factor]]:
        """The rotations of the fibres' own moments, and Hadamard matrices."""
        mixing = [site.hadamard(fibre) for fibre in range(site.fibres)]
        own: list[Factor] = []
        for fibre, factor in enumerate(mixing):
            rows = site.rows(fibre).double()
            own.append(Dense(karhunen_loeve(rows.T @ rows, factor)) if len(rows) else factor)
        return [own, mixing]

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with rotations folded in."""
        folding = Folding(self.residual, self.values, samples=self.samples, seed=self.seed)
        return fold(program, ctx, self, folding).program
