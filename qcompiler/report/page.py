"""The report as one self-contained HTML page: no network, light and dark, sortable, printable."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from qcompiler.measure import LIMIT_DB
from qcompiler.report.frontier import svg
from qcompiler.report.model import LayerReport, Report
from qcompiler.report.words import bits_text, db_text, metric_text, ratio_text, seconds_text, share_text, size_text

# A near-exact layer would otherwise flatten the bars of all others.
_LONGEST_DB = 60.0


def html(report: Report) -> str:
    """The page as text.

    Every name is escaped, so that a model cannot inject markup; a content policy inside the page forbids any
    request.
    """
    template = files("qcompiler.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        size=size_text,
        db=db_text,
        share=share_text,
        bits=bits_text,
        ratio=ratio_text,
        seconds=seconds_text,
        metric=metric_text,
    )
    return environment.from_string(template).render(
        report=report,
        rows=_rows(report),
        steps=_steps(report),
        legend=_LEGEND,
        pictures=[svg(frontier) for frontier in report.frontiers],
    )


@dataclass(frozen=True)
class _Row:
    """One layer and the lengths of its bars in percent."""

    layer: LayerReport
    number: int
    worst: bool
    group: str
    sqnr_bar: float
    share_bar: float
    bytes_bar: float
    float_bar: float


_LEGEND = (("b2", "2 bits"), ("b4", "4 bits"), ("b8", "8 bits"), ("b16", "16 bits"), ("b32", "float"))
_GROUPS = ((2.99, "b2"), (5.99, "b4"), (9.99, "b8"), (17.0, "b16"))


def _group(bits: float) -> str:
    """Colour class of a nominal width; scales and zero points come on top, hence the limits."""
    return next((name for limit, name in _GROUPS if bits <= limit), "b32")


def _rows(report: Report) -> list[_Row]:
    worst = report.worst()
    measured = [layer.sqnr_db for layer in report.layers if layer.sqnr_db is not None]
    longest = min(max((value for value in measured if value < LIMIT_DB), default=_LONGEST_DB), _LONGEST_DB)
    most = max((layer.error_share or 0.0 for layer in report.layers), default=0.0)
    largest = max((max(layer.bytes, layer.float_bytes) for layer in report.layers), default=0)
    return [
        _Row(
            layer,
            number,
            layer.name in worst,
            _group(layer.bits),
            _percent(layer.sqnr_db or 0.0, longest),
            _percent(layer.error_share or 0.0, most),
            _percent(layer.bytes, largest),
            _percent(layer.float_bytes, largest),
        )
        for number, layer in enumerate(report.layers, 1)
    ]


def _percent(value: float, whole: float) -> float:
    return round(100 * min(max(value / whole, 0.0), 1.0), 2) if whole > 0 else 0.0


@dataclass(frozen=True)
class _TimedStep:
    """One pass: when it began and how long it took, in percent of all passes."""

    number: int
    text: str
    edits: int
    seconds: float
    peak_bytes: int
    error: float | None
    begin: float
    length: float


def _steps(report: Report) -> list[_TimedStep]:
    total = sum(step.seconds for step in report.steps)
    elapsed = 0.0
    found: list[_TimedStep] = []
    for step in report.steps:
        begin, length = _percent(elapsed, total), _percent(step.seconds, total)
        found.append(
            _TimedStep(step.number, step.text, step.edits, step.seconds, step.peak_bytes, step.error, begin, length)
        )
        elapsed += step.seconds
    return found
