"""PassionSR's learnable equivalent transform: scales, then shifts, of whatever channels can be scaled and shifted.

Formula   the layers read `(x - b) / s`; s starts at `a^alpha / w^(1 - alpha)`, b at zero; first all s of a stretch are
          learned, then all b. Least squared error of each stretch's results
Shapes    s, b [channels] of every group of the diagonal system; b where a bias can take it in and nothing is padded
Promise   Exact: folded in float64; kept only where the error on held-out samples fell. The bounds of the quantizers are
          left to `calibrate` and to the search of the weight solver
Needs     assigned number formats, calibration data
Source    Zhu et al. 2024, "PassionSR: Post-Training Quantization with Adaptive Scale in One-Step Diffusion based Image
          Super-Resolution" (arXiv:2411.17106); the offset is taken off the input, not added: with the published sign
          the function would change
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.analysis.groups import Action
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.learned.bases import Basis, Vector
from qcompiler.passes.transform.learned.driver import Lesson, can_learn, learn
from qcompiler.passes.transform.learned.sites import middles, range_requests, start_scale, with_biases
from qcompiler.passes.transform.learned.tasks import Folded, Task
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request


@dataclass(frozen=True)
class PassionSR:
    """Learns scales and shifts, a residual block at a time.

    Args:
        steps: of training, for each of the two stages of each stretch.
        samples: calibration batches, at most.
        rows: examples per step.
        learning_rate: of the logarithms of scales, and of shifts in units of half the range of their channel.
        alpha: share of the difficulty that scales start with in the weights.
        guard: keep only what lowers the held-out error; else everything, from where it starts.
        seed: of the order of examples.
    """

    name: ClassVar[str] = "passionsr"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact()

    steps: int = 100
    samples: int = 64
    rows: int = 8
    learning_rate: float = 0.02
    alpha: float = 0.5
    guard: bool = True
    seed: int = 0

    def requests(self, program: Program) -> Sequence[Request]:
        """Ranges of what layers read."""
        return range_requests(program)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with learned scales and shifts in its weights."""
        if not can_learn(program, ctx, self.name):
            return program
        lesson = Lesson(self.name, self.steps, self.samples, self.rows, self.seed, guard=self.guard)
        prepared, groups = with_biases(program, self.name)
        tasks: list[Task] = []
        for group in groups:
            if Action.SHIFT in group.actions:
                middle, width = middles(prepared, group, ctx.stats)
                unit = width.clamp(min=float(width.max()) * 1e-3 + 1e-12)
                shift = Vector(middle * 0, self.learning_rate, positive=False, unit=unit)
                tasks.append(Folded(shift, group, "shift"))
        for group in groups:
            start = start_scale(prepared, group, ctx.stats, self.alpha)
            tasks.append(Folded(Vector(start, self.learning_rate), group, "scale"))
        return learn(program, prepared, tasks, scales_then_shifts, lesson, ctx)


def scales_then_shifts(tasks: Sequence[Task]) -> Iterator[Sequence[Basis]]:
    """First all scales, then all shifts."""
    for kind in ("scale", "shift"):
        bases = [task.basis for task in tasks if isinstance(task, Folded) and task.kind == kind]
        if bases:
            yield bases
