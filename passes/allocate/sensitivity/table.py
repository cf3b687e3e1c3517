"""Loss tables: sensitivities measured unit by unit, taken from the cache where they are known, made monotone.

Formula   one sensitivity: the mean of its losses over samples, not below 0. Several with `+` between them: the sum of
          their tables, each brought to mean 1, times its factor. Either is made monotone in bits
Shapes    [unit][option]
Promise   more bits are never predicted to be worse
Needs     what the sensitivities need
Source    sums of metrics on one scale after "QuantFace" (2025); own
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.pass_text import make_pass, pass_text
from qcompiler.passes.allocate.problem import Table, Unit
from qcompiler.passes.allocate.sensitivity.cache import Cache, subject_digest, unit_digest
from qcompiler.passes.allocate.sensitivity.method import Joint, Sensitivity, Subject
from qcompiler.passes.allocate.sensitivity.repair import monotone, orders
from qcompiler.passes.allocate.sensitivity.stability import Draw


@dataclass(frozen=True)
class Term:
    """One sensitivity of a sum.

    Args:
        factor: how much it counts.
        sensitivity: what is measured.
    """

    factor: float
    sensitivity: Sensitivity


@dataclass(frozen=True)
class Losses:
    """What was measured of all units.

    Args:
        units: in order.
        factors: of each term.
        rows: of each term, for each unit float64 [options, samples].
    """

    units: tuple[Unit, ...]
    factors: tuple[float, ...]
    rows: tuple[tuple[Tensor, ...], ...]

    def table(self, draw: Draw = torch.arange) -> Table:
        """Losses over the samples that are drawn, monotone in bits."""
        plain = self.plain(draw)
        return [monotone(row, pairs).tolist() for row, pairs in zip(plain, self._orders, strict=True)]

    def plain(self, draw: Draw = torch.arange) -> list[Tensor]:
        """Losses before they are made monotone: float64 [options] of each unit."""
        tables = [[row[:, draw(row.shape[1])].mean(1).clamp(min=0.0) for row in rows] for rows in self.rows]
        if len(tables) == 1:
            return tables[0]
        scales = [factor / _mean(table) for factor, table in zip(self.factors, tables, strict=True)]
        return [
            torch.stack([table[unit] * scale for table, scale in zip(tables, scales, strict=True)]).sum(0)
            for unit in range(len(self.units))
        ]

    @property
    def repaired(self) -> str:
        """A line about what making losses monotone changed; empty when nothing."""
        after = [torch.tensor(row, dtype=torch.float64) for row in self.table()]
        pairs = list(zip(self.plain(), after, strict=True))
        moved = sum(int((before != after).sum()) for before, after in pairs)
        if not moved:
            return ""
        shares = [(before - after).abs().max() / before.abs().max().clamp(min=1e-300) for before, after in pairs]
        most = float(torch.stack(shares).max())
        total = sum(len(before) for before, _ in pairs)
        return f"{moved} of {total} losses were not monotone in bits; repaired, by {most:.2g} of their unit's largest"

    @cached_property
    def _orders(self) -> list[list[tuple[int, int]]]:
        return [orders(unit) for unit in self.units]


def parse_terms(text: str, known: Sequence[type[Sensitivity]]) -> list[Term]:
    """Reads `name`, `name(option=value; option=value)`, or several with factors: `output + 0.5*ssim`.

    Raises:
        SpecError: for an unknown sensitivity, option or value.
    """
    return [_term(part.strip(), known) for part in text.split("+")]


def measure(terms: Sequence[Term], subject: Subject, units: Sequence[Unit], folder: str = "") -> Losses:
    """Measures what is not known yet.

    Args:
        terms: what to measure.
        subject: on what.
        units: with their options.
        folder: where losses are kept; empty keeps none.

    Raises:
        InputError: when data is missing, a loss is no number, or the folder cannot be written.
        UnsupportedError: for an operator that a sensitivity cannot judge.
    """
    rows = [tuple(_rows(term.sensitivity, subject, units, folder)) for term in terms]
    return Losses(tuple(units), tuple(term.factor for term in terms), tuple(rows))


def _rows(sensitivity: Sensitivity, subject: Subject, units: Sequence[Unit], folder: str) -> Iterator[Tensor]:
    """The losses of each unit; only those that the cache lacks are measured, each kept as soon as it is known."""
    if not folder:
        for unit, losses in zip(units, sensitivity.losses(subject, units), strict=True):
            yield _finite(sensitivity, unit, losses)
        return
    metric = pass_text(sensitivity)
    if isinstance(sensitivity, Joint):
        metric += " ".join(map(unit_digest, units))
    cache = Cache(Path(folder) / subject_digest(subject, metric), subject.ctx.log)
    known = [cache.read(unit) for unit in units]
    if isinstance(sensitivity, Joint) and None in known:
        known = [None] * len(units)
    missing = [unit for unit, losses in zip(units, known, strict=True) if losses is None]
    if len(missing) < len(units):
        subject.ctx.log(f"{sensitivity.name}: {len(units) - len(missing)} of {len(units)} units were measured before")
    measured = sensitivity.losses(subject, missing) if missing else iter(())
    for unit, losses in zip(units, known, strict=True):
        if losses is None:
            losses = _finite(sensitivity, unit, next(measured))
            cache.write(unit, losses)
        yield losses


def _finite(sensitivity: Sensitivity, unit: Unit, losses: Tensor) -> Tensor:
    if not bool(torch.isfinite(losses).all()):
        raise SpecError(
            f"sensitivity '{sensitivity.name}' finds no finite number for '{unit.name}'",
            mend="choose another one, such as output; the results may hold infinities under some option",
        )
    return losses.double()


def _term(text: str, known: Sequence[type[Sensitivity]]) -> Term:
    before, star, after = text.partition("*")
    name, bracket, body = (after if star else text).strip().partition("(")
    if bool(bracket) != body.endswith(")"):
        raise SpecError(f"the brackets of '{text}' do not match", mend="write name(option=value; option=value)")
    try:
        factor = float(before) if star else 1.0
    except ValueError:
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        raise SpecError(f"'{before}' is no factor of a sensitivity", mend="for example output + 0.5*ssim")
    classes = {kind.name: kind for kind in known}
    if name.strip() not in classes:
        raise SpecError(f"there is no sensitivity '{name.strip()}'", mend=f"sensitivities: {', '.join(classes)}")
    words = [word.partition("=") for word in body.rstrip(")").split(";") if word.strip()]
    made = make_pass(classes[name.strip()], {key.strip(): value.strip() for key, _, value in words})
    return Term(factor, made)


def _mean(table: Sequence[Tensor]) -> float:
    found = torch.cat(list(table))
    return max(float(found.mean()), 1e-300)
