"""AffineQuant: invertible matrices that grow from a diagonal outward while they are learned.

Formula   T = diag(d) (I + B); B holds a band beside the diagonal that is widened stage by stage, each row's sum of
          magnitudes at most 0.9, so that T always has an inverse. Least squared error of each stretch's results
Shapes    T [fibres, n, n] of every group that may take any invertible matrix; d alone for groups of scales
Promise   Exact: T is folded in float64; kept only where the error on held-out samples fell
Needs     assigned number formats, calibration data
Source    Ma et al. 2024, "AffineQuant: Affine Transformation Quantization for Large Language Models" (arXiv:2403.12544)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from qcompiler.analysis.groups import Action
from qcompiler.errors import SpecError
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.learned.bases import Band, Basis
from qcompiler.passes.transform.learned.driver import Lesson, can_learn, learn
from qcompiler.passes.transform.learned.matrices import band_widths
from qcompiler.passes.transform.learned.sites import (
    covered,
    range_requests,
    start_scale,
    turning_groups,
)
from qcompiler.passes.transform.learned.tasks import Folded, Online, Task, scale_tasks
from qcompiler.passes.transform.wanted import by_source, channels, wanted
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request
from qcompiler.training import Loss


@dataclass(frozen=True)
class AffineQuant:
    """Learns scales and invertible matrices, a residual block at a time.

    Args:
        steps: of training, for each stage of each stretch.
        stages: in how many steps the band is widened, after the diagonal.
        samples: calibration batches, at most.
        rows: examples per step.
        learning_rate: of the logarithms of diagonals.
        strength: of what is off the diagonal, in units of the learning rate.
        alpha: share of the difficulty that scales start with in the weights.
        online: put in matrices where nothing can be folded.
        finish: steps at the end in which everything learns together, from the final results.
        guard: keep only what lowers the held-out error; else everything, from where it starts.
        seed: of the order of examples.

    Raises:
        SpecError: for less than one stage.
    """

    name: ClassVar[str] = "affinequant"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact()

    steps: int = 50
    stages: int = 4
    samples: int = 64
    rows: int = 8
    learning_rate: float = 0.02
    strength: float = 0.3
    alpha: float = 0.5
    online: bool = False
    finish: int = 0
    guard: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise SpecError(f"stages={self.stages} never widen the band", mend="give at least 1")

    def requests(self, program: Program) -> Sequence[Request]:
        """Ranges of what layers read."""
        return range_requests(program)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with learned matrices in its weights."""
        if not can_learn(program, ctx, self.name):
            return program
        lesson = Lesson(self.name, self.steps, self.samples, self.rows, self.seed, Loss(), self.finish, self.guard)
        prepared, groups = turning_groups(program, Action.GENERAL, self.name, ctx.log)
        inside = covered(groups)
        tasks = scale_tasks(prepared, inside, ctx.stats, self.alpha, self.learning_rate)
        for group in groups:
            start = start_scale(prepared, group, ctx.stats, self.alpha)
            tasks.append(Folded(Band(start, self.learning_rate, self.strength), group, "matrix"))
        outside = [layer for layer in wanted(prepared) if layer.node not in inside and layer.groups == 1]
        for layers in by_source(outside if self.online else []):
            size = channels(prepared, layers[0])
            if size is not None and size > 1:
                basis = Band(torch.ones(1, size), self.learning_rate, self.strength)
                tasks.append(Online(basis, tuple(layers)))
        return learn(program, prepared, tasks, self.widened, lesson, ctx)

    def widened(self, tasks: Sequence[Task]) -> Iterator[Sequence[Basis]]:
        """The diagonals, then wider and wider bands."""
        bands = [task.basis for task in tasks if isinstance(task.basis, Band)]
        yield [task.basis for task in tasks]
        for stage in range(self.stages if bands else 0):
            for band in bands:
                band.width = band_widths(band.free.shape[-1], self.stages)[stage]
            yield [task.basis for task in tasks]
