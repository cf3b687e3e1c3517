"""GWQ: the weights with the largest gradients stay in half precision, the rest goes to the nearest grid value.

Formula   score |g|, |g w|, sum g^2 w^2 (`fisher`) or |w|, g the gradient of the loss on single samples; the top `share`
          of each weight becomes a sparse overlay; ranges are found without them
Shapes    an expression: codes of the spec, and positions with float16 numbers
Promise   Lossy; the overlay reproduces its elements to half precision
Needs     calibration data unless the score is `size`. The loss is next-token cross-entropy where the model maps [batch,
          time] whole numbers to [batch, time, classes], else cross-entropy with its own top class along the last axis
Source    Shao et al. 2024, "GWQ: Gradient-Aware Weight Quantization for Large Language Models"; the scores beside |g|
          are our own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from qcompiler.errors import InputError, SpecError
from qcompiler.ir.fill import Shelf
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.passes.solve.driver import finite_weight
from qcompiler.passes.solve.expression import Codes, Sparse
from qcompiler.passes.solve.front_to_back import Reader, dequantizers, layer_of, readers_of, settle, share_ranges
from qcompiler.passes.solve.layers import Inputs
from qcompiler.passes.solve.ranges import Search, SearchName
from qcompiler.passes.solve.second_order import one_of
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.spec import QuantSpec, qparams_from_range, quantize
from qcompiler.stats import Batch
from qcompiler.walk import Walk

Score = Literal["gradient", "product", "fisher", "size"]
_LOGITS = 3


@dataclass(frozen=True)
class Gwq:
    """Keeps outliers by gradient in half precision.

    Args:
        score: `gradient`, `product`, `fisher` or `size`.
        share: of the elements of each weight that stay, 0 to 1.
        samples: how many calibration samples gradients are taken of.
        search: of ranges: `minmax`, `mse` or `percentile`.
    """

    score: Score = "gradient"
    share: float = 0.01
    samples: int = 8
    search: SearchName = "minmax"
    name: ClassVar[str] = "gwq"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        one_of("score", self.score, get_args(Score))
        Search(self.search)
        if not 0 <= self.share < 1:
            raise SpecError(f"a share of {self.share}", mend="choose it between 0 and 1; 0.01 is usual")
        if self.samples < 1:
            raise SpecError(f"{self.samples} samples", mend="at least one is needed for a gradient")

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes and overlays in place of float weights.

        Raises:
            InputError: without calibration data where the score needs it; when weights hold NaN or infinity.
        """
        readers = readers_of(program)
        share_ranges(program, [reader.site for reader in readers])
        shelf = Shelf()
        solvable = [reader for reader in readers if reader.solvable]
        scores = self._scores(program, solvable, ctx.batches)
        for number, reader in enumerate(readers, 1):
            found = None
            if reader.solvable and reader.geometry is not None:
                layer = layer_of(program, reader, Inputs(lambda stream: [], reader.geometry), ctx.seed)
                found = (
                    None
                    if layer.qparams
                    else overlay(
                        layer.weight,
                        layer.spec,
                        reader.geometry.matrix(scores[reader]),
                        self.share,
                        Search(self.search),
                    )
                )
            settle(program, reader, found, shelf)[1](program, self.name)
            ctx.progress(number, len(readers))
        ctx.log(f"{len(solvable)} weights by {self.name}")
        return program

    def _scores(self, program: Program, readers: list[Reader], batches: Sequence[Batch]) -> dict[Reader, Tensor]:
        weights = {reader: finite_weight(program, reader.site.param).detach().float() for reader in readers}
        if self.score == "size":
            return {reader: weight.abs() for reader, weight in weights.items()}
        totals = {reader: torch.zeros_like(weight) for reader, weight in weights.items()}
        for sample in single_samples(batches, self.samples):
            for reader, gradient in gradients(program, readers, sample).items():
                totals[reader] += gradient.square() if self.score == "fisher" else gradient.abs()
        if self.score == "gradient":
            return totals
        power = 2 if self.score == "fisher" else 1
        return {reader: total * weights[reader].abs().pow(power) for reader, total in totals.items()}


def overlay(weight: Tensor, spec: QuantSpec, scores: Tensor, share: float, search: Search) -> Sparse | Codes:
    """A weight [rows, columns] as nearest codes beneath its elements of largest score."""
    count = round(share * weight.numel())
    positions = scores.flatten().topk(count).indices.sort().values
    rest = weight.flatten().scatter(0, positions, 0.0).reshape(weight.shape)
    scale, zero_point = qparams_from_range(*search.range(rest, spec), spec)
    codes = Codes(spec, quantize(rest, scale, zero_point, spec), scale, None if spec.symmetric else zero_point)
    if not count:
        return codes
    limit = torch.finfo(torch.float16).max
    return Sparse(codes, positions, weight.flatten()[positions].clamp(-limit, limit).half())


def single_samples(batches: Sequence[Batch], count: int) -> list[Batch]:
    """The first samples of the calibration data, one per batch.

    Raises:
        InputError: when there are none.
    """
    found: list[Batch] = []
    for batch in batches:
        sizes = {len(x) for x in batch if x.dim()}
        rows = sizes.pop() if len(sizes) == 1 else 1
        for row in range(rows):
            found.append([x[row : row + 1] if x.dim() and rows > 1 else x for x in batch])
            if len(found) == count:
                return found
    if not found:
        raise InputError("gradients are to be taken, and there is no calibration data", mend="pass calibration=...")
    return found


def gradients(program: Program, readers: list[Reader], sample: Batch) -> dict[Reader, Tensor]:
    """Gradient of the loss of the float program with respect to each weight, in the weight's shape."""
    leaves = {reader: finite_weight(program, reader.site.param).detach().clone().requires_grad_() for reader in readers}
    given: dict[Node, Tensor] = {node: leaf for reader, leaf in leaves.items() for node in dequantizers(reader.site)}
    walk = Walk(program, [sample], ("float",))
    values = walk.ahead(None, walk.live(0, "float"), "float", given)
    result = values[program.outputs[0]]
    if not isinstance(result, Tensor):
        raise InputError("the first result of the program is no tensor, so that it has no loss")
    found = torch.autograd.grad(loss_of(result, sample), list(leaves.values()), allow_unused=True)
    return {
        reader: torch.zeros_like(leaf) if gradient is None else gradient.float()
        for (reader, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def loss_of(result: Tensor, sample: Batch) -> Tensor:
    """Cross-entropy of the first result with what should come next, or with its own top class."""
    logits = result.float().flatten(0, -2)
    ids = next((x for x in sample if not x.is_floating_point() and x.shape == result.shape[:-1]), None)
    if ids is not None and result.dim() == _LOGITS and int(ids.max()) < result.shape[-1] and ids.shape[1] > 1:
        return functional.cross_entropy(result[:, :-1].float().flatten(0, 1), ids[:, 1:].long().flatten())
    return functional.cross_entropy(logits, logits.detach().argmax(1))
