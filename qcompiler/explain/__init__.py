"""The cause of every lost decibel: what each tensor and each cause adds to the error of the results, and what mends it."""

from __future__ import annotations


from qcompiler.explain.model import Cause, Explanation, Finding, FindingKind, Mend, Part

__all__ = ["Cause", "Explanation", "Finding", "FindingKind", "Mend", "Part", "Subject", "explain"]
