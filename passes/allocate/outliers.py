"""Single weights kept in half precision, the others in few bits.

Formula   s_ij = w_ij^2 H_jj o_i, H the second moment of the inputs and o_i the mean square of the gradient of the
          results' harm at output i: what the weight's loss would do to the results, as its squared gradient times its
          square. The ceil(share * count) largest are kept, and the ranges of the rest are found without them
Shapes    weight [rows, columns, ...]; H [columns, columns] or its diagonal [columns]; o [rows]
Promise   which elements are kept is part of the spec, so that a plan replays without data
Needs     a spec without other parts; without data all columns and rows count alike, and the largest weights are kept
Source    Shao et al. 2024, "GWQ: Gradient-Aware Weight Quantization for Large Language Models" (largest gradients;
          their product with the weight, and gradients as a product of two factors, are own)
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from qcompiler.spec import QuantSpec
from qcompiler.spec.outliers import Outliers
from qcompiler.spec.parts import Parts

OUTLIERS = "gwq"
"""The name of the method."""


def importance(weight: Tensor, moment: Tensor, outputs: Tensor) -> Tensor:
    """What losing each element would do: float64 of the weight's shape."""
    diagonal = moment if moment.dim() == 1 else moment.diagonal()
    around = [1] * (weight.dim() - 2)
    factors = outputs.double().reshape(-1, 1, *around) * diagonal.double().reshape(1, -1, *around)
    return weight.double().square() * factors


def keep_outliers(spec: QuantSpec, scores: Tensor, share: float) -> QuantSpec | None:
    """The spec with the elements of largest score kept; None where it has other parts, or all would be kept.

    Args:
        spec: of the weight.
        scores: of each element, of the weight's shape; of equal ones the first are kept.
        share: of the elements, above 0 and below 1.
    """
    count = math.ceil(share * scores.numel())
    if spec.parts is not None or count >= scores.numel():
        return None
    order = scores.flatten().sort(descending=True, stable=True).indices
    return replace(spec, parts=Parts(outliers=Outliers.at(order[:count].sort().values.tolist())))
