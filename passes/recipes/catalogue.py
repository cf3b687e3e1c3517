"""All passes there are: the families' own tuples, one after the other."""

from __future__ import annotations

from qcompiler.passes import allocate, calibrate, canonical, lower, solve, transform
from qcompiler.pipeline import Pass


def catalogue() -> tuple[type[Pass], ...]:
    """Every pass class, in the order in which a compilation usually runs them."""
    return (
        *canonical.PASSES,
        *allocate.PASSES,
        *transform.PASSES,
        *lower.PASSES,
        *calibrate.PASSES,
        *solve.PASSES,
    )
