"""FlatQuant: a Kronecker pair in front of every layer, scales beside it, whatever can be folded folded.

Formula   the layers read `x diag(c) (P1 x P2)`, with P = U diag(s) V^T, U and V orthogonal by Cayley maps; c goes into
          the norm or layer in front; where a group of the graph may take any invertible matrix, that one is folded
          instead. Least squared error of each stretch's results
Shapes    P1 [a, a], P2 [b, b] with a b channels, as square as can be; c [channels]
Promise   Exact: the weights undo what the stored numbers do, in float64; kept only where the error on held-out samples
          fell. Clip ranges are left to the search of the weight solver (`nearest{search=mse}`)
Needs     assigned number formats, calibration data
Source    Sun et al. 2024, "FlatQuant: Flatness Matters for LLM Quantization" (arXiv:2410.09426)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.analysis.groups import Action
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.learned.bases import Invertible, Kronecker
from qcompiler.passes.transform.learned.driver import Lesson, at_once, can_learn, learn
from qcompiler.passes.transform.learned.sites import (
    covered,
    mixing_factors,
    random_hadamard,
    range_requests,
    turning_groups,
)
from qcompiler.passes.transform.learned.tasks import Folded, Online, scale_tasks
from qcompiler.passes.transform.wanted import by_source, channels, wanted
from qcompiler.pipeline import Context, Exact, Promise
from qcompiler.stats import Request
from qcompiler.training import Loss


@dataclass(frozen=True)
class FlatQuant:
    """Learns Kronecker transforms and scales, a residual block at a time.

    Args:
        steps: of training, for each stretch.
        samples: calibration batches, at most.
        rows: examples per step.
        learning_rate: of all of them.
        alpha: share of the difficulty that scales start with in the weights.
        online: put in nodes where nothing can be folded.
        finish: steps at the end in which everything learns together, from the final results.
        guard: keep only what lowers the held-out error; else everything, from where it starts.
        seed: of random starts and of the order of examples.
    """

    name: ClassVar[str] = "flatquant"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Exact()

    steps: int = 150
    samples: int = 64
    rows: int = 8
    learning_rate: float = 0.01
    alpha: float = 0.3
    online: bool = True
    finish: int = 0
    guard: bool = True
    seed: int = 0

    def requests(self, program: Program) -> Sequence[Request]:
        """Ranges of what layers read."""
        return range_requests(program)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with learned transforms in its weights and in front of its layers."""
        if not can_learn(program, ctx, self.name):
            return program
        lesson = Lesson(self.name, self.steps, self.samples, self.rows, self.seed, Loss(), self.finish, self.guard)
        prepared, groups = turning_groups(program, Action.GENERAL, self.name, ctx.log)
        inside = covered(groups)
        tasks = scale_tasks(prepared, inside, ctx.stats, self.alpha, self.learning_rate)
        for group in groups:
            start = random_hadamard(group.size, group.fibres, self.seed)
            tasks.append(Folded(Invertible(start, self.learning_rate), group, "matrix"))
        outside = [layer for layer in wanted(prepared) if layer.node not in inside and layer.groups == 1]
        for layers in by_source(outside):
            size = channels(prepared, layers[0])
            if self.online and size is not None and size > 1:
                basis = Kronecker(*mixing_factors(size, self.seed), self.learning_rate)
                tasks.append(Online(basis, tuple(layers)))
        return learn(program, prepared, tasks, at_once, lesson, ctx)
