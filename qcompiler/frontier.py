"""The frontier of two resources as data: the plans that none beats in both, beside uniform ones and the chosen one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Point:
    """One plan.

    Args:
        name: what it is; empty for points of the frontier itself.
        cost: what it takes of the resource.
        harm: its objective, predicted.
    """

    name: str
    cost: float
    harm: float


@dataclass(frozen=True)
class Frontier:
    """What a budget buys.

    Args:
        resource: along the x axis, such as `size`, in its own unit.
        objective: along the y axis, `loss` or another resource.
        points: the frontier, cheapest first.
        bounds: for the cost of each point, an objective that no plan of that cost is below.
        uniform: plans of one scheme everywhere.
        chosen: the plan that was taken, None where none was.
        limit: most of the resource that was allowed, None without a limit.
    """

    resource: str
    objective: str
    points: tuple[Point, ...]
    bounds: tuple[Point, ...] = ()
    uniform: tuple[Point, ...] = ()
    chosen: Point | None = None
    limit: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data; `from_dict` inverts it."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, object]) -> Frontier:
        """Reads what `to_dict` wrote.

        Raises:
            TypeError: when the data is no frontier.
            KeyError: when something is missing.
        """
        chosen, limit = data["chosen"], data["limit"]
        return Frontier(
            str(data["resource"]),
            str(data["objective"]),
            _points(data["points"]),
            _points(data["bounds"]),
            _points(data["uniform"]),
            None if chosen is None else _point(chosen),
            None if limit is None else _number(limit),
        )


def _points(data: object) -> tuple[Point, ...]:
    if not isinstance(data, list | tuple):
        raise TypeError("the points of its frontier are no list")
    return tuple(map(_point, data))


def _point(data: object) -> Point:
    if not isinstance(data, dict):
        raise TypeError("a point of its frontier is no record")
    return Point(str(data["name"]), _number(data["cost"]), _number(data["harm"]))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} in its frontier is no number")
    return float(value)
