"""The cause of every lost decibel: what each tensor and cause adds to the error of the results, and what mends it."""

from __future__ import annotations

from qcompiler.explain.driver import Subject, explain
from qcompiler.report.explanation import Cause, Explanation, Finding, FindingKind, Mend, Part

__all__ = ["Cause", "Explanation", "Finding", "FindingKind", "Mend", "Part", "Subject", "explain"]
