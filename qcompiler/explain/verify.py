"""A changed plan tried in earnest: the passes of the recipe behind its allocation, run again on the float program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from qcompiler.explain.mends import Change
from qcompiler.explain.sites import square_error
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program
from qcompiler.passes.allocate import Assign, MixedPrecision, UsePlan
from qcompiler.pipeline import Context, Options, Pass, run_passes
from qcompiler.plan import Plan
from qcompiler.report.explanation import gain_db
from qcompiler.stats import Batch
from qcompiler.target import Target


def passes_behind(passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """The passes of a recipe that follow its last allocation."""
    last = max((i for i, item in enumerate(passes) if isinstance(item, Assign | MixedPrecision | UsePlan)), default=-1)
    return tuple(passes[last + 1 :])


def requantized(
    reference: Program, plan: Plan, passes: Sequence[Pass], target: Target, batches: Sequence[Batch], seed: int = 0
) -> Program:
    """The float program quantized by a plan.

    Args:
        reference: at stage canonical.
        plan: who gets which format.
        passes: from applying the plan on.
        target: the device.
        batches: calibration data.
        seed: of every random choice.

    Raises:
        QCompilerError: where the target cannot do what the plan asks, or a pass needs what is not there.
    """
    context = Context(target, seed=seed)
    steps = (UsePlan(plan=plan), *passes)
    program, _ = run_passes(reference, steps, context, batches, Options(check="off"), batches[0])
    return program


def verified(
    change: Change,
    reference: Program,
    passes: Sequence[Pass],
    target: Target,
    batches: Sequence[Batch],
    samples: Sequence[Batch],
    now: float,
    seed: int = 0,
) -> Change:
    """A change with the gain that was measured; arguments as for `requantized`.

    Args:
        samples: on which is measured.
        now: squared error of the results before the change.
    """
    program = requantized(reference, change.plan, passes, target, batches, seed)
    gain = gain_db(now, result_error(reference, program, samples))
    return replace(change, mend=replace(change.mend, measured_db=gain))


def result_error(reference: Program, program: Program, samples: Sequence[Batch]) -> float:
    """Squared error of the results of a program on samples."""
    with torch.no_grad():
        return sum(float(square_error(evaluate(reference, item), evaluate(program, item))) for item in samples)
