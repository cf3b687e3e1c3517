"""Bias tuning: all biases together by least divergence of the quantized result from the float one.

Formula   min KL(softmax y || softmax y^) + |y - y^|^2 / |y|^2 over the biases alone, y the float program's first
          result; `divergence=false` leaves the first term out, for results that are no logits
Shapes    each bias as it is
Promise   Lossy; only biases change. On held-out batches never worse than before
Needs     calibration data; a program whose canonical form this run has seen. After any weight solver
Source    Hubara et al. 2021, "Accurate Post Training Quantization With Small Calibration Sets". The squared error
          beside the divergence: own, it keeps results whose softmax is saturated
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from qcompiler.analysis.weights import spatial_axes
from qcompiler.errors import PassError
from qcompiler.examples import examples
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.solve.learned.variables import Bias
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.training import Loss, Sample, Schedule, reconstruct
from qcompiler.walk import Walk


@dataclass(frozen=True)
class BiasTuning:
    """Tunes the biases of linears and convolutions end to end.

    Args:
        iterations: steps.
        rate: in units of the size of each bias.
        rows: examples per step.
        divergence: count the divergence of results as distributions.
    """

    iterations: int = 200
    rate: float = 0.002
    rows: int = 32
    divergence: bool = True
    name: ClassVar[str] = "bias_tuning"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy("kl")

    def __post_init__(self) -> None:
        self.schedule()

    def schedule(self) -> Schedule:
        """The options as a schedule; raises SpecError for those out of range."""
        return Schedule(self.iterations, optimizer="adam_cosine")

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with tuned biases.

        Raises:
            InputError: without calibration data.
            PassError: when the run did not see the float program.
        """
        reference = reference_of(ctx)
        biases = tunable(program)
        if not biases:
            ctx.log("no biases to tune")
            return program
        walk = Walk(program, ctx.batches, ("quantized",))
        place = next(index for index, node in enumerate(program.outputs) if program.tensor_type(node).is_float)
        result = program.outputs[place]
        samples = []
        for batch, inputs in enumerate(ctx.batches):
            with torch.no_grad():
                wanted = evaluate(reference, inputs)[place]
            size = wanted.float().square().mean().clamp(min=torch.finfo(torch.float32).tiny)
            samples.append(Sample(walk.live(batch, "quantized"), ((wanted,),), ((1 / size).expand(wanted.shape),)))
        data = examples(program, samples, [result], self.rows)

        def forward(values: Sequence[Tensor], sample: Sample) -> list[Tensor]:
            pairs = zip(biases, values, strict=True)
            given = {node: value.to(program.tensor_type(node).dtype) for node, value in pairs}
            return [cast(Tensor, walk.ahead(None, sample.live, "quantized", given)[result])]

        variables = [_variable(program, node, self.rate) for node in biases]
        outcome = reconstruct(forward, variables, Loss(-1, self.divergence), self.schedule(), data, ctx.seed)
        for node, variable in zip(biases, variables, strict=True):
            program.set_param(node, variable.hard().to(program.tensor_type(node).dtype))
        ctx.log(f"{len(biases)} biases: held-out error from {outcome.before:.3g} to {outcome.after:.3g}")
        return program


def reference_of(ctx: Context) -> Program:
    """The float program; raises PassError when there is none."""
    if ctx.reference is None:
        raise PassError(
            "the float program is not known: the run started from a program that was quantized already",
            mend="start from the model, so that the run sees its canonical form",
        )
    return ctx.reference


def tunable(program: Program) -> list[Node]:
    """The biases of linears and convolutions that no other operator reads."""
    found = []
    for node in program.nodes:
        bias = program.bind(node).get("bias") if spatial_axes(program, node) is not None else None
        if isinstance(bias, Node) and bias.op == "get_attr" and len(bias.users) == 1:
            found.append(bias)
    return found


def _variable(program: Program, node: Node, rate: float) -> Bias:
    value = program.param(node).float()
    size = float(value.square().mean().sqrt())
    return Bias(value, size or 1.0, rate)
