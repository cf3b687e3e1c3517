"""Finds the groups, lets the method propose, measures, and folds the best proposal in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from qcompiler.ir.program import Program
from qcompiler.passes.transform import surgery
from qcompiler.passes.transform.smoothing.method import Smoothing, SmoothingMethod, SmoothingSite
from qcompiler.passes.transform.smoothing.online import put_online
from qcompiler.passes.transform.smoothing.sites import Known, Place, places, requests
from qcompiler.pipeline import Context

__all__ = ["requests", "smooth"]


class SmoothingPass(SmoothingMethod, Protocol):
    """A method with the options that all passes of the family have."""

    @property
    def online(self) -> bool:
        """Whether values that nothing can absorb a scale for are multiplied when the model runs."""
        ...

    @property
    def guard(self) -> bool:
        """Whether a group that comes out no better is left alone."""
        ...

    @property
    def samples(self) -> int:
        """How many samples of each value errors are measured on."""
        ...


def smooth(program: Program, ctx: Context, method: SmoothingPass) -> Program:
    """Smooths every group for which the method has something better than nothing.

    Raises:
        InputError: without calibration data.
    """
    known = Known(program, ctx.stats, method)
    found = places(program, method.online)
    folded = online = 0
    for number, place in enumerate(found, 1):
        site = known.site(place, ctx.seed)
        chosen = best(site, method.candidates(site), method.guard)
        if chosen is not None:
            put(program, place, chosen, method.name)
            known.note(site, place, chosen)
            folded, online = folded + (place.group is not None), online + (place.group is None)
        else:
            for layer in dict.fromkeys(layer for value in place.seen for layer in value.layers):
                ctx.refuse(layer, f"no scale of what it reads, {place.name}, lowers its error", depth=1)
        ctx.progress(number, len(found))
    ctx.log(f"{folded} groups smoothed, {online} values multiplied online, {len(found) - folded - online} left alone")
    return program


def best(site: SmoothingSite, candidates: Sequence[Smoothing], guard: bool) -> Smoothing | None:
    """The candidate with the least error on the samples; None when doing nothing is as good."""
    usable = [candidate for candidate in candidates if not _is_identity(candidate)]
    if len(usable) < 2 and not guard:
        return usable[0] if usable else None
    least, chosen = site.error(None) if guard else math.inf, None
    for candidate in usable:
        error = site.error(candidate)
        if error < least:
            least, chosen = error, candidate
    return chosen


def put(program: Program, place: Place, smoothing: Smoothing, step: str) -> None:
    """Divides the values of a place by the scale, after taking off the shift."""
    if place.group is None:
        put_online(program, place.seen[0], smoothing, step)
        return
    shape = (place.fibres, place.size)
    surgery.scale(program, place.group, (smoothing.scale ** (-1 / place.exponent)).reshape(shape), step)
    if smoothing.shift is not None and bool(smoothing.shift.any()):
        # Behind the scale: a shift may add a constant that the group does not know of.
        surgery.shift(program, place.group, (smoothing.shift / smoothing.scale).reshape(shape), step)


def _is_identity(smoothing: Smoothing) -> bool:
    shifted = smoothing.shift is not None and bool(smoothing.shift.any())
    return not shifted and bool((smoothing.scale == 1).all())
