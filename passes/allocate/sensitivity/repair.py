"""More bits are never predicted to be worse: the least change of losses that makes it so.

Formula   minimise sum_k weight_k (x_k - loss_k)^2 such that x_a <= x_b wherever option a is at least as fine as b at
          every place; by Dykstra's alternating projections, then a sweep that removes what is left of their tolerance
Shapes    float64 [options] -> the same
Promise   monotone; nothing changes where losses are monotone already
Needs     nothing
Source    isotonic regression, Barlow et al. 1972; Dykstra 1983, "An Algorithm for Restricted Least Squares Regression"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qcompiler.passes.allocate.problem import Option, Unit
from qcompiler.spec import QuantSpec

_SWEEPS = 500
_EXACT = 1e-12


def orders(unit: Unit) -> list[tuple[int, int]]:
    """Pairs of options of which the first is at least as fine as the second at every place, and differs."""
    slots = [_slots(option) for option in unit.options]
    numbers = range(len(slots))
    return [(a, b) for a in numbers for b in numbers if slots[a] != slots[b] and _finer(slots[a], slots[b])]


def monotone(losses: Tensor, pairs: Sequence[tuple[int, int]], weights: Tensor | None = None) -> Tensor:
    """The nearest losses with `x[a] <= x[b]` for all pairs; weights are above 0, and 1 when None."""
    if all(losses[a] <= losses[b] for a, b in pairs):
        return losses
    found = losses.double().tolist()
    give = [1.0] * len(found) if weights is None else weights.double().reciprocal().tolist()
    corrections = [0.0] * len(pairs)
    scale = max(map(abs, found), default=0.0)
    for _ in range(_SWEEPS):
        moved = 0.0
        for at, (a, b) in enumerate(pairs):
            low, high = found[a] + corrections[at] * give[a], found[b] - corrections[at] * give[b]
            excess = max(low - high, 0.0) / (give[a] + give[b])
            moved = max(moved, abs(excess - corrections[at]) * max(give[a], give[b]))
            corrections[at] = excess
            found[a], found[b] = low - excess * give[a], high + excess * give[b]
        if moved <= _EXACT * scale:
            break
    for a, b in sorted(pairs, key=lambda pair: found[pair[0]]):
        found[b] = max(found[a], found[b])
    return torch.tensor(found, dtype=torch.float64)


def _slots(option: Option) -> Mapping[tuple[str, str], QuantSpec]:
    found: dict[tuple[str, str], QuantSpec] = {}
    for name, item in option.assignments.items():
        found |= {(name, argument): spec for argument, spec in item.inputs.items()}
        if item.result is not None:
            found[name, ""] = item.result
    return found


def _finer(one: Mapping[tuple[str, str], QuantSpec], other: Mapping[tuple[str, str], QuantSpec]) -> bool:
    """Whether every slot is at least as fine; a slot that is missing stays in float."""
    return all(slot in other and _finer_numbers(spec, other[slot]) for slot, spec in one.items())


def _finer_numbers(one: QuantSpec, other: QuantSpec) -> bool:
    """Whether numbers are of one kind with blocks as small, and have as many bits."""
    alike = one.format.is_integer == other.format.is_integer and one.dynamic == other.dynamic
    alike = alike and (one.parts, len(one.levels)) == (other.parts, len(other.levels))
    alike = alike and one.levels[0].zero_point == other.levels[0].zero_point
    sizes = zip(one.block, other.block, strict=True) if len(one.block) == len(other.block) else [(0, 1)]
    smaller = all(_contained(inner, outer) for inner, outer in sizes)
    return alike and smaller and one.bits >= other.bits


def _contained(inner: int, outer: int) -> bool:
    """Whether blocks of one extent divide those of another; -1 is the whole axis."""
    return outer in (inner, -1) or (0 < inner <= outer and outer % inner == 0)
