"""A frontier as a picture: inline SVG whose colours are those of the page, light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from qcompiler.frontier import Frontier, Point
from qcompiler.report.words import seconds_text, size_text

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 18, 52
_TICKS = 5
_DECADES = 20.0
"""Numbers that differ by more than this factor are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class _Axis:
    """Numbers to pixels.

    Args:
        low: first number.
        high: last number.
        start: pixel of `low`.
        end: pixel of `high`.
        logarithmic: whether equal factors are equally far.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def at(self, value: float) -> float:
        """The pixel of a number, rounded; numbers outside lie on the edge."""
        value = min(max(value, self.low), self.high)
        low, high, value = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low or 1.0) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Evenly spaced numbers."""
        shares = [number / (_TICKS - 1) for number in range(_TICKS)]
        if self.logarithmic:
            return [self.low * (self.high / self.low) ** share for share in shares]
        return [self.low + (self.high - self.low) * share for share in shares]


def svg(frontier: Frontier) -> Markup:
    """The picture: frontier, bounds, uniform plans, the chosen plan and the limit; names are escaped."""
    every = [*frontier.points, *frontier.uniform, *([frontier.chosen] if frontier.chosen else [])]
    if not every:
        return Markup("")
    costs = [point.cost for point in every] + ([frontier.limit] if frontier.limit is not None else [])
    x = _axis(costs, _LEFT, _WIDTH - _RIGHT, False)
    y = _axis([point.harm for point in every], _HEIGHT - _BOTTOM, _TOP, True)
    inside = [point for point in frontier.bounds if not y.logarithmic or point.harm > 0]
    parts = [
        *(_tick_x(x.at(tick), _words(frontier.resource)(tick)) for tick in x.ticks()),
        *(_tick_y(y.at(tick), _words(frontier.objective)(tick)) for tick in y.ticks()),
        _title(_WIDTH / 2, _HEIGHT - 8, frontier.resource.replace("_", " ")),
        Markup('<g transform="translate(14 {}) rotate(-90)">{}</g>').format(
            (_TOP + _HEIGHT - _BOTTOM) / 2, _title(0, 0, _objective(frontier))
        ),
        _limit(frontier, x),
        _line("bound", inside, x, y),
        _line("front", frontier.points, x, y),
        *(_dot("front", point, frontier, x, y, 3) for point in frontier.points),
        *(_dot("uniform", point, frontier, x, y, 5) for point in frontier.uniform),
        *(_label(point, x, y) for point in frontier.uniform),
        *([_dot("chosen", frontier.chosen, frontier, x, y, 7)] if frontier.chosen else []),
    ]
    about = f"Frontier of {frontier.resource} and {frontier.objective}: {len(frontier.points)} plans"
    return Markup('<svg class="frontier" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, about, Markup("").join(part for part in parts if part)
    )


def _axis(values: Sequence[float], start: float, end: float, logarithmic: bool) -> _Axis:
    """An axis that holds positive values, or all of them on a plain one; a little more at both ends."""
    positive = [value for value in values if value > 0]
    if logarithmic and len(positive) == len(values) and max(values) > _DECADES * min(values):
        return _Axis(min(values) / 1.3, max(values) * 1.3, start, end, True)
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return _Axis(low - margin, high + margin, start, end, False)


def _words(resource: str) -> Callable[[float], str]:
    match resource:
        case "size" | "peak_memory":
            return lambda value: size_text(round(value))
        case "latency":
            return seconds_text
    return lambda value: f"{value:.3g}"


def _objective(frontier: Frontier) -> str:
    return "predicted loss" if frontier.objective == "loss" else frontier.objective.replace("_", " ")


def _tick_x(at: float, text: str) -> Markup:
    grid = Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(at, _TOP, _HEIGHT - _BOTTOM)
    return grid + _title(at, _HEIGHT - _BOTTOM + 16, text)


def _tick_y(at: float, text: str) -> Markup:
    grid = Markup('<line class="grid" x1="{1}" x2="{2}" y1="{0}" y2="{0}"/>').format(at, _LEFT, _WIDTH - _RIGHT)
    return grid + Markup('<text x="{}" y="{}" class="y">{}</text>').format(_LEFT - 6, at, text)


def _title(x: float, y: float, text: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="x">{}</text>').format(x, y, text)


def _limit(frontier: Frontier, x: _Axis) -> Markup:
    if frontier.limit is None:
        return Markup("")
    text = f"limit {_words(frontier.resource)(frontier.limit)}"
    return Markup('<line class="limit" x1="{0}" x2="{0}" y1="{1}" y2="{2}"><title>{3}</title></line>').format(
        x.at(frontier.limit), _TOP, _HEIGHT - _BOTTOM, text
    )


def _line(kind: str, points: Sequence[Point], x: _Axis, y: _Axis) -> Markup:
    """Steps: between two points nothing is better than the cheaper one."""
    path: list[str] = []
    for point in points:
        path.append(f"H{x.at(point.cost)}V{y.at(point.harm)}" if path else f"M{x.at(point.cost)} {y.at(point.harm)}")
    return Markup('<path class="{}" d="{}"/>').format(kind, "".join(path)) if len(points) > 1 else Markup("")


def _dot(kind: str, point: Point, frontier: Frontier, x: _Axis, y: _Axis, radius: int) -> Markup:
    words = f"{_words(frontier.resource)(point.cost)}, {_objective(frontier)} {_words(frontier.objective)(point.harm)}"
    text = f"{point.name}: {words}" if point.name else words
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
        kind, x.at(point.cost), y.at(point.harm), radius, text
    )


def _label(point: Point, x: _Axis, y: _Axis) -> Markup:
    return Markup('<text x="{}" y="{}" class="name">{}</text>').format(
        x.at(point.cost) + 8, y.at(point.harm) - 6, escape(point.name)
    )
