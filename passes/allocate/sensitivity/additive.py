"""Additive terms that rank whole plans as their harms do, finer options never behind coarser ones.

Formula   minimise sum over plans (g(harm) - c - sum_u x_u[k_u])^2 + sum_uk r_uk (x_u[k] - b p_uk)^2 such that
          x_u[k] <= x_u[l] wherever k is at least as fine as l; p = log(1 + toggled / s), s the mean sum of toggled
          losses; r_uk = ridge / (0.1 + p_uk / mean p); b of the fit without the order. g is the logarithm, the root or
          the harm itself
Shapes    float64 [options] per unit, harms float64 [plans]
Promise   monotone in every unit; what is chosen is chosen by the rank correlation of plans that were left out
Needs     several plans for each option
Source    main effects of a factorial design, Fisher 1935; backfitting of isotonic terms, Bacchetti 1989, "Additive
          Isotonic Models"; the prior is own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import torch
from torch import Tensor

from qcompiler.passes.allocate.sensitivity.repair import monotone
from qcompiler.passes.allocate.sensitivity.stability import spearman

Link = Literal["logarithm", "root", "identity"]
Order = Sequence[tuple[int, int]]
"""Pairs of options of which the first is at least as fine."""
RIDGES = (3.0, 10.0, 30.0, 100.0, 300.0)
_LEAST = 1e-12
_FREE = 1e-6
"""Ridge on the weight of the toggled losses: hardly any."""
_SURE = 0.1
"""How far terms that toggling finds harmless may be from 0, as a part of what the mean term may."""
_SWEEPS = 100
_STILL = 1e-4
"""Terms have settled when a sweep moves none by more than this part of the spread of what is fitted."""


@dataclass(frozen=True)
class Setting:
    """How terms are fitted.

    Args:
        prior: number of the toggled losses that they begin with.
        link: what of the harm is a sum of terms.
        ridge: how strongly terms keep to the prior, more so where that is small.
    """

    prior: int
    link: Link
    ridge: float


def choose(
    alone: Sequence[Sequence[Tensor]], plans: Sequence[Sequence[int]], harms: Tensor, ridges: Sequence[float] = RIDGES
) -> Setting:
    """The setting under which plans that are left out of the fit are ranked best.

    Args:
        alone: of each prior, float64 [options] of each unit.
        plans: options by unit.
        harms: float64 [plans].
        ridges: to choose from.
    """
    settings = [Setting(*words) for words in product(range(len(alone)), get_args(Link), ridges)]
    return max(settings, key=lambda setting: _agreement(alone[setting.prior], plans, harms, setting))


def fit(
    alone: Sequence[Tensor],
    plans: Sequence[Sequence[int]],
    harms: Tensor,
    setting: Setting,
    orders: Sequence[Order],
) -> list[Tensor]:
    """The terms of every unit: float64 [options].

    Args:
        alone: the toggled losses that the setting speaks of, float64 [options] of each unit.
        plans: options by unit.
        harms: float64 [plans].
        setting: as chosen.
        orders: of each unit.
    """
    wanted, sizes = linked(harms, setting.link), [len(row) for row in alone]
    columns, solved = _system(alone, plans, setting.ridge)
    found = solved @ wanted
    prior = _prior(alone)
    pulls, ridges = ((found[1].clamp(min=0.0) * prior).split(sizes), _ridges(prior, setting.ridge).split(sizes))
    terms = [pull + own for pull, own in zip(pulls, found[2:].split(sizes), strict=True)]
    taken = columns[:, 2:].split(sizes, 1)
    rest = wanted - sum((part @ row for part, row in zip(taken, terms, strict=True)), torch.zeros_like(wanted))
    still = _STILL * float(wanted.std(correction=0))
    for _ in range(_SWEEPS):
        moved = 0.0
        rest = rest - rest.mean()
        for unit, (part, pull, ridge) in enumerate(zip(taken, pulls, ridges, strict=True)):
            rest = rest + part @ terms[unit]
            weights = part.sum(0) + ridge
            fresh = monotone((part.T @ rest + ridge * pull) / weights, orders[unit], weights)
            moved = max(moved, float((fresh - terms[unit]).abs().max()))
            terms[unit], rest = fresh, rest - part @ fresh
        if moved <= still:
            break
    return terms


def linked(harms: Tensor, link: Link) -> Tensor:
    """What of the harm is a sum of terms."""
    match link:
        case "logarithm":
            return harms.clamp(min=_LEAST).log()
        case "root":
            return harms.clamp(min=0.0).sqrt()
        case "identity":
            return harms


def _agreement(alone: Sequence[Tensor], plans: Sequence[Sequence[int]], harms: Tensor, setting: Setting) -> float:
    """Rank correlation of each plan's harm with its prediction by all others, whatever the order of options."""
    wanted = linked(harms, setting.link)
    columns, solved = _system(alone, plans, setting.ridge)
    # What a plan would be predicted without itself follows from how much it weighs in its own prediction.
    own = (columns * solved.T).sum(1).clamp(max=1 - _FREE)
    return spearman(wanted - (wanted - columns @ (solved @ wanted)) / (1 - own), harms)


def _system(alone: Sequence[Tensor], plans: Sequence[Sequence[int]], ridge: float) -> tuple[Tensor, Tensor]:
    """Columns (one, the sum of the prior, each option) and what solves for their factors: [plans, n], [n, plans]."""
    sizes = [len(row) for row in alone]
    starts = torch.tensor([0, *sizes]).cumsum(0)[:-1]
    taken = torch.zeros(len(plans), sum(sizes), dtype=torch.float64)
    taken[torch.arange(len(plans))[:, None], starts + torch.tensor([list(plan) for plan in plans])] = 1
    prior = _prior(alone)
    columns = torch.cat([torch.ones_like(taken[:, :1]), (taken @ prior)[:, None], taken], 1)
    penalty = torch.cat([prior.new_full((2,), _FREE), _ridges(prior, ridge)])
    return columns, torch.linalg.solve(columns.T @ columns + penalty.diag(), columns.T)


def _prior(alone: Sequence[Tensor]) -> Tensor:
    scale = max(float(sum(row.mean() for row in alone)), _LEAST)
    return torch.cat([torch.log1p(row / scale) for row in alone])


def _ridges(prior: Tensor, ridge: float) -> Tensor:
    """By option: the larger the prior, the further from it a term may be."""
    return ridge / (_SURE + prior / prior.mean().clamp(min=_LEAST))
