"""Whole plans tried as they would ship: quantized, lowered to the target's kernels, run by what these mean.

Formula   results of the lowered program on the samples of a trial, kernels by their meanings: what runtimes quantize
          at run time is quantized, biases are integers, requantization rounds as the device does
Shapes    any
Promise   integers of the device; ranges and weights by the plain methods, so that solvers lose less
Needs     samples, and a compiler that can lower (`ctx.deploy`)
Source    own
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from qcompiler.errors import InputError
from qcompiler.passes.allocate.harm import Results
from qcompiler.passes.allocate.trial import Trial
from qcompiler.pipeline import Context
from qcompiler.plan import Assignment
from qcompiler.simulate import Simulation
from qcompiler.target import Runner


class Tries(Protocol):
    """What tries whole plans."""

    def results(self, plan: Mapping[str, Assignment]) -> list[Results]:
        """Float and quantized results under a plan, per batch."""
        ...


@dataclass(frozen=True)
class DeployedTrial:
    """Tries plans on the samples of another trial.

    Args:
        trial: of the program; its samples and float results are used.
        deploy: what runs a plan as it would ship.
    """

    trial: Trial
    deploy: Callable[[Mapping[str, Assignment]], Runner]

    def results(self, plan: Mapping[str, Assignment]) -> list[Results]:
        """Float and simulated results under a plan, per batch."""
        run = self.deploy(plan)
        inputs = zip(*map(self.trial.samples, self.trial.program.inputs), strict=True)
        return [Results(wanted, run(batch)) for wanted, batch in zip(self.trial.wanted, inputs, strict=True)]


def tried(trial: Trial, simulate: Simulation, ctx: Context) -> Tries:
    """What tries whole plans under the option `simulate`.

    Raises:
        InputError: for `deployed` where nothing can lower plans.
    """
    if simulate == "quantized":
        return trial
    deploy = ctx.deploy
    if deploy is None:
        raise InputError("nothing here lowers whole plans", mend="run the pass through qcompiler.compile")
    return DeployedTrial(trial, lambda plan: deploy(trial.program, plan))
