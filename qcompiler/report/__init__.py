"""What a compilation did, as data, as a terminal table, and as one self-contained HTML page."""

from __future__ import annotations

from qcompiler.report.model import LatencyReport, LayerReport, Report
from qcompiler.report.page import html

__all__ = ["LatencyReport", "LayerReport", "Report", "html"]
