"""Single elements of a tensor that stay in half precision beside codes of few bits.

Source: Shao et al. 2024, "GWQ: Gradient-Aware Weight Quantization for Large Language Models" (a sparse matrix of kept
weights; steps between places instead of row pointers are own).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from qcompiler.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from qcompiler.spec.quantspec import QuantSpec

_REAL_BITS = 16
_MORE = 0x80
_LOW = 0x7F
_SIX = 4


@dataclass(frozen=True)
class Outliers:
    """Where the kept elements are, in the flattened tensor; their values belong to the tensor.

    steps: base64 (of names of files, unpadded) of the distances from each place to the next, the first counted from
    -1, seven bits per byte with the lowest first and the eighth set where more follow. Raises SpecError when it cannot
    be read.
    """

    steps: str

    def __post_init__(self) -> None:
        found = self._distances()
        if not found or 0 in found:
            raise SpecError(f"outliers={self.steps} holds no rising places", mend="write what a plan has")

    def __str__(self) -> str:
        return self.steps

    @staticmethod
    def at(places: Sequence[int]) -> Outliers:
        """From places in the flattened tensor; raises SpecError when there are none, or they do not rise."""
        packed = bytearray()
        for before, place in pairwise((-1, *places)):
            step = place - before
            while step > _LOW:
                packed.append(step & _LOW | _MORE)
                step >>= 7
            packed.append(max(step, 0))
        return Outliers(base64.urlsafe_b64encode(bytes(packed)).decode().rstrip("="))

    @property
    def places(self) -> list[int]:
        """Places in the flattened tensor, rising."""
        return [reach - 1 for reach in accumulate(self._distances())]

    @property
    def bits(self) -> int:
        """Half-precision numbers and the steps between their places, all as wide as the widest: 8, 16 or 32 bits."""
        found = self._distances()
        width = next(width for width in (8, 16, 32, 64) if max(found) < 1 << width)
        return len(found) * (_REAL_BITS + width)

    def _distances(self) -> list[int]:
        try:
            packed = base64.b64decode(self.steps + "=" * (-len(self.steps) % _SIX), b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise SpecError(f"cannot read outliers={self.steps}", mend="write what a plan has") from error
        found, step, shift = [], 0, 0
        for byte in packed:
            step |= (byte & _LOW) << shift
            shift += 7
            if not byte & _MORE:
                found.append(step)
                step, shift = 0, 0
        return [] if shift else found


def outlier_places(spec: QuantSpec, shape: Sequence[int]) -> list[int]:
    """Places of the kept elements of a tensor of this shape; none without such a part.

    Raises SpecError when a place lies outside the tensor.
    """
    if spec.parts is None or spec.parts.outliers is None:
        return []
    count = 1
    for size in shape:
        count *= int(size)
    places = spec.parts.outliers.places
    if places[-1] >= count:
        raise SpecError(
            f"an element at {places[-1]} is to be kept, of a tensor with {count}",
            where=f"{spec.format} of shape {tuple(shape)}",
            mend="the spec belongs to another tensor",
        )
    return places


def without_outliers(x: Tensor, spec: QuantSpec) -> Tensor:
    """The tensor with zeros where elements are kept; itself when there are none."""
    places = outlier_places(spec, x.shape)
    if not places:
        return x
    return x.flatten().index_fill(0, x.new_tensor(places).long(), 0.0).reshape(x.shape)


def with_outliers(rounded: Tensor, x: Tensor, spec: QuantSpec) -> Tensor:
    """`rounded` with the kept elements of `x` in half precision; itself when there are none. Shapes: alike."""
    places = outlier_places(spec, x.shape)
    if not places:
        return rounded
    where = rounded.new_tensor(places).long()
    return rounded.flatten().scatter(0, where, half(x.flatten()[where]).to(rounded.dtype)).reshape(x.shape)


def half(values: Tensor) -> Tensor:
    """float16, the largest finite number for what lies beyond."""
    limit = 65504.0
    return values.clamp(-limit, limit).half()
