"""A plan as it would ship, before it is chosen: quantized by the plain methods, lowered, run by kernel meanings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcompiler.ir.program import Program
from qcompiler.passes.allocate import UsePlan
from qcompiler.passes.calibrate import Calibrate
from qcompiler.passes.lower import ApplyPlan
from qcompiler.passes.solve.nearest import Nearest
from qcompiler.pipeline import Context, Options, run_passes
from qcompiler.plan import Assignment, Plan
from qcompiler.simulate import simulation
from qcompiler.stats import Batch
from qcompiler.target import Runner, Target


@dataclass(frozen=True)
class Deploy:
    """Runs plans as they would ship.

    Args:
        target: whose kernels are meant.
        batches: flat calibration inputs.
        sample: a small batch.
    """

    target: Target
    batches: Sequence[Batch]
    sample: Batch

    def __call__(self, program: Program, plan: Mapping[str, Assignment]) -> Runner:
        """The simulation of a canonical program under a plan; the program stays as it is.

        Raises:
            VerifyError: where the plan fits no kernels.
        """
        passes = (UsePlan(plan=Plan(assignments=plan)), ApplyPlan(), Calibrate(), Nearest())
        context = Context(self.target)
        quantized, _ = run_passes(program, passes, context, self.batches, Options(check="off"), self.sample)
        backend = self.target.backend
        return simulation(backend.lower(quantized, self.target), backend.meanings())
