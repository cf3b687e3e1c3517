"""What a compilation did, as data and as a terminal table; `qcompiler.page` makes the page of it."""

from __future__ import annotations

from qcompiler.report.model import LatencyReport, LayerReport, Report

__all__ = ["LatencyReport", "LayerReport", "Report"]
