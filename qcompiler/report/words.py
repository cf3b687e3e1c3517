"""Numbers of a report as people read them; the terminal table and the head of the page share them."""

from __future__ import annotations

from qcompiler.measure import LIMIT_DB
from qcompiler.report.model import LayerReport


def size_text(count: int) -> str:
    """Bytes with a decimal unit: `812 B`, `3.4 kB`, `17 MB`."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"


def ratio_text(value: float) -> str:
    """How many times smaller: `3.81x smaller`; tiny models grow, their graph weighs more than their weights."""
    return f"{value:.2f}x smaller" if value >= 1 or value <= 0 else f"{1 / value:.2f}x larger"


def db_text(value: float | None) -> str:
    """Decibels: `23.4`, `exact` at the limit, a dash when not measured."""
    if value is None:
        return "–"
    return "exact" if value >= LIMIT_DB else "lost" if value <= -LIMIT_DB else f"{value:.1f}"


def share_text(value: float | None) -> str:
    """A part of one as percent, a dash when not measured."""
    return "–" if value is None else f"{100 * value:.1f} %"


def bits_text(layer: LayerReport) -> str:
    """Bits per weight: `4.5`, `8`, `8.03`; a dash when the layer has no weights."""
    return f"{layer.bits:.3g}" if layer.float_bytes else "–"


def seconds_text(value: float) -> str:
    """Wall time: `12 ms`, `3.4 s`, `2 min 5 s`."""
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value // 60)} min {int(value % 60)} s"


def metric_text(value: float | None) -> str:
    """The user's metric, a dash when there is none."""
    return "–" if value is None else f"{value:.6g}"
