"""Q-SAM2: a weight is replaced by the smallest one that computes the same on the data.

Formula   W' = W M (M + r tr(M) / d I)^-1, M = mean x x^T of what the layer reads: energy that W spends in directions
          which inputs never take disappears, and outliers with it. r of a list, or no change, by the output error of
          the quantized layer against the float one on samples
Shapes    W' as W; linears, and convolutions with a window of one element and without groups
Promise   Lossy: inputs outside the span of the data see another weight
Needs     second moments and samples
Source    Farronato et al. 2025, "Q-SAM2: Accurate Quantization for Segment Anything Model 2" (linear layer calibration;
          the minimum-norm form as the abstract gives it; the ridge and the choice among several: own)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from qcompiler.analysis.weights import TRANSPOSED
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.transform.evaluate import Reader
from qcompiler.passes.transform.smoothing.reweighing import layers, reweigh, sample_requests
from qcompiler.passes.transform.smoothing.sites import Seen
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.reducers import SecondMoment
from qcompiler.stats import Request

RIDGES = (1e-6, 1e-4, 1e-2)


@dataclass(frozen=True)
class QSam2:
    """Takes out of weights what the data never meets.

    Args:
        samples: on which errors are measured.
    """

    samples: int = 256
    name: ClassVar[str] = "qsam2"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Lossy()

    def requests(self, program: Program) -> list[Request]:
        """Moments and samples of what the layers read."""
        found = [value for value, layer in layers(program) if _takes_rows(program, layer)]
        moments = [Request(value.node.name, SecondMoment(value.axis)) for value in found]
        return [*sample_requests(program, self.samples), *moments]

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with smaller weights where that helps.

        Raises:
            InputError: without calibration data.
        """

        def propose(value: Seen, layer: Reader) -> Sequence[Tensor]:
            if not _takes_rows(program, value.layers[0]):
                return []
            moment = ctx.stats.get(value.node.name, SecondMoment(value.axis))
            return [minimum_norm(layer.weight, moment, ridge) for ridge in RIDGES]

        reweigh(program, ctx, self.name, self.samples, propose)
        return program


def minimum_norm(weight: Tensor, moment: Tensor, ridge: float) -> Tensor:
    """The weight that computes nearly the same on data with this moment, with the least norm.

    Shapes: weight [out, in, 1, ...], moment [in, in] -> as the weight, float64. A moment of zeros leaves it alone.
    """
    size = len(moment)
    mean = moment.diagonal().sum() / size
    if not float(mean) > 0:
        return weight.double()
    damped = moment.double() + ridge * mean * torch.eye(size, dtype=torch.float64)
    matrix = weight.double().flatten(1)
    return torch.linalg.solve(damped, (matrix @ moment.double()).mT).mT.reshape(weight.shape)


def _takes_rows(program: Program, layer: Node) -> bool:
    """Whether the layer multiplies the channels of one position at a time."""
    bound = program.bind(layer)
    shape = program.shape(cast(Node, bound["weight"]))
    return (
        int(str(bound.get("groups", 1))) == 1
        and program.op(layer) not in TRANSPOSED
        and all(size == 1 for size in shape[2:])
    )
