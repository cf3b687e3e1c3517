"""Widths inside one weight: rows or column groups that get more bits, and others that get as many fewer.

Formula   e_g(b) = sum_i o_i E_i H E_i^T over slice g, E its rounding error at b bits, H the second moment of the inputs
          and o_i the mean square of the gradient of the results' harm at output i. waterfill, abmp: while the largest
          gain e(b) - e(b + 1) exceeds the smallest loss e(b - 1) - e(b) of another slice, both are moved; by one bit at
          most. omq: the m rows of largest kurtosis get one bit more, the m of smallest one
          less. slim: the same for column groups by the mean of w_ij^2 / [H^-1]_jj^2. m, 0 included, minimises the sum
Shapes    weight [rows, columns, ...], whatever follows belonging to the columns; H [columns, columns] or its diagonal
          [columns]; o [rows]; widths [slices]
Promise   the mean width is that of the spec; on the samples never worse than all slices alike
Needs     integers in blocks that lie in one row, or in one column group; a short last group keeps its width
Source    Feng et al. 2024, "MPQ-DM" (omq: m is 0 or a tenth; more tenths, waterfill and o are own); Huang et al. 2024,
          "SliM-LLM" (slim); "Quant-dLLM" 2025 (abmp: abstract, pairing reconstructed)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from qcompiler.formats import Integer
from qcompiler.passes.allocate.trial import through_grid
from qcompiler.spec import QuantSpec
from qcompiler.spec.parts import Parts

_TENTHS = 10
_WIDEST = 8
_DAMPING = 0.01


@dataclass(frozen=True)
class Slices:
    """A weight cut along one axis, with what each width would do to it.

    Args:
        weight: float, [rows, columns, ...].
        spec: the numbers of a uniform weight.
        axis: 0 cuts rows, 1 column groups.
        sizes: rows or columns in each slice.
        moment: of the inputs, [columns, columns] or its diagonal [columns].
        outputs: what a squared error of each output counts, [rows].
        errors: by width, rounding errors [rows, columns, ...].
    """

    weight: Tensor
    spec: QuantSpec
    axis: int
    sizes: tuple[int, ...]
    moment: Tensor
    outputs: Tensor
    errors: Mapping[int, Tensor]

    @property
    def movable(self) -> list[int]:
        """The slices that are whole."""
        return [place for place, size in enumerate(self.sizes) if size == self.sizes[0]]

    def harm(self, widths: Sequence[int]) -> float:
        """The sum of widths that may differ."""
        pieces = {width: error.split(self.sizes, self.axis) for width, error in self.errors.items()}
        mixed = torch.cat([pieces[width][place] for place, width in enumerate(widths)], self.axis)
        return float((_energy(mixed, self.moment) * self.outputs.double()).sum())

    def harms(self, width: int) -> Tensor:
        """e_g at one width for each slice alone: float64 [slices]."""
        pieces = self.errors[width].split(self.sizes, self.axis)
        starts = torch.tensor([0, *self.sizes]).cumsum(0).tolist()
        found = []
        for place, piece in enumerate(pieces):
            inside = slice(starts[place], starts[place + 1])
            moment = self.moment if self.axis == 0 else self.moment[(inside,) * self.moment.dim()]
            outputs = self.outputs.double()[inside] if self.axis == 0 else self.outputs.double()
            found.append((_energy(piece, moment) * outputs).sum())
        return torch.stack(found)


Method = Callable[[Slices], list[int]]


def cut(weight: Tensor, spec: QuantSpec, axis: int, moment: Tensor, outputs: Tensor, reach: int = 1) -> Slices | None:
    """A weight cut along an axis, with widths up to `reach` around its own; None where they cannot differ."""
    extent = spec.block[axis] if spec.rank > axis else -1
    widened = isinstance(spec.format, Integer) and 2 <= spec.bits < _WIDEST and not spec.format.narrow
    if extent == -1 or extent >= weight.shape[axis] or len(spec.levels) > 1 or spec.parts or not widened:
        return None
    whole, rest = divmod(weight.shape[axis], extent)
    sizes = (*(extent,) * whole, *((rest,) if rest else ()))
    around = range(max(spec.bits - reach, 1), min(spec.bits + reach, _WIDEST) + 1)
    errors = {bits: through_grid(weight, _of_width(spec, bits)) - weight for bits in around}
    return Slices(weight, spec, axis, sizes, moment, outputs, errors)


def with_widths(slices: Slices, widths: Sequence[int]) -> QuantSpec | None:
    """The spec with a segment for each run of slices of one width; None when all have that of the spec."""
    if set(widths) == {slices.spec.bits}:
        return None
    runs = [
        (sum(size for size, _ in run), _of_width(slices.spec, width).format)
        for width, run in groupby(zip(slices.sizes, widths, strict=True), key=lambda item: item[1])
    ]
    widest = _of_width(slices.spec, max(widths))
    return replace(widest, parts=Parts(along=slices.axis, segments=tuple(runs)))


def omq(slices: Slices) -> list[int]:
    """Rows by kurtosis, in tenths; a constant row comes last."""
    rows = slices.weight.flatten(1).double()
    centred = rows - rows.mean(1, keepdim=True)
    spread = centred.square().mean(1)
    kurtosis = centred.pow(4).mean(1) / spread.square().clamp(min=torch.finfo(torch.float64).tiny)
    score = torch.where(spread > 0, kurtosis, -torch.inf)
    tenth = len(score) // _TENTHS
    return _double_ended(slices, score, [tenth * number for number in range(1, _TENTHS // 2 + 1)] if tenth else [])


def slim(slices: Slices) -> list[int]:
    """Column groups by salience, pair by pair."""
    pivots = inverse_diagonal(slices.moment)
    per_column = _over_rows(slices.weight.double().square()) / pivots.square()
    score = torch.stack([part.mean() for part in per_column.split(slices.sizes)])
    return _double_ended(slices, score, range(1, len(slices.movable) // 2 + 1))


def paired(slices: Slices) -> list[int]:
    """Slices exchanged by what they gain and lose themselves, one bit of each at a time."""
    bits, least, most = slices.spec.bits, min(slices.errors), max(slices.errors)
    table = torch.stack([slices.harms(width) for width in range(least, most + 1)])
    steps = table[:-1] - table[1:]
    widths = [bits] * len(slices.sizes)
    whole = slices.movable
    gains = torch.full((len(widths),), -torch.inf, dtype=torch.float64)
    losses = -gains

    def look(place: int) -> None:
        at = widths[place] - least
        gains[place] = steps[at, place] if at < len(steps) else -torch.inf
        losses[place] = steps[at - 1, place] if at > 0 else torch.inf

    for place in whole:
        look(place)
    for _ in range(len(whole) * len(table)):
        up, down = int(gains.argmax()), int(losses.argmin())
        if not gains[up] > losses[down] or up == down:
            break
        widths[up], widths[down] = widths[up] + 1, widths[down] - 1
        look(up)
        look(down)
    return min(([bits] * len(widths), widths), key=slices.harm)


METHODS: Mapping[str, tuple[int, int, Method]] = {
    "omq": (0, 1, omq),
    "waterfill": (0, 1, paired),
    "slim": (1, 1, slim),
    "abmp": (1, 1, paired),
}
"""The axis that is cut, how far widths may be from the spec's, and what chooses them."""


def inverse_diagonal(moment: Tensor) -> Tensor:
    """The diagonal of the inverse of a second moment, a hundredth of its mean added to it: float64 [columns]."""
    moment = moment.double()
    diagonal = moment if moment.dim() == 1 else moment.diagonal()
    ridge = (_DAMPING * diagonal.mean()).clamp(min=torch.finfo(torch.float32).tiny)
    if moment.dim() == 1:
        return 1 / (diagonal + ridge)
    factor = torch.linalg.cholesky(moment + ridge * torch.eye(len(moment), dtype=torch.float64))
    return torch.cholesky_inverse(factor).diagonal()


def _double_ended(slices: Slices, score: Tensor, counts: Sequence[int]) -> list[int]:
    bits, movable = slices.spec.bits, slices.movable
    ranked = sorted(movable, key=lambda place: float(score[place]))
    candidates = [[bits] * len(slices.sizes)]
    for count in counts:
        if 2 * count <= len(ranked):
            widths = list(candidates[0])
            for low, high in zip(ranked[:count], ranked[::-1][:count], strict=True):
                widths[low], widths[high] = bits - 1, bits + 1
            candidates.append(widths)
    return min(candidates, key=slices.harm)


def _of_width(spec: QuantSpec, bits: int) -> QuantSpec:
    return replace(spec, format=Integer(bits, spec.format.signed))


def _energy(error: Tensor, moment: Tensor) -> Tensor:
    """What errors do to each result: float64 [rows]; taps of a kernel count apart."""
    taps = error.double().flatten(2) if error.dim() > 2 else error.double().unsqueeze(2)
    if moment.dim() == 1:
        return (taps.square() * moment.double()[None, :, None]).sum((1, 2))
    return torch.einsum("rct,cd,rdt->r", taps, moment.double(), taps)


def _over_rows(value: Tensor) -> Tensor:
    """Mean over everything but the columns."""
    return value.movedim(1, 0).flatten(1).mean(1)
