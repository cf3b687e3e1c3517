"""CFP for weights: the few that stand out are cut off, found by a coarse and a fine threshold.

Formula   |W| clamped to the largest magnitude that `cfp` does not count as an outlier
Shapes    as the weight
Promise   Lossy; only where the quantized layer comes out better on the samples
Needs     samples
Source    Ding et al. 2023, "CBQ: Cross-Block Quantization for Large Language Models" (coarse-to-fine preprocessing)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.transform.evaluate import Reader
from qcompiler.passes.transform.smoothing.cfp import split_outliers
from qcompiler.passes.transform.smoothing.reweighing import reweigh, sample_requests
from qcompiler.passes.transform.smoothing.sites import Seen
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.stats import Request


@dataclass(frozen=True)
class CfpWeights:
    """Cuts off outliers of weights.

    Args:
        samples: on which errors are measured.
    """

    samples: int = 256
    name: ClassVar[str] = "cfp_weights"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Lossy()

    def requests(self, program: Program) -> list[Request]:
        """Samples of what the layers read."""
        return sample_requests(program, self.samples)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program without outliers among its weights.

        Raises:
            InputError: without calibration data.
        """

        def propose(value: Seen, layer: Reader) -> Sequence[Tensor]:
            reserved, threshold = split_outliers(layer.weight.abs())
            outliers = bool((layer.weight.abs() >= threshold).any())
            return [layer.weight.double().clamp(-reserved, reserved)] if outliers else []

        reweigh(program, ctx, self.name, self.samples, propose)
        return program
