"""Cross-layer equalisation: rows of a writer and columns of a reader get equal ranges, without any data.

Formula   r1_i = max |W1_i:| over writers, r2_i = max |W2_:i| over readers; f = sqrt(r2 / r1); f_i W1_i:, W2_:i / f_i;
          again over all groups until nothing moves, since a layer is a reader of one and a writer of another
Shapes    one factor per coordinate of a group; 1 where either range is zero
Promise   Exact(1e-9)
Needs     nothing
Source    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction"
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from qcompiler.analysis.groups import Site, SymmetryGroup, gathered
from qcompiler.analysis.symmetry import symmetries
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.transform import surgery
from qcompiler.passes.transform.smoothing.method import migrated
from qcompiler.pipeline import Context, Exact, Promise

_SETTLED = 1e-3


@dataclass(frozen=True)
class Equalize:
    """Equalises the ranges of weights on both sides of every group.

    Args:
        sweeps: most rounds over all groups.
    """

    sweeps: int = 20
    name: ClassVar[str] = "equalize"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact(1e-9)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with equalised weights."""
        draft = program.copy()
        groups = [group for group in symmetries(draft).scales if _sides(draft, group)]
        totals = [torch.ones(group.fibres, group.size, dtype=torch.float64) for group in groups]
        for sweep in range(self.sweeps):
            moved = 0.0
            for group, total in zip(groups, totals, strict=True):
                factor = equalizing(draft, group)
                surgery.scale(draft, group, factor, self.name)
                total *= factor
                moved = max(moved, factor.log().abs().max().item())
            ctx.progress(sweep + 1, self.sweeps)
            if moved < _SETTLED:
                break
        known = {group.name: total for group, total in zip(groups, totals, strict=True)}
        for group in symmetries(program).scales:
            if group.name in known:
                surgery.scale(program, group, known[group.name], self.name)
        ctx.log(f"{len(groups)} groups equalised")
        return program


def equalizing(program: Program, group: SymmetryGroup) -> Tensor:
    """What the values of a group are multiplied by so that ranges meet: [fibres, size] float64."""
    writers, readers = _sides(program, group) or ((), ())
    written, read = _ranges(program, group, writers), _ranges(program, group, readers)
    return migrated(read, written, 0.5, 0.5)


def _sides(program: Program, group: SymmetryGroup) -> tuple[list[Site], list[Site]] | None:
    """Matrices that write and read the values with the exponent 1; None where one of the sides has none."""
    writers = [site for site in group.writers if _is_matrix(program, site)]
    readers = [site for site in group.readers if _is_matrix(program, site)]
    return (writers, readers) if writers and readers else None


def _is_matrix(program: Program, site: Site) -> bool:
    constant = program.bind(site.node).get(site.argument)
    if not isinstance(constant, Node) or constant.op != "get_attr":
        return False
    return program.tensor_type(constant).rank > 1 and site.exponent == 1 and not site.dual


def _ranges(program: Program, group: SymmetryGroup, sites: Iterable[Site]) -> Tensor:
    """Largest weight of each coordinate over all copies: [fibres, size] float64."""
    found = torch.zeros(group.fibres, group.size, dtype=torch.float64)
    for site in sites:
        constant = program.exact(cast(Node, program.bind(site.node)[site.argument])).abs()
        laid = constant if site.place.groups == 1 else gathered(constant, site.place.groups)
        largest = laid.movedim(site.place.axis, 0).flatten(1).amax(1)
        for row, fibre in zip(site.place.index, site.place.fibre.tolist(), strict=True):
            found[fibre] = torch.maximum(found[fibre], largest[row])
    return found
