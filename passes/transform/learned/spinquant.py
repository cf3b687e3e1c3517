"""SpinQuant: rotations of the residual stream and of every head's values, learned on the orthogonal matrices.

Formula   minimise over orthogonal R the divergence (or squared error) of the quantized from the float results, the
          model's weights under R rounded in every step; R' = cayley(R, gradient), rates falling to zero
Shapes    R [fibres, n, n] of every group that a rotation may turn
Promise   Exact: R is folded in float64; kept only where the error on held-out samples fell below that of the model as
          it came
Needs     assigned number formats, calibration data
Source    Liu et al. 2024, "SpinQuant: LLM Quantization with Learned Rotations" (arXiv:2405.16406)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.analysis.groups import Action
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.learned.bases import Rotation
from qcompiler.passes.transform.learned.driver import Lesson, at_once, can_learn, learn
from qcompiler.passes.transform.learned.sites import random_hadamard, turning_groups
from qcompiler.passes.transform.learned.tasks import Folded
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.training import Loss


@dataclass(frozen=True)
class SpinQuant:
    """Learns the rotations that can be folded.

    Args:
        steps: of training.
        samples: calibration batches, at most.
        rows: examples per step.
        learning_rate: of the first step, times the gradient of the error in units of its start; at most a radian.
        divergence: compare results as distributions over their last axis, as language models and classifiers are used;
            otherwise by squared error.
        guard: keep only what lowers the held-out error; else everything, from where it starts.
        seed: of the random signs and of the order of examples.
    """

    name: ClassVar[str] = "spinquant"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact()

    steps: int = 100
    samples: int = 64
    rows: int = 8
    learning_rate: float = 0.05
    divergence: bool = False
    guard: bool = True
    seed: int = 0

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with learned rotations in its weights."""
        if not can_learn(program, ctx, self.name):
            return program
        loss = Loss(divergence=self.divergence, squares=not self.divergence)
        lesson = Lesson(self.name, self.steps, self.samples, self.rows, self.seed, loss, guard=self.guard)
        prepared, groups = turning_groups(program, Action.ORTHOGONAL, self.name, ctx.log)
        tasks = [
            Folded(Rotation(random_hadamard(group.size, group.fibres, self.seed), self.learning_rate), group, "matrix")
            for group in groups
        ]
        return learn(program, prepared, tasks, at_once, lesson, ctx)
